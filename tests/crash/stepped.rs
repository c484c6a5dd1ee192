//! scratch
use std::collections::BTreeMap;
use fanlog_tests::{operations::{Classifier, Purpose}, world::{Plan, Stop, World}};
use fanlog::storage::CrashMode;

fn run(seed: u64, cut: Option<u64>) -> World {
    let mut world = World::new(Plan::new(seed));
    if let Some(cut) = cut { world.disk.cut_at(cut); }
    let outcome = world.open().and_then(|()| world.set_up()).and_then(|()| world.run(500));
    if let Err(Stop::Problem(problem)) = outcome { 
        for line in world.trace.iter().rev().take(20).rev() { println!("{line}"); }
        panic!("seed {seed} cut {cut:?}: {problem}"); }
    world
}
#[test]
fn first() {
    let from: u64 = std::env::var("FROM").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for seed in from..from + 20 {
        let world = run(seed, None);
        let mut c = Classifier::default();
        let mut m: BTreeMap<Purpose, u32> = BTreeMap::new();
        for op in world.disk.operations() { *m.entry(c.purpose(&op, 65536)).or_default() += 1; }
        let mut world = world;
        let stats = world.engine().stats();
        println!("seed {seed} ops {} {:?} {:?} rec {} del {}", world.disk.operation_count(), world.counts, m, stats.segments_recycled, stats.segments_deleted);
        let r = world.power_off().unwrap();
        for mode in [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random] {
            let t = std::time::Instant::now();
            match r.revive(r.image(seed, mode), mode == CrashMode::KeepAll) {
                Ok((mut w, seen)) => { let a = t.elapsed(); if let Err(e) = w.finish() { println!("{seed} {mode:?} {e:?}"); } println!("{seen:?} {a:?} {:?}", t.elapsed()); }
                Err(e) => println!("seed {seed} {mode:?}: {e:?}"),
            }
        }
    }
}
