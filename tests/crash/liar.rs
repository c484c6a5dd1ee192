//! The judge judged: on a disk that lies about what is durable, it has to find what is missing.

use fanlog::storage::CrashMode;
use fanlog_tests::disks::Lie;
use fanlog_tests::world::{Plan, World};

use crate::cuts::judge_image;

/// How many of some cuts the judge finds wrong.
fn found(lie: Option<Lie>) -> usize {
    let mut found = 0;
    for cut in (40..200).step_by(8) {
        let mut world = World::new(Plan { lie, ..Plan::new(4) });
        world.disk.cut_at(cut);
        // How it ends is decided below.
        drop(world.open().and_then(|()| world.set_up()).and_then(|()| world.run(400)));
        let remains = world.power_off().unwrap();
        found += usize::from(judge_image(&remains, CrashMode::LoseUnsynced, 0).is_err());
    }
    found
}

#[test]
fn a_disk_that_lies_is_found_out() {
    assert_eq!(found(None), 0);
    for lie in [Lie::Write, Lie::Sync, Lie::SyncDirectory] {
        assert!(found(Some(lie)) > 0, "{lie:?}");
    }
}
