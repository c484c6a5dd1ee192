//! Each call of the storage fails once, in turn.
//!
//! A failure poisons the engine, or is told to the one caller and the engine goes on. Whichever it
//! is, everyone is told, and the store is sound when it is opened again.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use fanlog::Message;
use fanlog::storage::{Call, CrashMode, Fault, FaultRule};
use fanlog_tests::world::{Plan, Stop, World};

const STEPS: u64 = 260;
const FULL: Fault = Fault::Error(ErrorKind::StorageFull);

/// How a run with a fault went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    /// The fault was never reached: there are not so many calls.
    Well,
    /// The store did not open; the next attempt did.
    NotOpened,
    Poisoned,
    /// One caller was told, and the engine went on; or the background, which ends it.
    On,
}

fn fail_call(seed: u64, number: u64, call: Call, fault: Fault) -> Result<Went, String> {
    let mut world = World::new(Plan::new(seed));
    world.plant(FaultRule::new(call, fault).skip(number));
    match world.open() {
        Ok(()) => {}
        Err(Stop::Broken) => {
            world.forgive();
            world.open().map_err(|stop| format!("opened again: {stop:?}"))?;
            world.judge(false, 0).map_err(|stop| format!("opened again: {stop:?}"))?;
            return Ok(Went::NotOpened);
        }
        Err(Stop::Problem(problem)) => return Err(problem),
    }
    match world.set_up().and_then(|()| world.run(STEPS)) {
        Ok(()) => return Ok(Went::Well),
        Err(Stop::Broken) => {}
        Err(Stop::Problem(problem)) => return Err(problem),
    }
    let poisoned = world.engine().stats().poisoned;
    if poisoned {
        told_everyone(&world)?;
        let synced =
            world.faults.as_ref().is_some_and(|faults| faults.last_struck().is_some_and(is_sync));
        if is_full(fault) && !synced {
            return Err(format!("want of space in {:?} ended it", world.failed_call()));
        }
    } else if goes_on(&world.failed_call(), fault) {
        // Only the caller was concerned; with a failure of the background's the engine would end.
        world.forgive();
        let on = world.step_when_full().and_then(|()| world.run(40)).and_then(|()| world.finish());
        on.map_err(|stop| format!("going on after {}: {stop:?}", world.failed_call()))?;
        return Ok(Went::On);
    }
    let remains = world.power_off().map_err(|stop| format!("{stop:?}"))?;
    for (mode, chance) in
        [(CrashMode::KeepAll, 0), (CrashMode::LoseUnsynced, 0), (CrashMode::Random, number)]
    {
        let image = remains.image(chance, mode);
        // What the failed call did to the disk is not known: only what is durable must be there.
        let (mut world, _) =
            remains.revive(image, false).map_err(|stop| format!("{mode:?}: {stop:?}"))?;
        world.finish().map_err(|stop| format!("{mode:?}, afterwards: {stop:?}"))?;
    }
    Ok(if poisoned { Went::Poisoned } else { Went::On })
}

fn is_full(fault: Fault) -> bool {
    !matches!(fault, Fault::Error(ErrorKind::Other) | Fault::ErrorAfter(ErrorKind::Other))
}

/// A sync that fails leaves in doubt what it was for, whatever it says.
fn is_sync(call: Call) -> bool {
    matches!(call, Call::Sync | Call::SyncDirectory)
}

/// Whether a failed call that did not poison the engine leaves it in working order: one caller was
/// concerned, or the background, which waits for space. Other failures of the background's end the
/// engine where it has threads.
fn goes_on(call: &str, fault: Fault) -> bool {
    // With want of space nothing else may have been noticed, or a wait ended for want of progress.
    let passes = matches!(call, "" | "step" | "ack" | "drain" | "wait") && is_full(fault);
    matches!(call, "receive" | "checkpoint") || passes
}

/// After a failure: every ticket has its outcome, and every call is refused.
fn told_everyone(world: &World) -> Result<(), String> {
    if !world.all_told() {
        return Err("a ticket has no outcome though the engine is poisoned".into());
    }
    let engine = world.engine();
    let publisher = engine.publisher();
    let kind = |error: fanlog::Error| error.kind();
    let refused = [
        publisher.publish(&Message::new("", "a", b"late")).map(drop).map_err(kind),
        publisher.publish_confirmed(&Message::new("", "a", b"late")).map(drop).map_err(kind),
        engine.declare_queue("late").map(drop).map_err(kind),
        engine.checkpoint().map_err(kind),
        engine.consume("a", fanlog::ConsumerOptions::default()).map(drop).map_err(kind),
    ];
    match refused.iter().position(|outcome| *outcome != Err(fanlog::ErrorKind::Poisoned)) {
        None => Ok(()),
        Some(at) => Err(format!("call {at} on a poisoned engine: {:?}", refused[at])),
    }
}

/// Lets each call fail once; returns how often it went how.
#[track_caller]
fn fail_each_call(seed: u64, call: Call, fault: Fault) -> [u64; 3] {
    let next = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let went = Mutex::new([0; 3]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match fail_call(seed, number, call, fault) {
                        Ok(Went::Well) => over.store(true, Ordering::Relaxed),
                        Ok(how) => went.lock().unwrap()[how as usize - 1] += 1,
                        Err(problem) => {
                            let text = format!("seed {seed} call {number} {fault:?}: {problem}");
                            let mut failures = failures.lock().unwrap();
                            failures.push(text);
                            over.fetch_or(failures.len() > 10, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    went.into_inner().unwrap()
}

#[test]
fn each_call_fails_once_without_effect() {
    let [not_opened, poisoned, went_on] =
        fail_each_call(1, Call::Any, Fault::Error(ErrorKind::Other));
    println!("{not_opened} at opening, {poisoned} poisoned, {went_on} went on");
    assert!(not_opened > 10 && poisoned > 60, "{not_opened} {poisoned} {went_on}");
}

#[test]
fn each_call_fails_once_after_its_effect() {
    let [not_opened, poisoned, went_on] =
        fail_each_call(6, Call::Any, Fault::ErrorAfter(ErrorKind::Other));
    println!("{not_opened} at opening, {poisoned} poisoned, {went_on} went on");
    assert!(not_opened > 10 && poisoned > 60, "{not_opened} {poisoned} {went_on}");
}

#[test]
fn each_call_finds_no_space_once() {
    for seed in [3, 4] {
        let [not_opened, poisoned, went_on] = fail_each_call(seed, Call::Any, FULL);
        println!("{not_opened} at opening, {poisoned} poisoned, {went_on} went on");
        assert!(not_opened > 10 && went_on > 60, "{not_opened} {poisoned} {went_on}");
    }
}

#[test]
fn each_write_finds_no_space_once_whatever_of_it_is_on_the_disk() {
    for (seed, fault) in [
        (3, Fault::ErrorAfter(ErrorKind::StorageFull)),
        (4, Fault::ErrorAfter(ErrorKind::QuotaExceeded)),
        (5, Fault::Error(ErrorKind::FileTooLarge)),
        (6, Fault::ShortWrite(0)),
    ] {
        let [not_opened, poisoned, went_on] = fail_each_call(seed, Call::Write, fault);
        println!("{not_opened} at opening, {poisoned} poisoned, {went_on} went on");
        assert!(poisoned == 0 && went_on > 40, "{not_opened} {poisoned} {went_on}");
    }
}
