//! One measured run of `fanout`, in a process of its own.

use std::{
    fs,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use fanlog::{Consumer, ConsumerOptions, Engine, ErrorKind, Message};
use serde::{Deserialize, Serialize};

use crate::{
    console,
    load::{self, Load},
    payload, process,
    sample::as_u64,
    store,
};

/// Messages of one batch in the batched shape.
const BATCH: usize = 64;

/// Messages of 1 MiB that are published before anything is measured.
const WARM_UP: u64 = 96;

/// How the probe publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 64 messages, then wait for them: the same commits in every run.
    Batched,
    /// 1,000 outstanding all the time.
    Streamed,
}

impl Shape {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Batched => "batched",
            Shape::Streamed => "streamed",
        }
    }
}

/// Options of the hidden `fanout-probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeOptions {
    #[arg(long)]
    store: PathBuf,
    #[arg(long)]
    queues: usize,
    #[arg(long)]
    waiting: bool,
    #[arg(long)]
    size: usize,
    #[arg(long)]
    messages: u64,
    #[arg(long, value_enum)]
    shape: Shape,
}

/// What a run found, for its messages together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Published and confirmed.
    pub(crate) messages: u64,
    /// From the first publish to the last confirm, or to the last delivery where consumers wait.
    pub(crate) elapsed_ns: u64,
    /// Bytes that the engine wrote to the log.
    pub(crate) log_bytes: u64,
    /// Bytes that the kernel counts for the process.
    pub(crate) device_bytes: u64,
    /// Synced writes of the log.
    pub(crate) syncs: u64,
    /// Deliveries of all consumers together.
    pub(crate) delivered: u64,
}

/// Runs once in a fresh store and prints what it found as JSON.
pub(crate) fn run_probe(options: &ProbeOptions) -> anyhow::Result<()> {
    if options.store.exists() {
        fs::remove_dir_all(&options.store)?;
    }
    let engine = store::open(&options.store, 3)?;
    store::declare_queues(&engine, options.queues)?;
    let consumers = if options.waiting { Some(Waiting::start(&engine, options)?) } else { None };
    warm_up(&engine)?;
    if let Some(consumers) = &consumers {
        consumers.wait_for(WARM_UP * as_u64(options.queues))?;
    }
    store::wait_prepared(&engine, 3);

    let before = (engine.stats(), process::written_bytes());
    let begin = Instant::now();
    match options.shape {
        Shape::Batched => publish_batched(&engine, options)?,
        Shape::Streamed => publish_streamed(&engine, options)?,
    }
    if let Some(consumers) = &consumers {
        consumers.wait_for((WARM_UP + options.messages) * as_u64(options.queues))?;
    }
    let elapsed = begin.elapsed();
    let after = (engine.stats(), process::written_bytes());

    store::close(&engine)?;
    if let Some(consumers) = consumers {
        consumers.join()?;
    }
    let found = Found {
        messages: options.messages,
        elapsed_ns: u64::try_from(elapsed.as_nanos())?,
        log_bytes: after.0.log_bytes_written - before.0.log_bytes_written,
        device_bytes: after.1 - before.1,
        syncs: after.0.syncs - before.0.syncs,
        delivered: after.0.delivered_messages - before.0.delivered_messages,
    };
    console::line(&serde_json::to_string(&found)?)?;
    Ok(())
}

/// Fills the window of recent batches, so that what is measured afterwards reuses its memory.
fn warm_up(engine: &Engine) -> anyhow::Result<()> {
    let payload = vec![7; 1 << 20];
    let publisher = engine.publisher();
    for _ in 0..WARM_UP {
        publisher.publish_confirmed(&Message::new(store::EXCHANGE, "", &payload))?;
    }
    Ok(())
}

fn publish_batched(engine: &Engine, options: &ProbeOptions) -> anyhow::Result<()> {
    let mut payload = vec![0; options.size.max(payload::BYTES_MIN)];
    payload::fill(0, &mut payload);
    let message = Message::new(store::EXCHANGE, "", &payload[..options.size]);
    let publisher = engine.publisher();
    let batch = [message; BATCH];
    let mut left = usize::try_from(options.messages)?;
    while left > 0 {
        let count = left.min(BATCH);
        publisher.publish_batch(&batch[..count])?.wait()?;
        left -= count;
    }
    Ok(())
}

fn publish_streamed(engine: &Engine, options: &ProbeOptions) -> anyhow::Result<()> {
    let outcome = load::run(
        engine,
        Load {
            size: options.size,
            publishers: 1,
            window: 1_000,
            messages: Some(options.messages),
            during: Duration::MAX,
        },
    )?;
    anyhow::ensure!(outcome.confirmed == options.messages, "a publisher stopped early");
    Ok(())
}

/// One waiting consumer per queue: a task each, all run by one thread, as an async runtime would.
struct Waiting {
    delivered: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Waiting {
    fn start(engine: &Engine, options: &ProbeOptions) -> anyhow::Result<Waiting> {
        let delivered = Arc::new(AtomicU64::new(0));
        let mut consumers = Vec::with_capacity(options.queues);
        for number in 0..options.queues {
            consumers.push(engine.consume(&store::queue_name(number), ConsumerOptions::default())?);
        }
        let counter = Arc::clone(&delivered);
        let (parked, all_parked) = mpsc::channel();
        let thread = std::thread::spawn(move || run_tasks(consumers, &counter, &parked));
        // Nothing is published before every consumer waits.
        all_parked.recv().map_err(|_| anyhow::anyhow!("the consumers could not start"))?;
        Ok(Waiting { delivered, thread })
    }

    fn wait_for(&self, deliveries: u64) -> anyhow::Result<()> {
        while self.delivered.load(Ordering::Relaxed) < deliveries {
            anyhow::ensure!(!self.thread.is_finished(), "the consumers stopped early");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn join(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow::anyhow!("the consumers panicked"))?
    }
}

type Task = Pin<Box<dyn Future<Output = fanlog::Result<()>>>>;

/// Polls one task per consumer until all have ended, each only when it was woken.
fn run_tasks(
    consumers: Vec<Consumer>,
    delivered: &Arc<AtomicU64>,
    parked: &mpsc::Sender<()>,
) -> anyhow::Result<()> {
    let woken = Arc::new(Woken::default());
    let mut tasks: Vec<Option<(Task, Waker)>> = Vec::with_capacity(consumers.len());
    for (number, consumer) in consumers.into_iter().enumerate() {
        let task = consume(consumer, Arc::clone(delivered));
        let waker = Waker::from(Arc::new(TaskWaker { number, woken: Arc::clone(&woken) }));
        tasks.push(Some((Box::pin(task), waker)));
        woken.push(number);
    }
    woken.owner.lock().unwrap_or_else(PoisonError::into_inner).replace(std::thread::current());
    let mut left = tasks.len();
    let mut first = true;
    while left > 0 {
        let numbers = woken.take();
        if numbers.is_empty() {
            std::thread::park();
            continue;
        }
        for number in numbers {
            let Some((task, waker)) = &mut tasks[number] else { continue };
            if let Poll::Ready(done) = task.as_mut().poll(&mut Context::from_waker(waker)) {
                done?;
                tasks[number] = None;
                left -= 1;
            }
        }
        if std::mem::take(&mut first) {
            parked.send(())?;
        }
    }
    Ok(())
}

/// Waits for messages and acks them until the engine closes.
async fn consume(consumer: Consumer, delivered: Arc<AtomicU64>) -> fanlog::Result<()> {
    loop {
        match consumer.recv_async().await {
            Ok(delivery) => drop(delivery.ack()?),
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            Err(error) => return Err(error),
        }
        delivered.fetch_add(1, Ordering::Relaxed);
        // What came with the first needs no further wait.
        let batch = consumer.recv_batch(256, Duration::ZERO)?;
        if !batch.is_empty() {
            delivered.fetch_add(as_u64(batch.len()), Ordering::Relaxed);
            drop(batch.ack()?);
        }
    }
}

/// Numbers of tasks to poll, and the thread that polls them.
#[derive(Default)]
struct Woken {
    numbers: Mutex<Vec<usize>>,
    owner: Mutex<Option<std::thread::Thread>>,
}

impl Woken {
    fn push(&self, number: usize) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.push(number);
        let first = numbers.len() == 1;
        drop(numbers);
        if first && let Some(owner) = &*self.owner.lock().unwrap_or_else(PoisonError::into_inner) {
            owner.unpark();
        }
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    number: usize,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.push(self.number);
    }
}
