//! A write finds no space although some or all of its bytes reached the disk, and the batch is
//! written again: power is cut at every operation from there until the log has gone on.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use fanlog::storage::{Call, Fault, FaultRule};
use fanlog_tests::world::{Plan, Stop, World};

use crate::cuts::{IMAGES, assert_none, chosen, for_each, judge_image, with_trace};

const STEPS: u64 = 220;
/// Calls by chance after the one that was struck.
const AFTER: u64 = 10;
/// Writes of the run that are struck, one in each run.
const STRIKES: u64 = 40;

/// A run that was struck.
struct Struck {
    world: World,
    /// Operations on the disk before the call that was struck.
    from: u64,
}

/// Runs until a write finds no space, then on, unless power is cut. `None` if nothing was struck, or
/// if a call ended in doubt: the model cannot go on from there.
fn run(seed: u64, strike: u64, cut: Option<u64>) -> Result<Option<Struck>, String> {
    let mut world = World::new(Plan::new(seed));
    if let Some(cut) = cut {
        world.disk.cut_at(cut);
    }
    let skip = 40 + 3 * strike;
    let rule = |fault| FaultRule::new(Call::Write, fault).skip(skip);
    if strike.is_multiple_of(3) {
        // A block arrives, the rest does not.
        world.plant(rule(Fault::ShortWrite(4096)));
        world.plant(rule(Fault::Error(ErrorKind::StorageFull)));
    } else {
        let kind = [ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge][(strike % 2) as usize];
        world.plant(rule(Fault::ErrorAfter(kind)));
    }
    let mut from = 0;
    let outcome = world.open().and_then(|()| world.set_up()).and_then(|()| {
        for _ in 0..STEPS {
            from = world.disk.operation_count();
            world.run(1)?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => return Ok(None),
        Err(Stop::Problem(problem)) => return Err(with_trace(&world, &problem)),
        Err(Stop::Broken) if world.disk.is_cut() => return Ok(Some(Struck { world, from })),
        Err(Stop::Broken) if !matches!(world.failed_call().as_str(), "" | "receive" | "step") => {
            return Ok(None);
        }
        Err(Stop::Broken) => {}
    }
    world.forgive();
    match world.step_when_full().and_then(|()| world.run(AFTER)) {
        Err(Stop::Problem(problem)) => Err(with_trace(&world, &problem)),
        Err(Stop::Broken) if !world.disk.is_cut() => Err("it ended by itself".into()),
        _ => Ok(Some(Struck { world, from })),
    }
}

fn cut_around(seed: u64, strike: u64, again: &AtomicU64, cuts: &AtomicU64) -> Result<(), String> {
    let place = format!("seed {seed} strike {strike}");
    let rehearsed = run(seed, strike, None).map_err(|problem| format!("{place}: {problem}"))?;
    let Some(Struck { mut world, from }) = rehearsed else { return Ok(()) };
    let stats = world.engine().stats();
    let to = world.disk.operation_count();
    world.power_off().map_err(|stop| format!("{place}: {stop:?}"))?;
    if stats.batches_written_again == 0 || stats.poisoned {
        return if stats.poisoned { Err(format!("{place}: poisoned")) } else { Ok(()) };
    }
    again.fetch_add(stats.batches_written_again, Ordering::Relaxed);
    for cut in from..to {
        let place = format!("{place} cut {cut}");
        let struck =
            run(seed, strike, Some(cut)).map_err(|problem| format!("{place}: {problem}"))?;
        let Some(Struck { mut world, .. }) = struck else {
            return Err(format!("{place}: the run differs from the uncut one"));
        };
        let remains = world.power_off().map_err(|stop| format!("{place}: {stop:?}"))?;
        for (mode, chance) in IMAGES {
            judge_image(&remains, mode, chance)
                .map_err(|problem| format!("{place} image {mode:?} {chance}: {problem}"))?;
        }
        cuts.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn what_found_no_space_is_written_again_and_never_comes_twice() {
    let (again, cuts) = (AtomicU64::new(0), AtomicU64::new(0));
    let seeds = chosen("FANLOG_SEED").map_or(vec![2, 3, 5, 7], |seed| vec![seed]);
    for seed in seeds {
        assert_none(&for_each(STRIKES, |strike| cut_around(seed, strike, &again, &cuts)));
    }
    let (again, cuts) = (again.into_inner(), cuts.into_inner());
    println!("{again} batches written again, {cuts} cuts");
    assert!(again > 20 && cuts > 300, "{again} {cuts}");
}
