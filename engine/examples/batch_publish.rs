//! Batches: several messages stored together or not at all, one ticket for all of them.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use fanlog::{Config, Engine, ErrorKind, ExchangeKind, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(dir.path(), Config::default())?;
    engine.declare_exchange("orders", ExchangeKind::Direct)?;
    for key in ["billing", "shipping"] {
        engine.declare_queue(key)?;
        engine.bind(key, "orders", key)?;
    }
    let publisher = engine.publisher();

    let order = [
        Message::new("orders", "billing", b"order 1: 12.50").headers(b"customer=7"),
        Message::new("orders", "shipping", b"order 1: one book"),
    ];
    let confirm = publisher.publish_batch(&order)?.wait()?;
    println!("{} messages from offset {} on", confirm.messages, confirm.first_offset);

    // One of these has nowhere to go, so none is stored.
    let order = [
        Message::new("orders", "billing", b"order 2: 3.20"),
        Message::new("orders", "gift wrapping", b"order 2: blue paper"),
    ];
    let refused = publisher.publish_batch(&order).err();
    println!(
        "the second order: {}",
        refused.as_ref().map_or_else(String::new, ToString::to_string)
    );
    assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Unroutable));
    for queue in engine.topology().queues {
        println!("{} holds {} messages of {} bytes", queue.name, queue.messages, queue.bytes);
    }
    Ok(())
}
