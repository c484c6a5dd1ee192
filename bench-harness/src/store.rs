//! The store under test, as the workloads open it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;
use fanlog::{Change, Config, Engine, ExchangeKind, storage::BackendChoice};

/// The exchange that workloads publish to.
pub(crate) const EXCHANGE: &str = "bench";
/// How long to wait for segments to be prepared.
const PREPARED_WITHIN: Duration = Duration::from_secs(30);

/// How bytes are to reach the disk.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum BackendOption {
    /// Direct where that works, else buffered
    #[default]
    Auto,
    /// Past the page cache
    Direct,
    /// Direct, large batches through `io_uring`
    Uring,
    /// Through the page cache, and a sync
    Buffered,
}

impl BackendOption {
    pub(crate) fn choice(self) -> BackendChoice {
        match self {
            Self::Auto => BackendChoice::Auto,
            Self::Direct => BackendChoice::Direct,
            Self::Uring => BackendChoice::Uring,
            Self::Buffered => BackendChoice::Buffered,
        }
    }
}

/// Opens the store in `dir` with so many segments prepared ahead and the fanout exchange declared.
pub(crate) fn open(dir: &Path, segments_ahead: usize) -> anyhow::Result<Engine> {
    open_with(dir, Config { segments_ahead, ..Config::default() })
}

/// Opens the store in `dir` and declares the fanout exchange.
pub(crate) fn open_with(dir: &Path, config: Config) -> anyhow::Result<Engine> {
    let engine = Engine::open(dir, config).with_context(|| format!("opening {}", dir.display()))?;
    engine.declare_exchange(EXCHANGE, ExchangeKind::Fanout)?;
    Ok(engine)
}

/// Name of the queue with that number.
pub(crate) fn queue_name(number: usize) -> String {
    format!("queue-{number}")
}

/// Declares and binds queues 0 to `count`, in one commit.
pub(crate) fn declare_queues(engine: &Engine, count: usize) -> anyhow::Result<()> {
    let names: Vec<String> = (0..count).map(queue_name).collect();
    let changes: Vec<Change<'_>> = names
        .iter()
        .flat_map(|name| {
            let bind = Change::Bind { queue: name, exchange: EXCHANGE, routing_key: "" };
            [Change::declare_queue(name), bind]
        })
        .collect();
    Ok(engine.change(&changes)?)
}

/// Declares queue 0 anew, so that all that was published before is dead, and lets the engine take
/// its segments back. Returns how many segments are prepared then.
pub(crate) fn renew(engine: &Engine, segments_ahead: usize) -> anyhow::Result<u64> {
    engine.delete_queue(&queue_name(0))?;
    declare_queues(engine, 1)?;
    // Segments are free once they lie before the older of the two checkpoints that are kept.
    engine.checkpoint()?;
    engine.checkpoint()?;
    Ok(wait_prepared(engine, segments_ahead))
}

/// Waits until so many segments are prepared, at most 30 s, and returns how many there are.
pub(crate) fn wait_prepared(engine: &Engine, segments_ahead: usize) -> u64 {
    let begin = Instant::now();
    loop {
        let ready = engine.stats().segments_ready;
        if ready >= segments_ahead as u64 || begin.elapsed() > PREPARED_WITHIN {
            return ready;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Closes the store; an error if something stayed unconfirmed.
pub(crate) fn close(engine: &Engine) -> anyhow::Result<()> {
    let report = engine.close(Duration::from_secs(30))?;
    anyhow::ensure!(
        report.unconfirmed == 0,
        "{} messages unconfirmed at close",
        report.unconfirmed
    );
    Ok(())
}
