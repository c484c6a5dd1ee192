//! Recovery itself is cut, at each of its operations, and repeated.

use fanlog::storage::{CrashMode, MemoryStorage};
use fanlog_tests::world::{Remains, Stop};

use crate::cuts::{IMAGES, assert_none, for_each, purposes, run, tally, with_trace};

const STEPS: u64 = 250;

/// Cuts the recovery of `image` at each operation; returns how many there are.
fn cut_recovery(remains: &Remains, image: &MemoryStorage, everything: bool) -> Result<u64, String> {
    let whole = image.deep_copy();
    let (world, _) =
        remains.revive(whole.clone(), everything).map_err(|stop| format!("{stop:?}"))?;
    let operations = whole.operation_count();
    drop(world);
    for cut in 0..operations {
        let disk = image.deep_copy();
        disk.cut_at(cut);
        let mut world = remains.world_on(disk.clone());
        match world.open() {
            Err(Stop::Broken) => {}
            other => return Err(format!("recovery, cut at {cut}: {other:?}")),
        }
        drop(world);
        let operation = disk.operations().pop();
        for (mode, chance) in IMAGES {
            let again = disk.crash_image(chance, mode);
            let place =
                || format!("recovery cut at {cut} ({operation:?}), image {mode:?} {chance}");
            let (mut world, _) = remains
                .revive(again, everything)
                .map_err(|stop| format!("{}: {stop:?}", place()))?;
            if chance == 1 {
                world
                    .finish()
                    .map_err(|stop| with_trace(&world, &format!("{}: {stop:?}", place())))?;
            }
        }
    }
    Ok(operations)
}

#[test]
fn recovery_may_be_cut_anywhere_and_repeated() {
    let mut uncut = run(1, STEPS, None).unwrap();
    let purposes = purposes(&uncut.disk.operations());
    uncut.power_off().unwrap();
    // A sample with each kind of operation at least twice.
    let wanted = tally(&purposes);
    let mut taken = std::collections::BTreeMap::new();
    let sample: Vec<u64> = (0..purposes.len())
        .filter(|at| {
            let count = taken.entry(purposes[*at]).or_insert(0);
            *count += 1;
            let stride = wanted[&purposes[*at]].div_ceil(4);
            *count % stride == 0 || *count == 1
        })
        .map(|at| at as u64)
        .collect();
    assert!(sample.len() > 30, "{}", sample.len());
    let failures = for_each(sample.len() as u64, |number| {
        let cut = sample[usize::try_from(number).unwrap()];
        let mut world = run(1, STEPS, Some(cut))?;
        let remains = world.power_off().map_err(|stop| format!("{stop:?}"))?;
        for (mode, chance) in [(CrashMode::KeepAll, 0), (CrashMode::Random, cut)] {
            cut_recovery(&remains, &remains.image(chance, mode), mode == CrashMode::KeepAll)
                .map_err(|problem| format!("cut {cut} image {mode:?} {chance}: {problem}"))?;
        }
        Ok(())
    });
    assert_none(&failures);
}

#[test]
fn a_store_may_be_cut_while_it_is_made() {
    let whole = fanlog_tests::world::World::new(fanlog_tests::world::Plan::new(0));
    let remains = {
        let mut world = whole;
        world.disk.cut_at(0);
        assert_eq!(world.open(), Err(Stop::Broken));
        world.power_off().unwrap()
    };
    for plan in 0..2 {
        let mut remains = remains.clone();
        remains.plan.unwritten = plan == 1;
        let operations = cut_recovery(&remains, &MemoryStorage::new(), false).unwrap();
        assert!(operations > 10, "{operations}");
    }
}
