//! Cutting a run at an operation, and judging what is left.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fanlog::OnDamage;
use fanlog::storage::{CrashMode, Operation, Storage};
use fanlog_tests::operations::{Classifier, Purpose, extension};
use fanlog_tests::world::{Plan, Remains, Stop, World};

/// Segments of the size that classifying falls back to.
const SEGMENT_BYTES: u64 = 64 << 10;

/// What is read back after a cut: modes, and seeds of chance.
pub(crate) const IMAGES: [(CrashMode, u64); 5] = [
    (CrashMode::LoseUnsynced, 0),
    (CrashMode::KeepAll, 0),
    (CrashMode::Random, 1),
    (CrashMode::Random, 2),
    (CrashMode::Random, 3),
];

/// The workload of the crash tests, up to its end or to the cut.
pub(crate) fn run(seed: u64, steps: u64, cut: Option<u64>) -> Result<World, String> {
    let mut world = World::new(Plan::new(seed));
    if let Some(cut) = cut {
        world.disk.cut_at(cut);
    }
    let outcome = world
        .open()
        .and_then(|()| world.set_up())
        .and_then(|()| world.run(steps / 2))
        .and_then(|()| world.fill_and_thin())
        .and_then(|()| world.run(steps / 2));
    match outcome {
        Ok(()) => Ok(world),
        Err(Stop::Broken) if cut.is_some() => Ok(world),
        Err(Stop::Broken) => Err("it ended by itself".into()),
        Err(Stop::Problem(problem)) => Err(with_trace(&world, &problem)),
    }
}

/// A problem with the last calls before it.
pub(crate) fn with_trace(world: &World, problem: &str) -> String {
    let mut text = problem.to_owned();
    let from = world.trace.len().saturating_sub(12);
    for line in &world.trace[from..] {
        write!(text, "\n    {line}").unwrap();
    }
    text
}

/// Opens an image of the remains, judges it, and lets it work.
pub(crate) fn judge_image(remains: &Remains, mode: CrashMode, chance: u64) -> Result<(), String> {
    let everything = mode == CrashMode::KeepAll;
    let image = remains.image(chance, mode);
    let (mut world, _) = remains.revive(image, everything).map_err(|stop| format!("{stop:?}"))?;
    world.finish().map_err(|stop| with_trace(&world, &format!("afterwards: {stop:?}")))
}

/// Damages the newest checkpoint of an image and opens it all the same: recovery falls back to the
/// older one, and everything that was promised is there. Says whether there was one to fall back to.
pub(crate) fn judge_fall_back(
    remains: &Remains,
    mode: CrashMode,
    chance: u64,
    place: u64,
) -> Result<bool, String> {
    let everything = mode == CrashMode::KeepAll;
    let image = remains.image(chance, mode);
    let mut checkpoints: Vec<(String, u64)> = image
        .list()
        .map_err(|error| error.to_string())?
        .into_iter()
        .filter(|entry| extension(&entry.name) == "ckpt")
        .map(|entry| (entry.name, entry.bytes))
        .collect();
    checkpoints.sort();
    let [.., (older, _), (newest, bytes)] = checkpoints.as_slice() else { return Ok(false) };
    // Behind the version: another version is refused as such.
    let position = 16 + place.wrapping_mul(7919) % (bytes - 16);
    image.corrupt(newest, position, 1).map_err(|error| error.to_string())?;
    let mut world = remains.world_on(image);
    world.config().on_damage = OnDamage::Quarantine;
    // The epoch that only the newest knew of: nothing was written in it.
    world.model.epoch = world.model.epoch.saturating_sub(1);
    world.open().map_err(|stop| format!("{stop:?}"))?;
    let recovery = world.engine().recovery();
    let started_from = format!("{:08}.ckpt", recovery.checkpoint);
    if started_from != *older || recovery.gaps.is_empty() {
        return Err(format!("it should start from {older} and tell of {newest}: {recovery:?}"));
    }
    let judged = world.judge(everything, remains.durable);
    judged.map_err(|stop| format!("from {older}: {stop:?}"))?;
    world.finish().map_err(|stop| with_trace(&world, &format!("afterwards: {stop:?}")))?;
    Ok(true)
}

/// The purposes of a run's operations, in order.
pub(crate) fn purposes(operations: &[Operation]) -> Vec<Purpose> {
    let mut classifier = Classifier::default();
    operations.iter().map(|operation| classifier.purpose(operation, SEGMENT_BYTES)).collect()
}

/// How often each purpose occurs.
pub(crate) fn tally(purposes: &[Purpose]) -> BTreeMap<Purpose, usize> {
    let mut tally = BTreeMap::new();
    for purpose in purposes {
        *tally.entry(*purpose).or_default() += 1;
    }
    tally
}

/// Does `work` for every number below `count`, in as many threads as there are processors.
/// Collects failures; gives up after some.
pub(crate) fn for_each(count: u64, work: impl Fn(u64) -> Result<(), String> + Sync) -> Vec<String> {
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || failures.lock().unwrap().len() >= 40 {
                        return;
                    }
                    if let Err(failure) = work(number) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// Fails the test if there are failures, and shows the first ones.
#[track_caller]
pub(crate) fn assert_none(failures: &[String]) {
    let shown: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), shown.join("\n"));
}

/// A number from the environment, to replay one case.
pub(crate) fn chosen(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
