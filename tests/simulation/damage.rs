//! A byte of a properly closed store changes, or a file is cut short, or is gone.
//!
//! Then opening says so, or checking does, or it was a byte that means nothing and all is as it was.
//! Never is a message gone, or different, without a word. And where damage may be quarantined the
//! store opens: what is left is delivered, what is not is told, and it works as before.

use std::time::Duration;

use fanlog::OnDamage;
use fanlog::storage::{CrashMode, MemoryStorage, Storage};
use fanlog_tests::around;
use fanlog_tests::random::Random;
use fanlog_tests::world::{Plan, Remains, Stop, World};

const BLOCK: usize = 4096;

/// What was done to a store, and what came of it.
#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    reported: u64,
    harmless: u64,
    quarantined: u64,
    missing: u64,
}

fn closed_store(seed: u64) -> Remains {
    let mut world = World::new(Plan::new(seed));
    let outcome = world
        .open()
        .and_then(|()| world.set_up())
        .and_then(|()| world.run(200))
        .and_then(|()| world.settle())
        .and_then(|()| world.close());
    assert_eq!(outcome, Ok(()), "seed {seed}");
    world.power_off().unwrap()
}

/// Opens a damaged store and says what is wrong with the way it answers.
fn judge(remains: &Remains, disk: &MemoryStorage, tally: &mut Tally) -> Result<(), String> {
    judge_around(remains, &disk.deep_copy(), tally)
        .map_err(|problem| format!("with quarantine: {problem}"))?;
    let before: Vec<(String, Vec<u8>)> = contents(disk);
    let mut world = remains.world_on(disk.clone());
    world.config().on_damage = OnDamage::Fail;
    if let Err(stop) = world.open() {
        tally.refused += 1;
        let known = matches!(&stop, Stop::Problem(problem)
            if problem.contains("corrupt") || problem.contains("damaged")
                || problem.contains("version"));
        if !known {
            return Err(format!("refused with {stop:?}"));
        }
        return if contents(disk) == before {
            Ok(())
        } else {
            Err("opening failed and changed the disk".into())
        };
    }
    let report = world.engine().check(&mut |_| {}).map_err(|error| format!("check: {error}"))?;
    if !report.problems.is_empty() {
        tally.reported += 1;
        return no_wrong_byte(&world);
    }
    tally.harmless += 1;
    world.judge(true, u64::MAX).map_err(|stop| format!("unnoticed: {stop:?}"))?;
    Ok(())
}

/// Opens a damaged store around the damage.
fn judge_around(remains: &Remains, disk: &MemoryStorage, tally: &mut Tally) -> Result<(), String> {
    let before = contents(disk);
    let mut world = remains.world_on(disk.clone());
    world.config().on_damage = OnDamage::Quarantine;
    if let Err(stop) = world.open() {
        // What seems to be of a newer version is never touched.
        let newer = matches!(&stop, Stop::Problem(problem) if problem.contains("version"));
        if !newer || contents(disk) != before {
            return Err(format!("it does not open: {stop:?}"));
        }
        return Ok(());
    }
    let engine = world.engine().clone();
    tally.quarantined += u64::from(!engine.recovery().gaps.is_empty());
    let found = around::compare(&engine, &remains.model)?;
    tally.missing += found.missing;
    world.let_all_fall_due();
    around::use_up(&engine, &remains.model, &found.shown)?;
    engine.close(Duration::from_secs(10)).map_err(|error| format!("close: {error}"))?;
    drop(engine);
    drop(world);
    let mut world = remains.world_on(disk.clone());
    world.open().map_err(|stop| format!("it does not open again: {stop:?}"))?;
    let recovery = world.engine().recovery();
    if !recovery.clean || !recovery.gaps.is_empty() {
        return Err(format!("it is not whole afterwards: {recovery:?}"));
    }
    Ok(())
}

/// Whatever is shown is right, or is said to be damaged.
fn no_wrong_byte(world: &World) -> Result<(), String> {
    for queue in world.model.topology.queues.keys() {
        let Ok(browser) = world.engine().browse(queue) else { continue };
        for message in browser {
            let Ok(message) = message else { break };
            if message.damage.is_none() {
                world.model.recognise(&message.payload)?;
            }
        }
    }
    Ok(())
}

fn contents(disk: &MemoryStorage) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<String> = disk.list().unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

/// Files that belong to the log.
fn files(disk: &MemoryStorage) -> Vec<(String, u64)> {
    let mut files: Vec<(String, u64)> = disk
        .list()
        .unwrap()
        .into_iter()
        .filter(|entry| entry.bytes > 0 && !entry.name.starts_with("free-"))
        .map(|entry| (entry.name, entry.bytes))
        .collect();
    files.sort();
    files
}

/// How many seeds a test gets: more, if that is asked for.
fn seeds(usual: u64) -> u64 {
    let asked = std::env::var("FANLOG_DAMAGE_SEEDS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(usual)
}

/// Changes a bit, or loses or repeats a block of the disk's, each in another copy of it.
#[track_caller]
fn change_bytes(remains: &Remains, seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    for _ in 0..60 {
        let disk = remains.image(0, CrashMode::KeepAll);
        let files = files(&disk);
        let (name, bytes) = &files[random.place(files.len())];
        // Where most bytes mean something: near the start, or anywhere.
        let bound = if random.chance(50) { (*bytes).min(20_000) } else { *bytes };
        let position = random.below(bound);
        let what = if random.chance(70) {
            let xor = 1 << random.below(8);
            disk.corrupt(name, position, xor).unwrap();
            format!("{xor}")
        } else {
            change_block(&disk, name, position, &mut random)
        };
        judge(remains, &disk, tally)
            .unwrap_or_else(|problem| panic!("seed {seed} {name} {position} {what}: {problem}"));
    }
}

/// A block was not written, or another one of the file in its place. Says which.
fn change_block(disk: &MemoryStorage, name: &str, position: u64, random: &mut Random) -> String {
    let mut content = disk.read_file(name).unwrap();
    let blocks = content.len().div_ceil(BLOCK);
    let at = usize::try_from(position).unwrap() / BLOCK * BLOCK;
    let end = content.len().min(at + BLOCK);
    let from = random.place(blocks) * BLOCK;
    let lost = random.chance(50) || content.len() - from < end - at;
    if lost {
        content[at..end].fill(0);
    } else {
        content.copy_within(from..from + end - at, at);
    }
    disk.write_file(name, &content).unwrap();
    if lost { "lost".to_owned() } else { format!("is that of {from}") }
}

#[test]
fn a_changed_byte_is_noticed_or_means_nothing() {
    let mut tally = Tally::default();
    for seed in 0..seeds(12) {
        change_bytes(&closed_store(seed), seed, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.refused > 20 && tally.reported > 20 && tally.harmless > 20, "{tally:?}");
}

/// After a second of rest the last batch is vouched for: from then on it can't be a torn tail.
#[test]
fn a_changed_byte_is_noticed_after_a_crash_too() {
    let mut tally = Tally::default();
    for seed in 40..40 + seeds(16) {
        let mut world = World::new(Plan::new(seed));
        let mut outcome = world.open().and_then(|()| world.set_up()).and_then(|()| world.run(200));
        for _ in 0..3 {
            outcome = outcome.and_then(|()| world.settle());
            world.clock.advance(Duration::from_millis(1100));
        }
        assert_eq!(outcome, Ok(()), "seed {seed}");
        change_bytes(&world.power_off().unwrap(), seed, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.refused > 20 && tally.reported > 10 && tally.harmless > 20, "{tally:?}");
}

#[test]
fn a_file_cut_short_or_gone_is_noticed() {
    let mut tally = Tally::default();
    for seed in 0..12 {
        let remains = closed_store(seed);
        let mut random = Random::new(seed);
        let image = || remains.image(0, CrashMode::KeepAll);
        for (name, bytes) in files(&image()) {
            for cut in [0, random.below(bytes), bytes - 1, bytes] {
                let disk = image();
                if cut == bytes {
                    disk.remove_file(&name).unwrap();
                } else {
                    disk.truncate(&name, cut).unwrap();
                }
                judge(&remains, &disk, &mut tally)
                    .unwrap_or_else(|problem| panic!("seed {seed} {name} {cut}: {problem}"));
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.refused > 20, "{tally:?}");
}
