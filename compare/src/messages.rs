//! Messages that tell their number, so that a consumer knows what it should get next.

use anyhow::Result;
use fanlog_bench::payload;

/// Payloads of a batch, made once; only their numbers are written anew.
pub(crate) struct Messages {
    payloads: Vec<Vec<u8>>,
    next: u64,
}

/// Bytes at the start of a payload that hold its number.
const NUMBER_BYTES: usize = 8;

impl Messages {
    /// Batches of so many payloads of so many bytes each, at least [`payload::BYTES_MIN`].
    pub(crate) fn new(batch: usize, bytes: usize) -> Messages {
        let payloads = (0..batch as u64).map(|number| {
            let mut payload = vec![0; bytes.max(payload::BYTES_MIN)];
            payload::fill(number, &mut payload);
            payload
        });
        Messages { payloads: payloads.collect(), next: 0 }
    }

    /// The next batch, of `count` or as many as a batch has.
    pub(crate) fn batch(&mut self, count: usize) -> Vec<&[u8]> {
        let count = count.min(self.payloads.len());
        for payload in &mut self.payloads[..count] {
            payload[..NUMBER_BYTES].copy_from_slice(&self.next.to_le_bytes());
            self.next += 1;
        }
        self.payloads[..count].iter().map(Vec::as_slice).collect()
    }

    /// Writes the next payload into `into`.
    pub(crate) fn write_next(&mut self, into: &mut Vec<u8>) {
        let index = usize::try_from(self.next % self.payloads.len() as u64).unwrap_or(0);
        into.clone_from(&self.payloads[index]);
        into[..NUMBER_BYTES].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
    }

    /// How many there were.
    pub(crate) fn published(&self) -> u64 {
        self.next
    }
}

/// What consumers got: each has to get number after number.
pub(crate) struct Received(Vec<u64>);

impl Received {
    /// Nothing yet.
    pub(crate) fn new(consumers: usize) -> Received {
        Received(vec![0; consumers])
    }

    /// Consumer `consumer` got `payload`; an error if it is not the one that is next.
    pub(crate) fn see(&mut self, consumer: usize, payload: &[u8]) -> Result<()> {
        let expected = self.0[consumer];
        let number = payload.first_chunk::<NUMBER_BYTES>().map(|bytes| u64::from_le_bytes(*bytes));
        anyhow::ensure!(
            number == Some(expected),
            "consumer {consumer} got message {number:?} where {expected} was next"
        );
        self.0[consumer] += 1;
        Ok(())
    }

    /// An error if a consumer did not get all of so many.
    pub(crate) fn all(&self, messages: u64) -> Result<()> {
        let short = self.0.iter().enumerate().find(|(_, got)| **got != messages);
        match short {
            Some((consumer, got)) => {
                anyhow::bail!("consumer {consumer} got {got} of {messages} messages")
            }
            None => Ok(()),
        }
    }
}
