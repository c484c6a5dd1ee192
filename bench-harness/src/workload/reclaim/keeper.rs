//! Consumers of one queue that ack all but a share of what they get.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use fanlog::{Consumer, ConsumerOptions, Engine};

use crate::{sample::as_u64, store};

/// Messages that one consumer may hold: as many as there can be.
const PREFETCH: u32 = 65_536;
/// Messages fetched at a time.
const FETCH: usize = 1024;
/// With nothing received for so long, nothing comes any more.
const STUCK: Duration = Duration::from_mins(1);

/// What becomes of a message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is acked, but for so many of 1,000.
    Keep(u64),
    /// It goes back to the queue when all is over; nothing is acked.
    None,
}

/// Consumers, the last of which has room.
pub(super) struct Keeper<'a> {
    engine: &'a Engine,
    fate: Fate,
    consumers: Vec<Consumer>,
    held: usize,
    taken: u64,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(engine: &'a Engine, fate: Fate) -> anyhow::Result<Self> {
        let mut keeper = Self { engine, fate, consumers: Vec::new(), held: 0, taken: 0 };
        keeper.subscribe()?;
        Ok(keeper)
    }

    fn subscribe(&mut self) -> anyhow::Result<()> {
        let options = ConsumerOptions::prefetch(PREFETCH);
        self.consumers.push(self.engine.consume(&store::queue_name(0), options)?);
        Ok(())
    }

    /// Takes until so many messages came.
    pub(super) fn take(&mut self, messages: u64, acked: &AtomicU64) -> anyhow::Result<()> {
        let mut moved = Instant::now();
        while self.taken < messages {
            if self.fetch(acked)? > 0 {
                moved = Instant::now();
                continue;
            }
            anyhow::ensure!(
                moved.elapsed() < STUCK,
                "{} of {messages} messages came, then none for {STUCK:?}",
                self.taken
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Takes what is ready, settles it, and says how many there were.
    pub(super) fn fetch(&mut self, acked: &AtomicU64) -> anyhow::Result<usize> {
        let mut came = 0;
        for consumer in &self.consumers {
            let batch = consumer.recv_batch(FETCH, Duration::ZERO)?;
            for tag in batch.keep() {
                came += 1;
                self.taken += 1;
                if self.keeps(self.taken) {
                    self.held += 1;
                } else {
                    drop(consumer.ack(tag)?);
                    acked.fetch_add(1, Ordering::Release);
                }
            }
        }
        let room = self.consumers.len() * (PREFETCH as usize - 4 * FETCH);
        if self.held >= room {
            self.subscribe()?;
        }
        Ok(came)
    }

    fn keeps(&self, number: u64) -> bool {
        match self.fate {
            Fate::None => true,
            Fate::Keep(per_mille) => spread(number) % 1000 < per_mille,
        }
    }

    /// Messages held.
    pub(super) fn held(&self) -> u64 {
        as_u64(self.held)
    }
}

/// Bits of a number, spread over all of them.
fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 8
}
