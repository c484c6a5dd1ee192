//! Consumers of the soak, each with a habit of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use fanlog::{Consumer, ConsumerOptions, Engine};

/// Messages that the one who keeps some keeps at the most.
pub(super) const HELD_MAX: usize = 20_000;
/// Of so many it keeps one.
const KEEPS_ONE_OF: u64 = 50;
/// Messages fetched at a time.
const FETCH: usize = 1024;
/// It looks again after so long whether it is to stop.
const WAIT: Duration = Duration::from_millis(50);

/// What a consumer does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// It acks all at once.
    Steady,
    /// It keeps some for long, and acks the oldest of these when there are too many.
    Keeping,
    /// It comes for half of the time, and acks all that gathered.
    ComesAndGoes,
}

impl Habit {
    pub(super) const ALL: [Self; 3] = [Self::Steady, Self::Keeping, Self::ComesAndGoes];
}

/// Consumes a queue until `stop` says so.
pub(super) fn take(
    engine: &Engine,
    queue: &str,
    habit: Habit,
    half: Duration,
    stop: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let consumer = engine.consume(queue, ConsumerOptions::prefetch(65_536))?;
    let mut held = VecDeque::new();
    let mut seen = 0;
    let began = Instant::now();
    while !stop() {
        let part = began.elapsed().as_nanos() / half.as_nanos().max(1);
        if habit == Habit::ComesAndGoes && part.is_multiple_of(2) {
            std::thread::sleep(WAIT);
            continue;
        }
        let batch = consumer.recv_batch(FETCH, WAIT)?;
        if habit == Habit::Keeping {
            keep_some(&consumer, batch.keep(), &mut held, &mut seen)?;
        } else {
            drop(batch.ack()?);
        }
    }
    Ok(())
}

fn keep_some(
    consumer: &Consumer,
    tags: Vec<fanlog::DeliveryTag>,
    held: &mut VecDeque<fanlog::DeliveryTag>,
    seen: &mut u64,
) -> anyhow::Result<()> {
    for tag in tags {
        *seen += 1;
        if seen.is_multiple_of(KEEPS_ONE_OF) {
            held.push_back(tag);
        } else {
            drop(consumer.ack(tag)?);
        }
        if held.len() > HELD_MAX
            && let Some(oldest) = held.pop_front()
        {
            drop(consumer.ack(oldest)?);
        }
    }
    Ok(())
}
