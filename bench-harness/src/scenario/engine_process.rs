//! The engine process: the engine, its publishers, and the three platforms with their consumers.
//!
//! Commands come on standard input, frames go to standard output. Any error ends the process: the
//! judge counts what is missing then. So does the end of standard input, which means that the judge
//! is gone.

use std::{
    io::BufReader,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use fanlog::{Config, Engine, ExchangeKind};

use super::{
    EXCHANGE, EngineOptions, QUEUES,
    frames::{Counters, Frame, Kind, Outbox, Ready, Summary},
    link::Link,
    monitor::Monitor,
    platform::{Member, Platform, Shared},
    publishers::{Work, Worker},
    query::Query,
};

/// How often counters go to the judge. The kill loses what was counted since.
const COUNTERS_EVERY: Duration = Duration::from_millis(50);

/// Runs one life of the engine; errors go to the judge.
pub(crate) fn run(options: &EngineOptions) -> anyhow::Result<()> {
    let outbox = Outbox::default();
    let done = live(options, &outbox);
    if let Err(error) = &done {
        fail(&outbox, error);
    }
    done
}

/// Tells the judge why this process ends.
fn fail(outbox: &Outbox, error: &anyhow::Error) {
    let mut frame = Frame::new(Kind::Failed);
    frame.body = format!("{error:#}").into_bytes();
    // If the pipe is gone there is nobody to tell.
    drop(outbox.send(&[&frame]));
}

fn live(options: &EngineOptions, outbox: &Outbox) -> anyhow::Result<()> {
    let begin = Instant::now();
    let engine = Engine::open(&options.store, Config::default()).context("opening the store")?;
    let open_ms = begin.elapsed().as_secs_f64() * 1e3;
    declare(&engine)?;
    let query = Query::open(&options.files, options.size)?;
    let link = Link::open(&options.files)?;
    outbox.send(&[&Frame::json(Kind::Ready, &ready(&engine, open_ms))?])?;

    let work = Work::default();
    let shared = Shared {
        engine: &engine,
        outbox,
        stopping: AtomicBool::new(false),
        drops: [const { AtomicBool::new(false) }; QUEUES.len()],
        plant_loss: options.plant_loss,
    };
    let platforms: [&dyn Platform; QUEUES.len()] = [&query, &Monitor, &link];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut consumers = Vec::new();
        for (queue, platform) in (0..).zip(platforms) {
            for number in 0..options.consumers {
                let member = Member { shared: &shared, platform, queue, number };
                consumers.push(scope.spawn(move || or_end(outbox, member.run())));
            }
        }
        let mut publishers = Vec::new();
        for _ in 0..options.publishers {
            let mut worker = Worker::new(engine.publisher(), outbox, options.window, options.size);
            let work = &work;
            publishers.push(scope.spawn(move || or_end(outbox, worker.run(work))));
        }
        let ticker = scope.spawn(|| or_end(outbox, tick(&engine, outbox, &done)));

        obey(&work, &shared)?;
        join(publishers)?;
        shared.stopping.store(true, Ordering::Release);
        join(consumers)?;
        done.store(true, Ordering::Release);
        ticker.thread().unpark();
        join(vec![ticker])
    })?;

    let counters = Frame::json(Kind::Counters, &counters(&engine))?;
    let query = query.finish(true)?;
    let link = link.finish();
    let unconfirmed = engine.close(Duration::from_secs(30))?.unconfirmed;
    let summary = Frame::json(Kind::Summary, &Summary { query, link, unconfirmed })?;
    Ok(outbox.send(&[&counters, &summary])?)
}

/// Each platform declares and binds a queue of its own; what is there already stays as it is.
fn declare(engine: &Engine) -> anyhow::Result<()> {
    engine.declare_exchange(EXCHANGE, ExchangeKind::Fanout)?;
    for queue in QUEUES {
        engine.declare_queue(queue)?;
        engine.bind(queue, EXCHANGE, "")?;
    }
    Ok(())
}

/// Follows the judge's commands until it says that nothing more will be published.
fn obey(work: &Work, shared: &Shared<'_>) -> anyhow::Result<()> {
    let mut commands = BufReader::new(std::io::stdin().lock());
    loop {
        let frame = Frame::read(&mut commands)?;
        match frame.as_ref().map(|frame| (frame.kind, frame)) {
            Some((Kind::Publish, frame)) => {
                let (rate, ranges) = frame.ranges();
                work.add(rate, ranges);
            }
            Some((Kind::DropConsumers, _)) => {
                shared.drops.iter().for_each(|drop| drop.store(true, Ordering::Release));
            }
            Some((Kind::Finish, _)) => {
                work.close();
                return Ok(());
            }
            // The threads of this scope may wait for ever, so the process ends here.
            _ => std::process::exit(1),
        }
    }
}

/// Ends the process if a thread failed: the others may wait for it.
fn or_end(outbox: &Outbox, done: anyhow::Result<()>) {
    if let Err(error) = done {
        fail(outbox, &error);
        std::process::exit(1);
    }
}

fn join(threads: Vec<ScopedJoinHandle<'_, ()>>) -> anyhow::Result<()> {
    threads
        .into_iter()
        .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked")))
}

/// Sends counters until `done`.
fn tick(engine: &Engine, outbox: &Outbox, done: &AtomicBool) -> anyhow::Result<()> {
    while !done.load(Ordering::Acquire) {
        outbox.send(&[&Frame::json(Kind::Counters, &counters(engine))?])?;
        thread::park_timeout(COUNTERS_EVERY);
    }
    Ok(())
}

fn ready(engine: &Engine, open_ms: f64) -> Ready {
    let recovery = engine.recovery();
    Ready {
        backend: engine.stats().backend.to_string(),
        open_ms,
        clean: recovery.clean,
        created: recovery.created,
        replayed_batches: recovery.replayed_batches,
        cut_bytes: recovery.cuts.iter().map(|cut| cut.bytes).sum(),
        end_offset: recovery.end.0,
    }
}

fn counters(engine: &Engine) -> Counters {
    let stats = engine.stats();
    let depth = engine.topology().queues.iter().map(|queue| queue.messages).sum();
    Counters {
        published_messages: stats.published_messages,
        published_bytes: stats.published_bytes,
        batches: stats.batches,
        log_bytes: stats.log_bytes_written,
        other_bytes: stats.other_bytes_written,
        syncs: stats.syncs,
        segments_recycled: stats.segments_recycled,
        segments_deleted: stats.segments_deleted,
        checkpoints: stats.checkpoints,
        depth,
    }
}
