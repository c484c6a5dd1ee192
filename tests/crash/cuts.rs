//! Cutting a run at an operation, and judging what is left.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fanlog::storage::{CrashMode, Operation};
use fanlog_tests::operations::{Classifier, Purpose};
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
    let outcome = world.open().and_then(|()| world.set_up()).and_then(|()| world.run(steps));
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
