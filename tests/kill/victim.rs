//! A process made to be killed: `fanlog-victim DIR FIRST`.
//!
//! Opens the store, publishes messages from number FIRST on for ever, and consumes both queues. It
//! tells on standard output what it knows, one line each, only once it is so:
//!
//! ```text
//! O                  the store is open
//! C <id> <offset>    the message is confirmed
//! D <queue> <id> <offset>   the message was received (told before it is acked)
//! A <queue> <id>     the ack is durable
//! ```

use std::io::Write;
use std::thread;
use std::time::Duration;

use fanlog::{ConsumerOptions, Engine, ExchangeKind, Message, Ticket};
use fanlog_tests::model::{Id, payload};
use fanlog_tests::random::Random;
use fanlog_tests::stream::{KEY, PUBLISHERS, WINDOW, config, planned};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(first)) = (arguments.next(), arguments.next()) else {
        return Err("usage: fanlog-victim DIR FIRST".into());
    };
    let first: Id = first.parse()?;
    let engine = Engine::open(dir, config())?;
    engine.declare_exchange("fan", ExchangeKind::Fanout)?;
    for queue in ["a", "b"] {
        engine.declare_queue(queue)?;
        engine.bind(queue, "fan", "")?;
    }
    tell("O")?;
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let engine = &engine;
                scope.spawn(move || publish(engine, first + publisher))
            })
            .collect();
        for (queue, salt) in [("a", 1), ("a", 2), ("b", 3)] {
            let engine = &engine;
            scope.spawn(move || consume(engine, queue, first as u64 + salt));
        }
        for publisher in publishers {
            publisher.join().map_err(|_| "a publisher panicked")??;
        }
        Ok(())
    })
}

/// One line, in one write.
fn tell(line: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    Ok(())
}

fn publish(engine: &Engine, first: Id) -> Outcome {
    let publisher = engine.publisher();
    let mut waiting: Vec<(Id, Ticket)> = Vec::new();
    for id in (first..).step_by(PUBLISHERS) {
        let plan = planned(id);
        let bytes = payload(id, plan.bytes);
        let mut message = Message::new(plan.exchange, KEY, &bytes);
        if plan.buffered {
            message = message.buffered();
        }
        waiting.push((id, publisher.publish(&message)?));
        if waiting.len() == WINDOW {
            // Half of them: more than one is under way all the time.
            for (id, ticket) in waiting.drain(..WINDOW / 2) {
                let confirm = ticket.wait()?;
                tell(&format!("C {id} {}", confirm.first_offset))?;
            }
        }
    }
    Ok(())
}

fn consume(engine: &Engine, queue: &str, seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    loop {
        let consumer = engine.consume(queue, ConsumerOptions::prefetch(40))?;
        for _ in 0..100 {
            let Some(delivery) = consumer.recv_timeout(Duration::from_millis(20))? else {
                continue;
            };
            let start = delivery.payload().first_chunk::<8>().ok_or("a short payload")?;
            let id = u64::from_le_bytes(*start);
            tell(&format!("D {queue} {id} {}", delivery.offset()))?;
            match random.below(10) {
                0 => drop(delivery),
                1 => {
                    delivery.keep();
                }
                2..5 => {
                    delivery.ack()?.wait()?;
                    tell(&format!("A {queue} {id}"))?;
                }
                _ => drop(delivery.ack()?),
            }
        }
    }
}
