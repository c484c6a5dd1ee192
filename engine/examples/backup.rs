//! Backs a store up while a publisher is at work, then opens the backup and counts what it holds.
//!
//! Run with `cargo run -p fanlog --example backup`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use fanlog::{BackupFiles, Config, Engine, Message, Result};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = Config { segment_bytes_max: 1 << 20, ..Config::default() };
    let engine = Engine::open(dir.path().join("store"), config)?;
    engine.declare_queue("orders")?;
    publish(&engine, 5000)?;

    let done = AtomicBool::new(false);
    let target = dir.path().join("backup");
    let report = thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                publish(&engine, 100)?;
            }
            Ok::<(), fanlog::Error>(())
        });
        let report = engine.backup_with(&target, BackupFiles::Linked, &mut |progress| {
            println!("{} of {} bytes", progress.bytes_done, progress.bytes_total);
        });
        done.store(true, Ordering::Relaxed);
        publishing.join().expect("the publisher does not panic")?;
        report
    })?;
    println!("{} segments linked, {} copied", report.linked_segments, report.copied_segments);

    // From here on it is a store like any other.
    let copy = Engine::open(&target, Config::default())?;
    let messages = copy.queue("orders")?.messages;
    println!("the backup holds {messages} messages, the store goes on");
    assert!(messages >= 5000);
    assert_eq!(messages, report.end.0);
    Ok(())
}

fn publish(engine: &Engine, count: usize) -> Result<()> {
    let publisher = engine.publisher();
    let payload = [7; 1000];
    let tickets: Result<Vec<_>> =
        (0..count).map(|_| publisher.publish(&Message::new("", "orders", &payload))).collect();
    for ticket in tickets? {
        ticket.wait()?;
    }
    Ok(())
}
