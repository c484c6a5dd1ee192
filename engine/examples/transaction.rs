//! A worker that takes an order and publishes its invoice, both or neither, whatever crashes when.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use fanlog::{Config, ConsumerOptions, Engine, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(dir.path(), Config::default())?;
    engine.declare_queue("orders")?;
    engine.declare_queue("invoices")?;
    for order in ["one book", "two pens"] {
        engine.publisher().publish(&Message::new("", "orders", order.as_bytes()))?.wait()?;
    }

    let consumer = engine.consume("orders", ConsumerOptions::default())?;
    let mut transaction = engine.begin();
    let order = consumer.recv()?;
    let invoice = format!("for {}: 12.50", String::from_utf8_lossy(order.payload()));
    transaction.publish(&Message::new("", "invoices", invoice.as_bytes()))?;
    transaction.ack(order)?;
    // One write for both. On return both are durable.
    transaction.commit()?.wait()?;

    transaction.publish(&Message::new("", "invoices", b"for two pens: ?"))?;
    transaction.ack(consumer.recv()?)?;
    // The price is not known: nothing took place, and the order is in its queue again.
    transaction.roll_back();

    for queue in ["orders", "invoices"] {
        println!("{queue}: {}", engine.queue(queue)?.messages);
    }
    engine.close(std::time::Duration::from_secs(10))?;
    Ok(())
}
