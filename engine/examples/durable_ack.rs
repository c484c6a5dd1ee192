//! Acks that are waited for: a message acked so never comes again, whatever happens next.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use fanlog::{Config, ConsumerOptions, Engine, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(dir.path(), Config::default())?;
    engine.declare_queue("payments")?;
    for payment in ["first", "second", "third"] {
        let message = Message::new("", "payments", payment.as_bytes());
        engine.publisher().publish_confirmed(&message)?;
    }
    let consumer = engine.consume("payments", ConsumerOptions::default())?;
    let first = consumer.recv()?;
    let second = consumer.recv()?;
    // On return of `wait` the ack is on disk. An ack that is not waited for is written with the
    // next batch, at the latest after `Config::ack_delay_max`.
    first.ack()?.wait()?;
    // Given back: it comes again, at its old place, flagged as redelivered.
    second.nack(true)?;
    drop(consumer);
    engine.close(Duration::from_secs(5))?;

    let engine = Engine::open(dir.path(), Config { create: false, ..Config::default() })?;
    let consumer = engine.consume("payments", ConsumerOptions::default())?;
    while let Some(delivery) = consumer.recv_timeout(Duration::from_millis(100))? {
        let text = String::from_utf8_lossy(delivery.payload()).into_owned();
        println!("{text}, redelivered: {}", delivery.redelivered());
        delivery.ack()?.wait()?;
    }
    println!("left: {}", engine.queue("payments")?.messages);
    Ok(())
}
