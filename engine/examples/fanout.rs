//! One fanout exchange, three queues: each queue gets every message, and the log holds it once.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use fanlog::{Config, ConsumerOptions, Engine, ExchangeKind, Message, Ticket};

const MESSAGES: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(dir.path(), Config::default())?;
    engine.declare_exchange("results", ExchangeKind::Fanout)?;
    let queues = ["query", "monitor", "link"];
    for queue in queues {
        engine.declare_queue(queue)?;
        engine.bind(queue, "results", "")?;
    }

    // Publish first, wait later: one sync confirms many messages.
    let publisher = engine.publisher();
    let publish = |n| publisher.publish(&Message::new("results", "", &payload(n)));
    let tickets: Vec<Ticket> = (0..MESSAGES).map(publish).collect::<Result<_, _>>()?;
    tickets.iter().try_for_each(|ticket| ticket.wait().map(drop))?;

    for queue in queues {
        let consumer = engine.consume(queue, ConsumerOptions::default())?;
        let mut seen = 0;
        while seen < MESSAGES {
            let batch = consumer.recv_batch(256, Duration::from_secs(5))?;
            seen += batch.len();
            batch.ack()?;
        }
        println!("{queue} got {seen} messages");
    }
    let stats = engine.stats();
    let (payload, log) = (stats.published_bytes, stats.log_bytes_written);
    println!("{payload} bytes of payload, {log} bytes of log, {} syncs", stats.syncs);
    engine.close(Duration::from_secs(5))?;
    Ok(())
}

fn payload(n: usize) -> Vec<u8> {
    format!("result {n:04} {}", "x".repeat(1000)).into_bytes()
}
