//! A crash: a process that publishes is killed, the store is opened again and tells what it found.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use fanlog::{Config, Engine, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(dir) = std::env::args().nth(1) {
        return Ok(publish_for_ever(&dir)?);
    }
    let dir = tempfile::tempdir()?;
    let mut child = Command::new(std::env::current_exe()?);
    let mut child = child.arg(dir.path()).stdout(Stdio::piped()).spawn()?;
    // A line comes only after the confirm of its message.
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    let first = lines.by_ref().take(100).map_while(Result::ok).count();
    child.kill()?;
    child.wait()?;
    let confirmed = first + lines.map_while(Result::ok).count();

    let engine = Engine::open(dir.path(), Config { create: false, ..Config::default() })?;
    let found = engine.recovery();
    println!("clean: {}, epoch {}, took {:?}", found.clean, found.epoch, found.duration);
    println!("replayed {} batches, cut {} tails", found.replayed_batches, found.cuts.len());
    let stored = engine.queue("q")?.messages;
    println!("{confirmed} messages were confirmed, {stored} are stored");
    assert!(stored >= confirmed as u64, "a confirmed message is lost");
    Ok(())
}

fn publish_for_ever(dir: &str) -> fanlog::Result<()> {
    let engine = Engine::open(dir, Config::default())?;
    engine.declare_queue("q")?;
    let publisher = engine.publisher();
    loop {
        let confirm = publisher.publish_confirmed(&Message::new("", "q", b"payload"))?;
        println!("{}", confirm.first_offset);
    }
}
