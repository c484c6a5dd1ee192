//! The engine with its threads, on the same disk: batches are in flight together when power fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fanlog::clock::SystemClock;
use fanlog::storage::{Call, CrashMode, Fault, FaultRule, FaultStorage, MemoryStorage};
use fanlog::{
    Config, ConsumerOptions, Engine, Error, ErrorKind, ExchangeKind, Message, Publisher, Ticket,
};
use fanlog_tests::disks::{Habits, Meeting};
use fanlog_tests::model::{Acked, Fate, Id, Model, Topology};
use fanlog_tests::operations::Purpose;
use fanlog_tests::random::Random;
use fanlog_tests::world::{Plan, Remains};

use crate::cuts::{assert_none, chosen, for_each, judge_fall_back, judge_image, purposes, tally};

const PUBLISHERS: usize = 3;
const MESSAGES: usize = 90;
/// Whoever waits longer than this is stuck.
const STUCK: Duration = Duration::from_secs(20);

fn config() -> Config {
    Config {
        segment_bytes_max: 512 << 10,
        segments_ahead: 1,
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 2 << 20,
        checkpoint_log_bytes: 256 << 10,
        ack_delay_max: Duration::from_millis(2),
        buffered_sync_delay_max: Duration::from_millis(3),
        ..Config::default()
    }
}

/// What became of the messages of one publisher, in order.
type Fates = Vec<(Id, Fate)>;

/// What one consumer did with a message, and the offset that it came at.
type Deeds = Vec<(Id, u64, Acked)>;

/// What a run leaves.
struct Run {
    disk: MemoryStorage,
    model: Model,
    durable: u64,
    meeting: Arc<Meeting>,
    /// Batches that found no space and were written again.
    again: u64,
    problems: Vec<String>,
}

fn offered(seed: u64) -> Model {
    let mut model = Model::default();
    let mut random = Random::new(seed);
    let (a, b) = (model.new_queue("a"), model.new_queue("b"));
    model.topology = topology(&[("a", a), ("b", b)]);
    for publisher in 0..PUBLISHERS {
        for _ in 0..MESSAGES {
            let bytes = match random.below(10) {
                0..5 => 8 + random.place(2000),
                5..9 => 10_000 + random.place(40_000),
                _ => 100_000 + random.place(60_000),
            };
            let buffered = random.chance(10);
            let exchange = if random.chance(80) { "fan" } else { "" };
            let id = model.offer(exchange, "a", bytes, buffered);
            model.sent[id].publisher = publisher;
        }
    }
    model
}

fn topology(queues: &[(&str, usize)]) -> Topology {
    let mut topology = Topology::default();
    topology.exchanges.insert("fan".into(), ExchangeKind::Fanout);
    for (name, id) in queues {
        topology.queues.insert((*name).into(), *id);
        topology.bindings.insert(((*name).into(), "fan".into(), String::new()));
    }
    topology
}

/// The work of one publisher: up to 24 messages without waiting, then the oldest first.
fn publish(publisher: &Publisher, model: &Model, ids: &[Id]) -> Result<Fates, String> {
    let mut fates = Vec::new();
    let mut waiting: Vec<(Id, Ticket)> = Vec::new();
    for &id in ids {
        let sent = &model.sent[id];
        let payload = model.payload(id);
        let mut message = Message::new(&sent.exchange, &sent.key, &payload);
        if sent.buffered {
            message = message.buffered();
        }
        match publisher.publish(&message) {
            Ok(ticket) => waiting.push((id, ticket)),
            Err(Error::Poisoned { .. }) => break,
            Err(error) => return Err(format!("publish {id}: {error}")),
        }
        if waiting.len() >= 24 {
            let (id, ticket) = waiting.remove(0);
            fates.push((id, fate(id, &ticket)?));
        }
    }
    for (id, ticket) in waiting {
        fates.push((id, fate(id, &ticket)?));
    }
    Ok(fates)
}

fn fate(id: Id, ticket: &Ticket) -> Result<Fate, String> {
    match ticket.wait_timeout(STUCK) {
        Ok(confirm) => Ok(Fate::Confirmed(confirm.first_offset.0)),
        Err(Error::Poisoned { .. }) => Ok(Fate::Pending),
        Err(error) => Err(format!("message {id}: {error}")),
    }
}

/// The work of consumers, one after another: each dies after some messages and leaves some unacked.
fn consume(
    engine: &Engine,
    queue: &str,
    model: &Model,
    seed: u64,
    done: &AtomicBool,
) -> Result<Deeds, String> {
    let mut random = Random::new(seed);
    let mut deeds = Vec::new();
    loop {
        let prefetch = [4, 30, 256][random.place(3)];
        let consumer = match engine.consume(queue, ConsumerOptions::prefetch(prefetch)) {
            Ok(consumer) => consumer,
            Err(Error::Poisoned { .. }) => return Ok(deeds),
            Err(error) => return Err(format!("consume {queue}: {error}")),
        };
        for _ in 0..30 + random.below(60) {
            let delivery = match consumer.recv_timeout(Duration::from_millis(3)) {
                Ok(Some(delivery)) => delivery,
                Ok(None) if done.load(Ordering::Acquire) => return Ok(deeds),
                Ok(None) => continue,
                Err(Error::Poisoned { .. } | Error::Io { .. }) => return Ok(deeds),
                Err(error) => return Err(format!("receive from {queue}: {error}")),
            };
            let id = model.recognise(delivery.payload())?;
            let offset = delivery.offset().0;
            match random.below(20) {
                0..2 => drop(delivery),
                2 => {
                    delivery.keep();
                }
                choice => {
                    let ack = delivery.ack().map_err(|error| format!("ack: {error}"))?;
                    let outcome = if choice < 8 { ack.wait_timeout(STUCK) } else { Ok(()) };
                    let acked = match outcome {
                        Ok(()) if choice < 8 => Acked::Durable,
                        Ok(()) | Err(Error::Poisoned { .. }) => Acked::Asked,
                        Err(error) => return Err(format!("ack of {id}: {error}")),
                    };
                    deeds.push((id, offset, acked));
                    continue;
                }
            }
            deeds.push((id, offset, Acked::No));
        }
    }
}

/// Declares, binds, unbinds and deletes queues of its own; says what was confirmed, and in doubt.
fn churn(
    engine: &Engine,
    ids: (usize, usize),
    done: &AtomicBool,
) -> Result<(Topology, Option<Topology>), String> {
    let stable = [("a", ids.0), ("b", ids.1)];
    let mut now = topology(&stable);
    for round in 0.. {
        if done.load(Ordering::Acquire) {
            break;
        }
        // Each queue of this name is another one; in the model one, of which nothing is known, does.
        let with = topology(&[stable[0], stable[1], ("t", 2)]);
        let mut unbound = with.clone();
        unbound.bindings.retain(|(queue, _, _)| queue != "t");
        let states = [unbound.clone(), with, unbound, topology(&stable)];
        for (step, next) in states.into_iter().enumerate() {
            let outcome = match step {
                0 => engine.declare_queue("t").map(drop),
                1 => engine.bind("t", "fan", ""),
                2 => engine.unbind("t", "fan", ""),
                _ => engine.delete_queue("t"),
            };
            match outcome {
                Ok(()) => now = next,
                Err(Error::Poisoned { .. }) => return Ok((now, Some(next))),
                Err(error) => return Err(format!("change {round} {step}: {error}")),
            }
            thread::yield_now();
        }
    }
    Ok((now, None))
}

fn run(seed: u64, cut: Option<u64>) -> Result<Run, String> {
    run_on(&MemoryStorage::new(), Meeting::default(), seed, cut, &[])
}

/// Now and then a write to a segment finds no space: some of its bytes are on the disk, or all.
fn no_space(seed: u64) -> Vec<FaultRule> {
    let mut random = Random::new(seed);
    let rule = |number: u64| {
        let full = std::io::ErrorKind::StorageFull;
        let fault = if random.chance(50) { Fault::ErrorAfter(full) } else { Fault::Error(full) };
        FaultRule::new(Call::Write, fault)
            .name_contains(".seg")
            .skip(10 * number + random.below(10))
    };
    (0..20).map(rule).collect()
}

fn run_on(
    disk: &MemoryStorage,
    meeting: Meeting,
    seed: u64,
    cut: Option<u64>,
    faults: &[FaultRule],
) -> Result<Run, String> {
    let disk = disk.clone();
    let meeting = Arc::new(meeting);
    let failing = FaultStorage::new(Arc::new(disk.clone()));
    let habits = Habits::new(Arc::new(failing.clone()), seed.is_multiple_of(2));
    let storage = Arc::new(habits.meeting(Arc::clone(&meeting)));
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), config())
        .map_err(|error| error.to_string())?;
    engine.declare_exchange("fan", ExchangeKind::Fanout).map_err(|error| error.to_string())?;
    for queue in ["a", "b"] {
        engine.declare_queue(queue).map_err(|error| error.to_string())?;
        engine.bind(queue, "fan", "").map_err(|error| error.to_string())?;
    }
    if let Some(cut) = cut {
        disk.cut_at(disk.operation_count() + cut);
    }
    for rule in faults {
        failing.fail(rule.clone());
    }
    let model = offered(seed);
    let done = AtomicBool::new(false);
    let fates = Mutex::new(Vec::new());
    let deeds = Mutex::new(Vec::new());
    let changed = Mutex::new(None);
    let problems = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let takers = [("a", 1), ("a", 2), ("b", 3)];
        for (queue, salt) in takers {
            let (engine, model, done, deeds, problems) =
                (&engine, &model, &done, &deeds, &problems);
            scope.spawn(move || match consume(engine, queue, model, seed ^ salt, done) {
                Ok(list) => deeds.lock().unwrap().push((queue, list)),
                Err(problem) => problems.lock().unwrap().push(problem),
            });
        }
        scope.spawn(|| match churn(&engine, (0, 1), &done) {
            Ok(topologies) => *changed.lock().unwrap() = Some(topologies),
            Err(problem) => problems.lock().unwrap().push(problem),
        });
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (engine, model, fates, problems) = (&engine, &model, &fates, &problems);
                scope.spawn(move || {
                    let own = |id: &Id| model.sent[*id].publisher == publisher;
                    let ids: Vec<Id> = (0..model.sent.len()).filter(own).collect();
                    match publish(&engine.publisher(), model, &ids) {
                        Ok(list) => fates.lock().unwrap().extend(list),
                        Err(problem) => problems.lock().unwrap().push(problem),
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    disk.cut_at(0);
    let durable = engine.stats().durable_offset.0;
    let again = engine.stats().batches_written_again;
    let mut problems = problems.into_inner().unwrap();
    // Power fails; threads of the engine do not.
    if let Err(Error::Poisoned { cause }) = engine.consume("a", ConsumerOptions::default())
        && matches!(&*cause, Error::Io { source, .. } if source.to_string().contains("panicked"))
    {
        problems.push(cause.to_string());
    }
    if let Err(error) = engine.close(STUCK)
        && !matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Io)
    {
        problems.push(format!("close: {error}"));
    }
    drop(engine);
    let mut run = Run { disk, model, durable, meeting, again, problems };
    run.assemble(fates.into_inner().unwrap(), deeds.into_inner().unwrap());
    if let Some((now, doubtful)) = changed.into_inner().unwrap() {
        run.model.new_queue("t");
        run.model.queues[2].lax = true;
        run.model.topology = now;
        run.model.doubtful = doubtful;
    }
    Ok(run)
}

impl Run {
    /// Puts together what the threads saw.
    fn assemble(&mut self, fates: Fates, deeds: Vec<(&str, Deeds)>) {
        for (id, fate) in fates {
            self.model.appended(id);
            self.model.sent[id].fate = fate;
        }
        for (queue, deeds) in deeds {
            let queue = usize::from(queue == "b");
            for (id, offset, acked) in deeds {
                match self.model.sent[id].fate {
                    // Only what may be confirmed is handed out. Power failed before its publisher
                    // was told: it has to be there as if it had been.
                    Fate::Pending => self.model.sent[id].fate = Fate::Confirmed(offset),
                    Fate::Confirmed(confirmed) if confirmed == offset => {}
                    fate => {
                        let came = format!("message {id} came at {offset}, its fate: {fate:?}");
                        self.problems.push(came);
                        continue;
                    }
                }
                let Some(entry) = self.model.queues[queue].entries.get_mut(&id) else {
                    self.problems.push(format!("message {id} was delivered to the wrong queue"));
                    continue;
                };
                entry.handed_out = true;
                entry.times.handed_out_somehow();
                if acked != Acked::No && entry.acked != Acked::No {
                    self.problems.push(format!("message {id} was acked twice"));
                } else if acked != Acked::No {
                    entry.acked = acked;
                }
            }
        }
    }
}

const IMAGES: [(CrashMode, u64); 4] = [
    (CrashMode::LoseUnsynced, 0),
    (CrashMode::KeepAll, 0),
    (CrashMode::Random, 1),
    (CrashMode::Random, 2),
];

#[test]
fn power_fails_while_batches_are_in_flight_together() {
    // What the threads do depends on how they are scheduled: one of some runs does all of it.
    let mut runs = (2..12).map(|number| run(number, None).unwrap());
    let uncut = runs.find(|uncut| {
        assert_none(&uncut.problems);
        let tally = tally(&purposes(&uncut.disk.operations()));
        let times = |purpose| tally.get(&purpose).copied().unwrap_or(0);
        times(Purpose::SegmentHeader) > 3
            && times(Purpose::FooterWrite) >= 3
            && times(Purpose::CheckpointRename) > 3
            && uncut.meeting.most() == 2
    });
    let uncut = uncut.expect("segments, footers, checkpoints, and two batches in flight");
    let operations = uncut.disk.operations();
    let cuts = chosen("FANLOG_CUTS").unwrap_or(80);
    let length = operations.len() as u64;
    let together = std::sync::atomic::AtomicUsize::new(0);
    let swapped = std::sync::atomic::AtomicUsize::new(0);
    let fallen_back = std::sync::atomic::AtomicUsize::new(0);
    let failures = for_each(cuts, |number| {
        let cut = number * length / cuts;
        let place = format!("cut {cut}");
        let run = run(number, Some(cut)).map_err(|problem| format!("{place}: {problem}"))?;
        together.fetch_add(run.meeting.failed_together(), Ordering::Relaxed);
        swapped.fetch_add(run.meeting.swapped(), Ordering::Relaxed);
        if let Some(problem) = run.problems.first() {
            return Err(format!("{place}: {problem}"));
        }
        let remains = Remains::new(Plan::new(number), run.disk, run.model, run.durable);
        for (mode, chance) in IMAGES {
            judge_image(&remains, mode, chance)
                .map_err(|problem| format!("{place} image {mode:?} {chance}: {problem}"))?;
        }
        let fell_back = judge_fall_back(&remains, CrashMode::LoseUnsynced, 0, number)
            .map_err(|problem| format!("{place} fallen back: {problem}"))?;
        fallen_back.fetch_add(usize::from(fell_back), Ordering::Relaxed);
        Ok(())
    });
    assert_none(&failures);
    let (together, swapped) = (together.into_inner(), swapped.into_inner());
    println!("{together} cuts while two were in flight, {swapped} times the later one went first");
    assert!(together > 0 && swapped > 0, "{together} {swapped}");
    let fallen_back = fallen_back.into_inner();
    assert!(fallen_back as u64 > cuts / 2, "{fallen_back}");
}

/// The later of two batches is on the disk, the earlier is not: nothing of either is confirmed.
#[test]
fn power_fails_between_the_later_batch_and_the_earlier() {
    let cut = std::sync::atomic::AtomicUsize::new(0);
    let failures = for_each(200, |number| {
        if cut.load(Ordering::Relaxed) >= 12 {
            return Ok(());
        }
        let disk = MemoryStorage::new();
        let after = usize::try_from(number % 2).unwrap();
        let meeting = Meeting::cutting(disk.clone(), after);
        let run = run_on(&disk, meeting, number, None, &[])
            .map_err(|problem| format!("{number}: {problem}"))?;
        cut.fetch_add(usize::from(run.meeting.swapped() > after), Ordering::Relaxed);
        if let Some(problem) = run.problems.first() {
            return Err(format!("{number}: {problem}"));
        }
        let remains = Remains::new(Plan::new(number), run.disk, run.model, run.durable);
        for (mode, chance) in IMAGES {
            judge_image(&remains, mode, chance)
                .map_err(|problem| format!("{number} image {mode:?} {chance}: {problem}"))?;
        }
        Ok(())
    });
    assert_none(&failures);
    let cut = cut.into_inner();
    println!("{cut} cuts between the two");
    assert!(cut >= 12, "{cut}");
}

/// Writes find no space now and then, with one batch in flight and with two, and are made again
/// elsewhere; power fails in between, or right after.
#[test]
fn power_fails_while_batches_that_found_no_space_are_written_again() {
    let again = std::sync::atomic::AtomicU64::new(0);
    let together = std::sync::atomic::AtomicUsize::new(0);
    let failures = for_each(chosen("FANLOG_CUTS").unwrap_or(40), |number| {
        let cut = 20 + number * 12 % 480;
        let disk = MemoryStorage::new();
        let run = run_on(&disk, Meeting::default(), number, Some(cut), &no_space(number))
            .map_err(|problem| format!("{number}: {problem}"))?;
        again.fetch_add(run.again, Ordering::Relaxed);
        together.fetch_max(run.meeting.most(), Ordering::Relaxed);
        if let Some(problem) = run.problems.first() {
            return Err(format!("{number}: {problem}"));
        }
        let remains = Remains::new(Plan::new(number), run.disk, run.model, run.durable);
        for (mode, chance) in IMAGES {
            judge_image(&remains, mode, chance)
                .map_err(|problem| format!("{number} image {mode:?} {chance}: {problem}"))?;
        }
        Ok(())
    });
    assert_none(&failures);
    let (again, together) = (again.into_inner(), together.into_inner());
    println!("{again} batches were written again");
    assert!(again > 20 && together >= 2, "{again} {together}");
}
