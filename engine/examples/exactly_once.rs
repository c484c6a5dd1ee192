//! A publisher that crashes, does not know what got through, and publishes all of it again.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use fanlog::{Config, Engine, Error, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let readings = ["230 V", "231 V", "229 V"];
    {
        let engine = Engine::open(dir.path(), Config::default())?;
        engine.declare_queue("readings")?;
        let meter = engine.declare_publisher("meter 7")?;
        for (number, reading) in (1..).zip(&readings[..2]) {
            meter.publish(number, &Message::new("", "readings", reading.as_bytes()))?.wait()?;
        }
        // Here the process ends.
    }

    let engine = Engine::open(dir.path(), Config::default())?;
    let meter = match engine.named_publisher("meter 7") {
        Err(Error::NotFound { .. }) => {
            return Err("it was forgotten: who knows what is stored".into());
        }
        other => other?,
    };
    println!("stored up to number {}", meter.last_sequence());
    for (number, reading) in (1..).zip(readings) {
        let ticket = meter.publish(number, &Message::new("", "readings", reading.as_bytes()))?;
        let repeat = ticket.is_repeat();
        ticket.wait()?;
        println!("{number}: {}", if repeat { "was there" } else { "is stored now" });
    }
    println!("messages: {}", engine.queue("readings")?.messages);
    engine.close(std::time::Duration::from_secs(10))?;
    Ok(())
}
