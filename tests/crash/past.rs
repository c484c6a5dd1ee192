//! Exchanges that keep histories: every operation of a run with late bindings and rewinds is cut once.

use fanlog::storage::{CrashMode, MemoryStorage, Storage};
use fanlog_tests::operations::extension;
use fanlog_tests::past::PastWorld;

use crate::cuts::{IMAGES, assert_none, chosen, for_each};

const STEPS: u64 = 160;

/// The run, up to its end or to the cut.
fn run(seed: u64, cut: Option<u64>) -> Result<PastWorld, String> {
    let mut world = PastWorld::new(seed);
    if let Some(cut) = cut {
        world.disk.cut_at(cut);
    }
    let acted = world.set_up().and_then(|()| (0..STEPS).try_for_each(|_| world.act()));
    match acted {
        Err(error) if !world.disk.is_cut() => Err(format!("{}: {error:?}", world.last)),
        _ => Ok(world),
    }
}

/// Damages the newest checkpoint of an image, so that recovery starts from the older one; says whether
/// there are two.
fn without_newest(image: &MemoryStorage, place: u64) -> bool {
    let entries = image.list().unwrap().into_iter();
    let mut checkpoints: Vec<(String, u64)> = entries
        .filter(|entry| extension(&entry.name) == "ckpt")
        .map(|entry| (entry.name, entry.bytes))
        .collect();
    checkpoints.sort();
    let [.., _, (newest, bytes)] = checkpoints.as_slice() else { return false };
    let position = 16 + place.wrapping_mul(7919) % (bytes - 16);
    image.corrupt(newest, position, 1).unwrap();
    true
}

fn cut_everywhere(seed: u64) -> (u64, u64) {
    let world = run(seed, None).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    world.compare().unwrap();
    let failures = for_each(world.disk.operation_count(), |cut| {
        if chosen("FANLOG_CUT").is_some_and(|chosen| chosen != cut) {
            return Ok(());
        }
        let place = format!("seed {seed} cut {cut}");
        let world = run(seed, Some(cut)).map_err(|problem| format!("{place}: {problem}"))?;
        for (number, (mode, chance)) in (0..).zip(IMAGES) {
            let image = || world.disk.crash_image(chance, mode);
            let judged = world.judge(image(), 20, false);
            judged.map_err(|problem| format!("{place} {mode:?} {chance}: {problem}"))?;
            let fallen_back = image();
            if cut % 5 == number && without_newest(&fallen_back, cut) {
                let judged = world.judge(fallen_back, 20, true);
                judged.map_err(|problem| format!("{place} {mode:?} fallen back: {problem}"))?;
            }
        }
        Ok(())
    });
    assert_none(&failures);
    world.brought
}

#[test]
fn whatever_a_crash_leaves_a_rewind_took_place_as_a_whole_or_not_at_all() {
    assert_eq!(IMAGES[0].0, CrashMode::LoseUnsynced);
    let seeds = chosen("FANLOG_SEED").map_or(vec![5, 11], |seed| vec![seed]);
    let (mut calls, mut messages) = (0, 0);
    for seed in seeds {
        let brought = cut_everywhere(seed);
        calls += brought.0;
        messages += brought.1;
    }
    assert!(calls >= 10 && messages >= 50, "{calls} calls brought {messages}");
}
