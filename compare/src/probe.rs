//! One measured run of one peer, in a process of its own: figures go to standard output as JSON.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use fanlog_bench::{
    console, process,
    sample::{Latencies, as_f64, mib, per_second, ratio},
};

use crate::{
    disk,
    messages::{Messages, Received},
    peer::{Kind, Peer},
    work::{FANOUT_BATCH, FILL_BATCH},
};

/// How long a backlog may take to be made, or to be drained once the first message is there.
const BACKLOG_WITHIN: Duration = Duration::from_secs(15);
const DRAIN_WITHIN: Duration = Duration::from_secs(3);

/// What to do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Step {
    Publish,
    Stream,
    Fanout,
    FanoutAlone,
    Fill,
    Open,
    Disk,
    Check,
}

/// Options of a probe.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The peer
    #[arg(long)]
    peer: String,
    /// What to do
    #[arg(long)]
    step: Step,
    /// Directory of the store
    #[arg(long)]
    store: PathBuf,
    /// Payload, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Messages per publish
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Consumers
    #[arg(long, default_value_t = 1)]
    consumers: usize,
    /// The most messages, or those of the backlog
    #[arg(long, default_value_t = 1_000)]
    messages: u64,
    /// How long to measure
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

/// Names with their units, and values.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Does what `options` say and prints the figures.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kind = Kind::named(&options.peer)?;
    let figures = match options.step {
        Step::Publish => publish(kind, options)?,
        Step::Stream => stream(kind, options)?,
        Step::Fanout => fanout(kind, options, false)?,
        Step::FanoutAlone => fanout(kind, options, true)?,
        Step::Fill => fill(kind, options)?,
        Step::Open => open(kind, options)?,
        Step::Disk => disk(kind, options)?,
        Step::Check => check(kind, &options.store)?,
    };
    Ok(console::line(&serde_json::to_string(&figures)?)?)
}

fn figures<const N: usize>(list: [(&str, f64); N]) -> Figures {
    list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn opened(kind: &Kind, options: &Options) -> Result<Box<dyn Peer>> {
    let mut peer = (kind.open)(&options.store, options.consumers)?;
    peer.settle()?;
    Ok(peer)
}

/// Calls `once` until `seconds` are over or `messages` published; returns how many, and how long.
fn repeat(
    options: &Options,
    mut once: impl FnMut() -> Result<usize>,
) -> Result<(u64, Duration, Latencies)> {
    let during = Duration::from_secs_f64(options.seconds);
    let mut latencies = Latencies::default();
    let mut published = 0;
    let begin = Instant::now();
    let mut last = begin;
    while last - begin < during && published < options.messages {
        published += once()? as u64;
        let now = Instant::now();
        latencies.record(now - last);
        last = now;
    }
    Ok((published, last - begin, latencies))
}

/// The same for an eighth of it, not measured: buffers and code are warm then.
fn warm(options: &Options, once: impl FnMut() -> Result<usize>) -> Result<()> {
    let seconds = options.seconds / 8.0;
    let short = Options { messages: options.messages / 8, seconds, ..clone(options) };
    repeat(&short, once).map(drop)
}

fn clone(options: &Options) -> Options {
    Options { peer: options.peer.clone(), store: options.store.clone(), ..*options }
}

fn publish(kind: &Kind, options: &Options) -> Result<Figures> {
    let mut peer = opened(kind, options)?;
    let mut messages = Messages::new(options.batch, options.size);
    let mut once = || {
        let batch = messages.batch(options.batch);
        peer.publish(&batch).map(|()| batch.len())
    };
    warm(options, &mut once)?;
    let before = process::written_bytes();
    let (published, elapsed, latencies) = repeat(options, &mut once)?;
    let written = process::written_bytes() - before;
    peer.close()?;
    Ok(figures([
        ("published_per_s", per_second(published, elapsed)),
        ("call_p50_us", latencies.us(0.5)),
        ("call_p99_us", latencies.us(0.99)),
        ("written_per_payload_byte", per_payload_byte(written, published, options)),
    ]))
}

fn stream(kind: &Kind, options: &Options) -> Result<Figures> {
    let mut peer = opened(kind, options)?;
    let mut messages = Messages::new(64, options.size);
    let mut part = |during: Duration, most: u64| -> Result<(u64, Duration)> {
        let (begin, first) = (Instant::now(), messages.published());
        peer.stream(options.batch, &mut |into| {
            if begin.elapsed() >= during || messages.published() - first >= most {
                return false;
            }
            messages.write_next(into);
            true
        })?;
        Ok((messages.published() - first, begin.elapsed()))
    };
    let during = Duration::from_secs_f64(options.seconds);
    part(during / 8, options.messages / 8)?;
    let before = process::written_bytes();
    let (published, elapsed) = part(during, options.messages)?;
    let written = process::written_bytes() - before;
    peer.close()?;
    Ok(figures([
        ("published_per_s", per_second(published, elapsed)),
        ("written_per_payload_byte", per_payload_byte(written, published, options)),
    ]))
}

fn per_payload_byte(bytes: u64, messages: u64, options: &Options) -> f64 {
    ratio(as_f64(bytes), as_f64(messages * options.size as u64))
}

fn fanout(kind: &Kind, options: &Options, alone: bool) -> Result<Figures> {
    let mut peer = opened(kind, options)?;
    let mut messages = Messages::new(FANOUT_BATCH, options.size);
    let mut received = Received::new(options.consumers);
    let mut once = || {
        let batch = messages.batch(FANOUT_BATCH);
        peer.publish(&batch)?;
        for consumer in 0..options.consumers {
            drain(peer.as_mut(), consumer, batch.len(), &mut received)?;
            if alone {
                peer.sync_acks()?;
            }
        }
        if !alone {
            peer.sync_acks()?;
        }
        Ok(batch.len())
    };
    warm(options, &mut once)?;
    let before = process::written_bytes();
    let (published, elapsed, _) = repeat(options, &mut once)?;
    let written = process::written_bytes() - before;
    received.all(messages.published())?;
    peer.close()?;
    let rate = per_second(published, elapsed);
    Ok(figures([
        ("published_per_s", rate),
        ("delivered_per_s", rate * as_f64(options.consumers as u64)),
        ("written_per_payload_byte", per_payload_byte(written, published, options)),
    ]))
}

/// Lets a consumer take so many messages, which are there.
fn drain(
    peer: &mut dyn Peer,
    consumer: usize,
    count: usize,
    received: &mut Received,
) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let max = left.min(FILL_BATCH);
        let got = peer.consume(consumer, max, &mut |payload| received.see(consumer, payload))?;
        anyhow::ensure!(got > 0, "{left} messages that were published are not there");
        left = left.saturating_sub(got);
    }
    Ok(())
}

/// Makes a backlog, says so and waits to be killed.
fn fill(kind: &Kind, options: &Options) -> Result<Figures> {
    let mut peer = (kind.open)(&options.store, options.consumers)?;
    make_backlog(peer.as_mut(), options)?;
    console::line("confirmed")?;
    loop {
        std::thread::park();
    }
}

fn make_backlog(peer: &mut dyn Peer, options: &Options) -> Result<()> {
    let mut messages = Messages::new(FILL_BATCH, options.size);
    let begin = Instant::now();
    while messages.published() < options.messages {
        let left = usize::try_from(options.messages - messages.published())?;
        peer.publish(&messages.batch(left))?;
        anyhow::ensure!(
            begin.elapsed() < BACKLOG_WITHIN,
            "the backlog was not made in {} s",
            BACKLOG_WITHIN.as_secs()
        );
    }
    Ok(())
}

fn open(kind: &Kind, options: &Options) -> Result<Figures> {
    let mut received = Received::new(1);
    let begin = Instant::now();
    let mut peer = (kind.open)(&options.store, 1)?;
    let open = begin.elapsed();
    let anonymous = process::anonymous_kib();
    let mut left = options.messages;
    let got = peer.consume(0, 1, &mut |payload| received.see(0, payload))?;
    let first = begin.elapsed();
    anyhow::ensure!(got > 0, "nothing is left of the backlog");
    left -= got as u64;
    // All has to be there; but a peer that reads slowly need not read all.
    let begin = Instant::now();
    while left > 0 && begin.elapsed() < DRAIN_WITHIN {
        let max = usize::try_from(left)?.min(FILL_BATCH);
        let got = peer.consume(0, max, &mut |payload| received.see(0, payload))?;
        anyhow::ensure!(got > 0, "{left} of {} messages are gone", options.messages);
        left = left.saturating_sub(got as u64);
    }
    peer.close()?;
    Ok(figures([
        ("open_ms", open.as_secs_f64() * 1e3),
        ("first_message_ms", first.as_secs_f64() * 1e3),
        ("anonymous_mib", as_f64(anonymous) / 1024.0),
    ]))
}

fn disk(kind: &Kind, options: &Options) -> Result<Figures> {
    let mut peer = opened(kind, options)?;
    let empty = disk::bytes(&options.store)?;
    make_backlog(peer.as_mut(), options)?;
    peer.settle()?;
    let backlog = disk::bytes(&options.store)?;
    let mut received = Received::new(options.consumers);
    let begin = Instant::now();
    for consumer in 0..options.consumers {
        let mut left = options.messages;
        while left > 0 {
            let max = usize::try_from(left)?.min(FILL_BATCH);
            let got =
                peer.consume(consumer, max, &mut |payload| received.see(consumer, payload))?;
            anyhow::ensure!(got > 0, "{left} messages of the backlog are not there");
            left = left.saturating_sub(got as u64);
            anyhow::ensure!(begin.elapsed() < 2 * BACKLOG_WITHIN, "consuming it takes too long");
        }
        peer.sync_acks()?;
    }
    peer.trim()?;
    peer.close()?;
    let consumed = disk::bytes(&options.store)?;
    Ok(figures([
        ("empty_mib", mib(empty)),
        ("backlog_mib", mib(backlog)),
        ("backlog_per_payload_byte", per_payload_byte(backlog, options.messages, options)),
        ("consumed_mib", mib(consumed)),
    ]))
}

/// Publishes and consumes with three consumers, closes and opens between; an error if a consumer
/// did not get everything once and in order.
fn check(kind: &Kind, store: &Path) -> Result<Figures> {
    const CONSUMERS: usize = 3;
    let sizes = [1, 64, 300].map(|size| size.min(kind.batch_max.saturating_mul(20)));
    let mut messages = Messages::new(300, 200);
    let mut received = Received::new(CONSUMERS);
    for life in 0..if kind.goes_on { 2 } else { 1 } {
        let mut peer = (kind.open)(store, CONSUMERS)?;
        for size in sizes {
            peer.publish(&messages.batch(size))?;
        }
        for consumer in 0..CONSUMERS {
            while peer.consume(consumer, 70, &mut |payload| received.see(consumer, payload))? > 0 {
                // The others are ahead when the store is opened again.
                if life == 0 && consumer == 1 && kind.goes_on {
                    break;
                }
            }
            peer.sync_acks()?;
        }
        peer.trim()?;
        peer.close()?;
    }
    received.all(messages.published())?;
    let mut peer = (kind.open)(store, CONSUMERS)?;
    for consumer in 0..CONSUMERS {
        let again = peer.consume(consumer, 1, &mut |_| Ok(()))?;
        anyhow::ensure!(again == 0, "what consumer {consumer} acked comes again");
    }
    peer.close()?;
    Ok(figures([("messages", as_f64(messages.published()))]))
}
