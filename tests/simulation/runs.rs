//! Runs by chance against the model, through closes and crashes.

use std::fmt::Write;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fanlog::storage::Operation;
use fanlog_tests::world::{Counts, Plan, Stop, World};

/// Seeds that are run where nothing else is asked for.
const SEEDS: u64 = 300;
const STEPS: u64 = 700;

fn chosen(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// One run: what the disk was asked to do, and what was done.
pub(crate) fn run(seed: u64, steps: u64) -> Result<World, String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run_unguarded(seed, steps)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        Err(format!("seed {seed}: panic: {text}"))
    })
}

fn run_unguarded(seed: u64, steps: u64) -> Result<World, String> {
    let mut world = World::new(Plan { lives: true, wide: true, ..Plan::new(seed) });
    let outcome = world
        .open()
        .and_then(|()| world.set_up())
        .and_then(|()| world.run(steps))
        .and_then(|()| world.finish());
    match outcome {
        Ok(()) => Ok(world),
        Err(Stop::Broken) => Err(format!("seed {seed}: power failed by itself")),
        Err(Stop::Problem(problem)) => {
            let mut text = format!("seed {seed}: {problem}");
            let shown = if chosen("FANLOG_SEED").is_some() { usize::MAX } else { 15 };
            let from = world.trace.len().saturating_sub(shown);
            for line in &world.trace[from..] {
                write!(text, "\n    {line}").unwrap();
            }
            Err(text)
        }
    }
}

#[test]
fn what_the_model_holds_is_what_the_engine_delivers() {
    if let Some(seed) = chosen("FANLOG_SEED") {
        let world = run(seed, STEPS).unwrap_or_else(|problem| panic!("{problem}"));
        for line in &world.trace {
            println!("{line}");
        }
        return;
    }
    let seeds = chosen("FANLOG_SEEDS").unwrap_or(SEEDS);
    let first = chosen("FANLOG_FIRST_SEED").unwrap_or(0);
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Counts::default());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - first >= seeds || failures.lock().unwrap().len() > 10 {
                        return;
                    }
                    match run(seed, STEPS) {
                        Ok(world) => total.lock().unwrap().add(&world.counts),
                        Err(problem) => {
                            // At once: a night is long.
                            println!("{}", problem.lines().next().unwrap_or_default());
                            failures.lock().unwrap().push(problem);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let total = total.into_inner().unwrap();
    println!("{seeds} seeds from {first}: {total:?}");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    assert!(total.closes > seeds && total.crashes > seeds / 2, "{total:?}");
    assert!(total.kills > seeds / 4, "{total:?}");
    assert!(total.transactions > seeds, "{total:?}");
    assert!(total.purges > seeds / 2 && total.backups > seeds / 4, "{total:?}");
    assert!(total.rewritten > seeds / 4 && total.merged > seeds / 8, "{total:?}");
    assert!(total.delayed > seeds && total.waited_for_due > seeds, "{total:?}");
    assert!(total.recycled > seeds && total.redelivered > seeds, "{total:?}");
    assert!(total.named > seeds && total.repeats > seeds && total.resent > seeds / 16, "{total:?}");
    assert!(total.transient > seeds && total.letters > seeds, "{total:?}");
    assert!(total.kept_payloads > seeds / 4 && total.purged_beside > seeds / 2, "{total:?}");
    assert!(total.shortened > seeds / 2 && total.refused_full > seeds / 8, "{total:?}");
    assert!(total.by_headers > seeds && total.by_alternate > seeds / 2, "{total:?}");
    assert!(total.passed_away > seeds / 2 && total.owners_gone > seeds / 8, "{total:?}");
    assert!(total.bound_late > seeds && total.rewound > seeds, "{total:?}");
    disks_failed(&total, seeds);
}

/// Whatever a disk may do was done by some.
#[track_caller]
fn disks_failed(total: &Counts, seeds: u64) {
    assert!(total.kept_sectors > seeds && total.lost_sectors > seeds, "{total:?}");
    assert!(total.torn_blocks > seeds / 16 && total.reordered_writes > seeds / 16, "{total:?}");
    assert!(total.failed_calls > seeds / 4 && total.poisoned > seeds / 4, "{total:?}");
    assert!(total.full_disks > seeds / 8 && total.written_again > seeds / 8, "{total:?}");
    assert!(total.short_writes > seeds && total.slow_writes > seeds, "{total:?}");
    assert!(total.rotten_bits > seeds / 4 && total.lost_writes > seeds / 4, "{total:?}");
    assert!(total.misdirected_writes > seeds / 4, "{total:?}");
    assert!(total.misdirected_reads > seeds / 4 && total.failed_reads > seeds / 8, "{total:?}");
    assert!(total.refused > seeds / 4 && total.reported > seeds / 8, "{total:?}");
    assert!(total.harmless > seeds / 4 && total.around_damage > seeds / 4, "{total:?}");
    assert!(total.fell_back > seeds / 4, "{total:?}");
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for seed in [3, 8, 21] {
        let (one, other) = (run(seed, STEPS).unwrap(), run(seed, STEPS).unwrap());
        let difference = one.trace.iter().zip(&other.trace).position(|(one, other)| one != other);
        assert_eq!(difference, None, "seed {seed}");
        assert_eq!(one.trace.len(), other.trace.len(), "seed {seed}");
        let (one, other) = (one.disk.operations(), other.disk.operations());
        let same = |pair: (&Operation, &Operation)| pair.0 == pair.1;
        assert!(one.iter().zip(&other).all(same) && one.len() == other.len(), "seed {seed}");
    }
}
