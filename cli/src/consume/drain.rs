//! One visit that takes messages out of the queue: print, flush, ack, in rounds.

use std::time::{Duration, Instant};

use fanlog::{Consumer, ConsumerOptions, Delivery, DeliveryTag, Engine};

use super::{Consume, Run, Visit, line::Line};
use crate::{
    failure::Failure,
    store::{self, IfMissing, WAIT_MAX},
};

/// Messages per round, and so per flush and durable ack.
const ROUND_MESSAGES_MAX: usize = 1024;
/// Messages held by the consumer: while one round is acked the next is under way.
const PREFETCH: u32 = 2048;
/// How long is waited for a message before it is asked whether there is any.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// Takes what the queue has, at most `run.left` messages, and closes the store.
pub(super) fn visit(command: &Consume, run: &mut Run) -> Result<Visit, Failure> {
    match visit_open(command, run) {
        Ok(took) => Ok(Visit::Took(took)),
        Err(failure) => command.opened_elsewhere(failure),
    }
}

fn visit_open(command: &Consume, run: &mut Run) -> Result<u64, Failure> {
    if command.waits() && is_empty(command)? {
        return Ok(0);
    }
    let around = command.damage.choice();
    let engine = command.settings.open_around(&command.dir, IfMissing::Fail, around)?;
    run.gaps += store::tell_gaps(&engine, &command.dir);
    store::session(engine, |engine| drain(engine, command, run))
}

/// Looks without writing, so that waiting does not wear the store.
fn is_empty(command: &Consume) -> Result<bool, Failure> {
    let engine = store::look_around(&command.dir, command.damage.choice())?;
    if !engine.recovery().gaps.is_empty() {
        return Ok(false);
    }
    store::session(engine, |engine| {
        let queues = engine.topology().queues;
        // A queue that is not there is the consumer's error to tell.
        Ok(queues.iter().any(|queue| queue.name == command.queue && queue.messages == 0))
    })
}

fn drain(engine: &Engine, command: &Consume, run: &mut Run) -> Result<u64, Failure> {
    let options =
        ConsumerOptions { tag: "fanlog-consume".to_owned(), ..ConsumerOptions::prefetch(PREFETCH) };
    let consumer = engine.consume(&command.queue, options)?;
    let mut took = 0;
    while run.left > 0 && !run.is_stopped() {
        let received = round(engine, &consumer, command, run)?;
        took += received;
        if received == 0 {
            break;
        }
    }
    Ok(took)
}

/// Receives, prints, flushes and acks some messages; returns how many were received.
fn round(
    engine: &Engine,
    consumer: &Consumer,
    command: &Consume,
    run: &mut Run,
) -> Result<u64, Failure> {
    let mut printed: Vec<DeliveryTag> = Vec::new();
    let mut received = 0;
    let mut next = first(engine, consumer, command)?;
    while let Some(delivery) = next {
        received += 1;
        if let Some(tag) = print(delivery, command, run)? {
            printed.push(tag);
        }
        let full = printed.len() == ROUND_MESSAGES_MAX || run.left == 0;
        next = if full { None } else { consumer.try_recv()? };
    }
    run.output.flush()?;
    ack(consumer, &printed)?;
    Ok(received)
}

/// The next message; `None` once the queue has none that is ready. Handing one out may have to wait
/// for the disk.
fn first(
    engine: &Engine,
    consumer: &Consumer,
    command: &Consume,
) -> Result<Option<Delivery>, Failure> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let found = consumer.recv_timeout(LOOK_AFTER)?;
        if found.is_some() {
            return Ok(found);
        }
        if engine.queue(&command.queue)?.ready == 0 || Instant::now() >= deadline {
            // What was dealt since then waits in the inbox, and is not ready any more.
            return Ok(consumer.try_recv()?);
        }
    }
}

/// Prints one message and returns its tag if it is to be acked after the flush.
fn print(
    delivery: Delivery,
    command: &Consume,
    run: &mut Run,
) -> Result<Option<DeliveryTag>, Failure> {
    if let Some(damage) = delivery.damage() {
        command.tell_damage(damage);
        run.damaged += 1;
        let tag = delivery.keep();
        return Ok(command.ack_damaged.then_some(tag));
    }
    Line::of_delivery(&delivery).print(&mut run.output, command.json)?;
    run.left -= 1;
    Ok(Some(delivery.keep()))
}

/// On return every one of `tags` is acked, durably (C1).
fn ack(consumer: &Consumer, tags: &[DeliveryTag]) -> Result<(), Failure> {
    // One by one, because a damaged message between them is not to be acked with them.
    let acks = tags.iter().map(|tag| consumer.ack(*tag)).collect::<Result<Vec<_>, _>>()?;
    for ack in acks {
        ack.wait_timeout(WAIT_MAX)?;
    }
    Ok(())
}
