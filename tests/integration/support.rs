//! What the tests share: stores to open and to step, waits that end, a runtime of twenty lines.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime},
};

use fanlog::{
    Config, Consumer, ConsumerOptions, Delivery, Engine, ExchangeView, Message, Result,
    clock::{ManualClock, SystemClock},
    storage::{CrashMode, MemoryStorage, Storage},
};

/// How long an event may take before a test fails for want of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A simulated machine: a disk in memory and a clock set by hand.
pub(crate) struct Machine {
    pub(crate) disk: MemoryStorage,
    pub(crate) clock: Arc<ManualClock>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { disk: MemoryStorage::new(), clock: Arc::new(ManualClock::new()) }
    }

    pub(crate) fn open(&self) -> Engine {
        self.open_with(stepped())
    }

    pub(crate) fn open_with(&self, config: Config) -> Engine {
        self.try_open(config).unwrap()
    }

    pub(crate) fn try_open(&self, config: Config) -> Result<Engine> {
        self.open_through(Arc::new(self.disk.clone()), config)
    }

    pub(crate) fn open_through(&self, storage: Arc<dyn Storage>, config: Config) -> Result<Engine> {
        let clock: Arc<ManualClock> = Arc::clone(&self.clock);
        Engine::open_on(storage, clock, config)
    }

    /// The machine after a power cut: what was not synced is gone.
    pub(crate) fn power_cut(&self) -> Self {
        self.crashed(CrashMode::LoseUnsynced)
    }

    /// The machine after the death of the process: what the system had is there.
    pub(crate) fn killed(&self) -> Self {
        self.crashed(CrashMode::KeepAll)
    }

    fn crashed(&self, mode: CrashMode) -> Self {
        Self { disk: self.disk.crash_image(0, mode), clock: Arc::clone(&self.clock) }
    }

    /// All files by name.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = self.disk.list().unwrap();
        entries
            .into_iter()
            .map(|entry| {
                let bytes = self.disk.read_file(&entry.name).unwrap();
                (entry.name, bytes)
            })
            .collect()
    }
}

/// An engine without threads, with segments and buffers as small as they may be.
pub(crate) fn stepped() -> Config {
    Config { stepped: true, ..small() }
}

/// An engine with threads, with segments and buffers as small as they may be.
pub(crate) fn small() -> Config {
    Config {
        segment_bytes_max: 64 << 10,
        segments_ahead: 1,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        checkpoint_log_bytes: 64 << 10,
        ..Config::default()
    }
}

/// An engine with threads on a disk in memory.
pub(crate) fn threaded() -> Engine {
    let storage = Arc::new(MemoryStorage::new());
    Engine::open_on(storage, Arc::new(SystemClock::new()), small()).unwrap()
}

/// Exchanges but those that are always there.
pub(crate) fn declared(engine: &Engine) -> Vec<ExchangeView> {
    let exchanges = engine.topology().exchanges.into_iter();
    exchanges.filter(|exchange| !exchange.name.starts_with("amq.")).collect()
}

/// A machine with one queue, `jobs`, and its engine.
pub(crate) fn with_jobs() -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("jobs").unwrap();
    (machine, engine)
}

/// Does all that a stepped engine has to do now.
pub(crate) fn settle(engine: &Engine) {
    while engine.step().unwrap() {}
}

/// Publishes to a queue and waits for the confirm; returns the offset.
#[track_caller]
pub(crate) fn publish(engine: &Engine, queue: &str, payload: &[u8]) -> u64 {
    let confirm = engine.publisher().publish_confirmed(&Message::new("", queue, payload)).unwrap();
    confirm.first_offset.0
}

/// Publishes `0`, `1`, ... to a queue, all in as few commits as possible.
#[track_caller]
pub(crate) fn publish_numbers(engine: &Engine, queue: &str, count: usize) {
    let payloads: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    let publisher = engine.publisher();
    let tickets: Vec<_> = payloads
        .iter()
        .map(|text| publisher.publish(&Message::new("", queue, text.as_bytes())).unwrap())
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

#[track_caller]
pub(crate) fn consume(engine: &Engine, queue: &str, prefetch: u32) -> Consumer {
    engine.consume(queue, ConsumerOptions::prefetch(prefetch)).unwrap()
}

/// The next message, which is there.
#[track_caller]
pub(crate) fn next(consumer: &Consumer) -> Delivery {
    consumer.recv_timeout(Duration::ZERO).unwrap().expect("a message should be ready")
}

/// Asserts that no message is ready.
#[track_caller]
pub(crate) fn nothing(consumer: &Consumer) {
    let found = consumer.recv_timeout(Duration::ZERO).unwrap();
    assert!(found.is_none(), "nothing should be ready, there was {found:?}");
}

/// All that is ready, as far as the credit goes.
#[track_caller]
pub(crate) fn ready(consumer: &Consumer) -> Vec<Delivery> {
    std::iter::from_fn(|| consumer.recv_timeout(Duration::ZERO).unwrap()).collect()
}

pub(crate) fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.offset().0).collect()
}

/// Payloads as text.
pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| text(delivery.payload())).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a queue has not acked, as text, without delivering it.
#[track_caller]
pub(crate) fn unacked(engine: &Engine, queue: &str) -> Vec<String> {
    let messages = engine.browse(queue).unwrap().map(Result::unwrap);
    messages.filter(|message| !message.acked).map(|message| text(&message.payload)).collect()
}

/// Asserts that `check` finds nothing wrong.
#[track_caller]
pub(crate) fn sound(engine: &Engine) {
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.is_empty() && report.uncounted == 0, "{report:?}");
}

/// Whether a file of that name is a segment, begun or only prepared.
pub(crate) fn is_segment(name: &str) -> bool {
    name.strip_suffix(".seg").is_some_and(is_number)
}

/// Whether a file of that name is a checkpoint.
pub(crate) fn is_checkpoint(name: &str) -> bool {
    name.strip_suffix(".ckpt").is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Bytes that look like nothing else: payload `number` of `length`.
pub(crate) fn pattern(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Where `needle` stands in `bytes`.
pub(crate) fn position_of(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        if bytes[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Starts a thread whose result is waited for at most [`PATIENCE`].
pub(crate) fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Started<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()).unwrap_or_default());
    Started { receiver }
}

/// A thread at work.
pub(crate) struct Started<T> {
    receiver: mpsc::Receiver<T>,
}

impl<T> Started<T> {
    /// Its result.
    #[track_caller]
    pub(crate) fn join(self) -> T {
        match self.receiver.recv_timeout(PATIENCE) {
            Ok(value) => value,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it still waits"),
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("it panicked"),
        }
    }

    pub(crate) fn is_done(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a future to its end in this thread: all the runtime that the engine needs.
#[track_caller]
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "the future was not woken");
        thread::park_timeout(left);
    }
}

/// Counts how often a future was woken.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A real directory as it stands: names, bytes, times of the last change.
pub(crate) fn directory(dir: &Path) -> BTreeMap<String, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let own = std::fs::metadata(dir).unwrap().modified().unwrap();
    found.insert(String::new(), (own, Vec::new()));
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let modified = entry.metadata().unwrap().modified().unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        found.insert(entry.file_name().into_string().unwrap(), (modified, bytes));
    }
    found
}
