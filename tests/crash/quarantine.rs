//! Recovery around damage is cut at each of its operations, and repeated: the same comes of it.

use std::sync::atomic::{AtomicU64, Ordering};

use fanlog::{
    OnDamage,
    storage::{CrashMode, MemoryStorage},
};
use fanlog_tests::{
    around::{self, Shown},
    operations::extension,
    world::{Remains, Stop, World},
};

use crate::cuts::{IMAGES, assert_none, for_each, run};

/// Runs, of which half are closed in the end; with the second half of them damage is repaired.
const SEEDS: u64 = 4;
/// How many kinds of damage there are.
const KINDS: u64 = 9;
/// The one that only a repair looks for.
const DEEP: u64 = 8;

fn open_around(remains: &Remains, disk: &MemoryStorage, how: OnDamage) -> Result<World, Stop> {
    let mut world = remains.world_on(disk.clone());
    world.config().on_damage = how;
    world.open().map(|()| world)
}

/// Segments that were begun, and the newest checkpoint.
fn targets(disk: &MemoryStorage) -> (Vec<String>, String) {
    let mut names: Vec<String> = fanlog::storage::Storage::list(disk)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| !name.starts_with("free-"))
        .collect();
    names.sort();
    let begun = |name: &&String| {
        extension(name) == "seg" && disk.read_file(name).unwrap().starts_with(b"fanlogSG")
    };
    let segments = names.iter().filter(begun).cloned().collect();
    let checkpoint = names.iter().rfind(|name| extension(name) == "ckpt").unwrap().clone();
    (segments, checkpoint)
}

/// One kind of damage; says what it is.
fn harm(disk: &MemoryStorage, kind: u64) -> &'static str {
    let (segments, checkpoint) = targets(disk);
    let (first, last) = (&segments[0], segments.last().unwrap());
    match kind {
        0 => {
            disk.remove_file(&checkpoint).unwrap();
            "the newest checkpoint is gone"
        }
        1 => {
            disk.corrupt(&checkpoint, 40, 1).unwrap();
            "the newest checkpoint is bad"
        }
        2 => {
            disk.remove_file(first).unwrap();
            "the first segment is gone"
        }
        3 => {
            disk.corrupt(first, 70, 1).unwrap();
            "the first segment's header is bad"
        }
        4 => {
            disk.corrupt(last, 70, 1).unwrap();
            "the last segment's header is bad"
        }
        5 => {
            disk.corrupt(last, 4096 + 20, 1).unwrap();
            "the last segment's first batch is bad"
        }
        6 => {
            disk.truncate(last, 8192).unwrap();
            "the last segment is short"
        }
        DEEP => {
            disk.corrupt(first, 4096 + 100, 1).unwrap();
            "a record of the first segment is bad"
        }
        _ => {
            let bytes = disk.read_file(first).unwrap();
            disk.write_file("00000777.seg", &bytes).unwrap();
            "the first segment is there twice"
        }
    }
}

fn shown(world: &World, remains: &Remains) -> Result<Shown, String> {
    around::compare(world.engine(), &remains.model).map(|around| around.shown)
}

fn cut_everywhere(remains: &Remains, image: &MemoryStorage, how: OnDamage) -> Result<u64, String> {
    let whole = image.deep_copy();
    let world = open_around(remains, &whole, how).map_err(|stop| format!("{stop:?}"))?;
    if world.engine().recovery().gaps.is_empty() {
        return Err("it is not told".into());
    }
    let expected = shown(&world, remains)?;
    let operations = whole.operation_count();
    drop(world);
    for cut in 0..operations {
        let disk = image.deep_copy();
        disk.cut_at(cut);
        match open_around(remains, &disk, how) {
            Err(Stop::Broken) => {}
            other => return Err(format!("cut at {cut}: {:?}", other.map(drop))),
        }
        let operation = disk.operations().pop();
        for (mode, chance) in IMAGES {
            let place = || format!("cut at {cut} ({operation:?}), image {mode:?} {chance}");
            let again = disk.crash_image(chance, mode);
            let mut world = open_around(remains, &again, how)
                .map_err(|stop| format!("{}: {stop:?}", place()))?;
            let found = again_shown(&world, remains)
                .map_err(|problem| format!("{}: {problem}", place()))?;
            if found != expected {
                return Err(format!("{}: {found:?}, expected was {expected:?}", place()));
            }
            if chance == 1 {
                world.let_all_fall_due();
                around::use_up(world.engine(), &remains.model, &found)
                    .map_err(|problem| format!("{}: {problem}", place()))?;
            }
        }
    }
    Ok(operations)
}

/// What is shown, where the gaps may have been told by an earlier attempt.
fn again_shown(world: &World, remains: &Remains) -> Result<Shown, String> {
    if !world.engine().recovery().gaps.is_empty() {
        return shown(world, remains);
    }
    let mut all = Shown::new();
    for queue in world.engine().topology().queues {
        let list = world.engine().browse(&queue.name).map_err(|error| error.to_string())?;
        let list = list
            .map(|message| message.map(|message| (message.offset.0, message.acked)))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        all.insert(queue.name, list);
    }
    Ok(all)
}

#[test]
fn recovery_around_damage_may_be_cut_anywhere_and_repeated() {
    let harmless = AtomicU64::new(0);
    let failures = for_each(SEEDS * KINDS, |number| {
        let (seed, kind) = (number / KINDS, number % KINDS);
        let how = if seed < SEEDS / 2 { OnDamage::Quarantine } else { OnDamage::Repair };
        let mut world = run(seed + 20, 150, None)?;
        if seed % 2 == 0 {
            world.settle().and_then(|()| world.close()).map_err(|stop| format!("{stop:?}"))?;
        } else {
            // After a second of rest the last batch is vouched for.
            for _ in 0..3 {
                world.settle().map_err(|stop| format!("{stop:?}"))?;
                world.clock.advance(std::time::Duration::from_millis(1100));
            }
        }
        let remains = world.power_off().map_err(|stop| format!("{stop:?}"))?;
        let image = remains.image(0, CrashMode::KeepAll);
        let what = harm(&image, kind);
        let looked_for = kind == DEEP && how == OnDamage::Repair;
        if !looked_for && remains.world_on(image.deep_copy()).open().is_ok() {
            // A segment that is not listed any more, or damage that opening does not look for.
            harmless.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let operations = cut_everywhere(&remains, &image, how)
            .map_err(|problem| format!("seed {seed}, {what}: {problem}"))?;
        if operations < 5 {
            return Err(format!("seed {seed}, {what}: only {operations} operations"));
        }
        Ok(())
    });
    assert_none(&failures);
    // At most those of the first segment, which may be off the list, and a few.
    assert!(harmless.into_inner() < SEEDS * 4, "most damage is to be seen");
}
