//! Looking inside: statistics, topology, segments, a queue's messages, and a check of everything.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use fanlog::{Config, Engine, ExchangeKind, Message, Ticket};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = Config { segment_bytes_max: 256 << 10, ..Config::default() };
    let engine = Engine::open(dir.path(), config)?;
    engine.declare_exchange("logs", ExchangeKind::Direct)?;
    engine.declare_queue("errors")?;
    engine.bind("errors", "logs", "error")?;
    let publisher = engine.publisher();
    let publish =
        |n: u32| publisher.publish(&Message::new("logs", "error", &[n.to_le_bytes()[0]; 1000]));
    let tickets: Vec<Ticket> = (0..1000).map(publish).collect::<Result<_, _>>()?;
    tickets.iter().try_for_each(|ticket| ticket.wait().map(drop))?;

    let topology = engine.topology();
    for binding in &topology.bindings {
        println!("{} --[{}]--> {}", binding.exchange, binding.routing_key, binding.queue);
    }
    for queue in &topology.queues {
        println!("{}: {} messages, {} bytes", queue.name, queue.messages, queue.bytes);
    }
    for segment in engine.segments() {
        let (first, end) = (segment.first_offset, segment.end_offset);
        println!(
            "{} {}: {first}..{end}, {} bytes live",
            segment.number, segment.state, segment.live_bytes
        );
    }
    let stats = engine.stats();
    let (p50, p99) = (stats.commit_us.p50, stats.commit_us.p99);
    println!("backend {}, {} batches, p50 {p50} us, p99 {p99} us", stats.backend, stats.batches);
    let second = engine.browse("errors")?.nth(1).transpose()?;
    println!("second message: {} bytes", second.map_or(0, |message| message.payload.len()));
    let report = engine.check(&mut |_| {})?;
    println!("checked {} messages, {} problems", report.messages, report.problems.len());
    Ok(())
}
