//! Frames between the judge and the engine process, in both directions.
//!
//! A frame is kind (1 byte), queue (1), consumer (2), length of the body (4), body; little-endian.
//! A frame that is cut off by a SIGKILL is none: its reader drops it.

use std::{
    io::{self, Read, Write},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// Largest body: a frame holds the reports of one batch.
const BODY_MAX: usize = 64 << 20;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Engine process: the store is open. Body: [`Ready`] as JSON.
    Ready = 1,
    /// Engine process: these numbers were confirmed. Body: [`Confirmed`] each.
    Confirmed = 2,
    /// Engine process: a consumer of a platform saw this, and has not acked it. Body: [`Seen`] each.
    Seen = 3,
    /// Engine process: the monitor raised an alert on these numbers.
    Alerts = 4,
    /// Engine process: a consumer was dropped with these numbers in hand, unacked.
    Held = 5,
    /// Engine process: counters of the engine so far. Body: [`Counters`] as JSON.
    Counters = 6,
    /// Engine process: all work is done and the store is closed. Body: [`Summary`] as JSON.
    Summary = 7,
    /// Engine process: an error, as text; the process ends.
    Failed = 8,
    /// Judge: publish these numbers. Body: rate per second (0: as fast as possible), then ranges.
    Publish = 9,
    /// Judge: one consumer of each queue is to be dropped with messages in hand.
    DropConsumers = 10,
    /// Judge: nothing more will be published; finish, close, send the summary.
    Finish = 11,
}

const KINDS: [Kind; 11] = [
    Kind::Ready,
    Kind::Confirmed,
    Kind::Seen,
    Kind::Alerts,
    Kind::Held,
    Kind::Counters,
    Kind::Summary,
    Kind::Failed,
    Kind::Publish,
    Kind::DropConsumers,
    Kind::Finish,
];

/// One frame. Queue and consumer are 0 where a kind has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) queue: u8,
    pub(crate) consumer: u16,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: Kind) -> Frame {
        Frame { kind, queue: 0, consumer: 0, body: Vec::new() }
    }

    pub(crate) fn of(kind: Kind, queue: u8, consumer: u16) -> Frame {
        Frame { kind, queue, consumer, body: Vec::new() }
    }

    /// A frame whose body is `value` as JSON.
    pub(crate) fn json(kind: Kind, value: &impl Serialize) -> anyhow::Result<Frame> {
        Ok(Frame { body: serde_json::to_vec(value)?, ..Frame::new(kind) })
    }

    /// Writes header and body; the writer is one that buffers or a pipe.
    pub(crate) fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.body.len()).map_err(io::Error::other)?;
        let mut header = [0; 8];
        header[0] = self.kind as u8;
        header[1] = self.queue;
        header[2..4].copy_from_slice(&self.consumer.to_le_bytes());
        header[4..].copy_from_slice(&length.to_le_bytes());
        writer.write_all(&header)?;
        writer.write_all(&self.body)
    }

    /// Reads one frame; `None` at the end of the stream, be it in the middle of a frame.
    pub(crate) fn read(reader: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut header = [0; 8];
        if !read_whole(reader, &mut header)? {
            return Ok(None);
        }
        let [kind, queue, c0, c1, length @ ..] = header;
        let kind = KINDS.into_iter().find(|&known| known as u8 == kind);
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        let Some(kind) = kind.filter(|_| length <= BODY_MAX) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame"));
        };
        let mut body = vec![0; length];
        if !read_whole(reader, &mut body)? {
            return Ok(None);
        }
        Ok(Some(Frame { kind, queue, consumer: u16::from_le_bytes([c0, c1]), body }))
    }

    pub(crate) fn put_number(&mut self, number: u64) {
        self.body.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.body.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }

    pub(crate) fn put_ranges(&mut self, rate: u32, ranges: &[Range<u64>]) {
        self.put_number(u64::from(rate));
        for range in ranges {
            self.put_number(range.start);
            self.put_number(range.end);
        }
    }

    /// Rate and ranges of a [`Kind::Publish`].
    pub(crate) fn ranges(&self) -> (u32, Vec<Range<u64>>) {
        let mut numbers = self.numbers();
        let rate = numbers.next().and_then(|rate| u32::try_from(rate).ok()).unwrap_or(0);
        let mut ranges = Vec::new();
        while let (Some(start), Some(end)) = (numbers.next(), numbers.next()) {
            ranges.push(start..end);
        }
        (rate, ranges)
    }
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// One confirm: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) number: u64,
    /// From the call of `publish` to the confirm.
    pub(crate) latency_ns: u64,
}

impl Confirmed {
    pub(crate) fn put(self, frame: &mut Frame) {
        frame.put_number(self.number);
        frame.put_number(self.latency_ns);
    }

    pub(crate) fn all(frame: &Frame) -> impl Iterator<Item = Confirmed> {
        frame
            .body
            .as_chunks::<16>()
            .0
            .iter()
            .map(|bytes| Confirmed { number: word(bytes, 0), latency_ns: word(bytes, 1) })
    }
}

/// One delivery as a platform saw it: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Number that the payload claims.
    pub(crate) number: u64,
    pub(crate) offset: u64,
    pub(crate) checksum: u32,
    pub(crate) length: u32,
    /// From the call of `publish` to the delivery.
    pub(crate) latency_us: u32,
    pub(crate) redelivered: bool,
    /// The platform compared every byte with the payload of that number.
    pub(crate) intact: bool,
}

impl Seen {
    pub(crate) fn put(self, frame: &mut Frame) {
        frame.put_number(self.number);
        frame.put_number(self.offset);
        frame.put_number(u64::from(self.checksum) | u64::from(self.length) << 32);
        let flags = u64::from(self.redelivered) | u64::from(self.intact) << 1;
        frame.put_number(u64::from(self.latency_us) | flags << 32);
    }

    pub(crate) fn all(frame: &Frame) -> impl Iterator<Item = Seen> {
        frame.body.as_chunks::<32>().0.iter().map(|bytes| {
            let (checksum, length) = halves(word(bytes, 2));
            let (latency_us, flags) = halves(word(bytes, 3));
            Seen {
                number: word(bytes, 0),
                offset: word(bytes, 1),
                checksum,
                length,
                latency_us,
                redelivered: flags & 1 != 0,
                intact: flags & 2 != 0,
            }
        })
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes.as_chunks::<8>().0[index])
}

#[expect(clippy::cast_possible_truncation, reason = "cuts a word in two on purpose")]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// What the engine process found when it opened the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) backend: String,
    pub(crate) open_ms: f64,
    pub(crate) clean: bool,
    pub(crate) created: bool,
    pub(crate) replayed_batches: u64,
    pub(crate) cut_bytes: u64,
    pub(crate) end_offset: u64,
}

/// Counters of one life of the engine.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) published_messages: u64,
    pub(crate) published_bytes: u64,
    pub(crate) batches: u64,
    pub(crate) log_bytes: u64,
    pub(crate) other_bytes: u64,
    pub(crate) syncs: u64,
    pub(crate) segments_recycled: u64,
    pub(crate) segments_deleted: u64,
    pub(crate) checkpoints: u64,
    /// Messages in the three queues, ready or unacked.
    pub(crate) depth: u64,
}

/// What the platforms did, at the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) query: QuerySummary,
    pub(crate) link: LinkSummary,
    /// Messages unconfirmed when the engine was closed.
    pub(crate) unconfirmed: u64,
}

/// What the query platform did in this life.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct QuerySummary {
    pub(crate) transactions: u64,
    pub(crate) lookups: u64,
    pub(crate) cache_hits: u64,
    /// Look-ups with another answer than the result of that number.
    pub(crate) wrong: u64,
    /// Look-ups at the end that found nothing.
    pub(crate) missing: u64,
}

/// What the link platform holds at the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LinkSummary {
    pub(crate) complete: u64,
    pub(crate) incomplete: u64,
    /// Numbers from a wrong result back to its source.
    pub(crate) walk: Vec<u64>,
}

/// Where the threads of the engine process put their frames: standard output, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<()>);

impl Outbox {
    /// Sends the frames together. When it returns they are in the pipe, whatever happens to this
    /// process.
    pub(crate) fn send(&self, frames: &[&Frame]) -> io::Result<()> {
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(frames.iter().map(|frame| frame.body.len() + 8).sum());
        for frame in frames {
            frame.write(&mut bytes)?;
        }
        let mut out = io::stdout().lock();
        out.write_all(&bytes)?;
        out.flush()?;
        drop(turn);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_a_cut_one_is_none() {
        let mut frame = Frame::of(Kind::Seen, 2, 513);
        let seen = Seen {
            number: 7,
            offset: 1 << 40,
            checksum: 0xdead_beef,
            length: 1024,
            latency_us: 99,
            redelivered: true,
            intact: false,
        };
        seen.put(&mut frame);
        Seen { intact: true, redelivered: false, ..seen }.put(&mut frame);
        let mut bytes = Vec::new();
        frame.write(&mut bytes).unwrap();
        let read = Frame::read(&mut bytes.as_slice()).unwrap().unwrap();
        assert_eq!(read, frame);
        assert_eq!(Seen::all(&read).next(), Some(seen));
        assert_eq!(Seen::all(&read).count(), 2);
        for cut in [0, 1, 7, 8, bytes.len() - 1] {
            assert_eq!(Frame::read(&mut &bytes[..cut]).unwrap(), None);
        }
        assert!(Frame::read(&mut [0xff_u8; 64].as_slice()).is_err());
    }

    #[test]
    fn ranges_come_back() {
        let mut frame = Frame::new(Kind::Publish);
        frame.put_ranges(1000, &[0..5, 9..10]);
        assert_eq!(frame.ranges(), (1000, vec![0..5, 9..10]));
    }
}
