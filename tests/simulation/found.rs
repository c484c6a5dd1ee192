//! Bugs that these tests found, each as the shortest way to it.

use std::io::ErrorKind;

use fanlog::storage::{Call, CrashMode, Fault, FaultRule, MemoryStorage, OperationKind};
use fanlog_tests::world::{Plan, Stop, World};

fn small(disk: &MemoryStorage) -> World {
    let mut world = World::new(Plan::new(1));
    world.disk = disk.clone();
    world
}

/// Opening failed for ever: the temporary file was in the way of the checkpoint that raises the
/// epoch.
#[test]
fn a_half_written_checkpoint_is_in_nobodys_way() {
    let disk = MemoryStorage::new();
    let mut world = small(&disk);
    world.open().unwrap();
    world.set_up().unwrap();
    let remains = world.power_off().unwrap();
    let image = remains.image(0, CrashMode::KeepAll);
    for number in 1..9 {
        image.write_file(&format!("{number:08}.ckpt.tmp"), b"half a checkpoint").unwrap();
    }
    let (mut world, _) = remains.revive(image, true).unwrap();
    world.finish().unwrap();
}

/// Opening failed: the temporary file of the first checkpoint was removed twice.
#[test]
fn a_store_whose_first_checkpoint_is_half_written_is_made_anew() {
    let disk = MemoryStorage::new();
    disk.write_file("00000001.ckpt.tmp", b"half a checkpoint").unwrap();
    let mut world = small(&disk);
    world.open().unwrap();
    world.set_up().unwrap();
    world.finish().unwrap();
}

/// Opening failed with "unexpected end of file" on a first segment that has a name and no bytes.
#[test]
fn a_first_segment_that_was_only_created_is_made_again() {
    let disk = MemoryStorage::new();
    let mut world = small(&disk);
    world.open().unwrap();
    let create = disk.operations().into_iter().find(|operation| {
        operation.kind == OperationKind::Create && operation.name == "00000001.seg"
    });
    let allocate = create.unwrap().number + 1;
    drop(world);
    let disk = MemoryStorage::new();
    disk.cut_at(allocate);
    let mut world = small(&disk);
    assert_eq!(world.open(), Err(Stop::Broken));
    let remains = world.power_off().unwrap();
    for (mode, chance) in [(CrashMode::KeepAll, 0), (CrashMode::Random, 1), (CrashMode::Random, 2)]
    {
        let (mut world, _) = remains.revive(remains.image(chance, mode), false).unwrap();
        world.set_up().unwrap();
        world.finish().unwrap();
    }
}

/// The next checkpoint failed with "entity already exists", and ended the engine.
#[test]
fn a_checkpoint_that_found_no_space_for_its_name_is_written_later() {
    for call in [Call::Create, Call::Write, Call::Sync, Call::Rename] {
        let mut world = small(&MemoryStorage::new());
        world.allow_faults();
        world.open().unwrap();
        world.excuse_nothing();
        world.set_up().unwrap();
        world.plant(
            FaultRule::new(call, Fault::Error(ErrorKind::StorageFull)).name_contains(".ckpt"),
        );
        assert!(world.engine().checkpoint().is_err(), "{call:?}");
        world.engine().checkpoint().unwrap_or_else(|error| panic!("{call:?}: {error}"));
        world.finish().unwrap();
    }
}

/// The engine went on after a failed rename or removal, and stumbled over it later.
#[test]
fn a_checkpoint_that_fails_otherwise_ends_the_engine_at_once() {
    for call in [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::Remove] {
        let mut world = small(&MemoryStorage::new());
        world.allow_faults();
        world.open().unwrap();
        world.set_up().unwrap();
        world.plant(FaultRule::new(call, Fault::Error(ErrorKind::Other)).name_contains(".ckpt"));
        assert!(world.engine().checkpoint().is_err(), "{call:?}");
        let again = world.engine().checkpoint().unwrap_err();
        assert_eq!(again.kind(), fanlog::ErrorKind::Poisoned, "{call:?}");
    }
}

/// The first engine of these tests hung here: `close` held a lock while it waited.
#[test]
fn a_store_with_unconfirmed_messages_closes() {
    let mut world = small(&MemoryStorage::new());
    world.open().unwrap();
    world.set_up().unwrap();
    let publisher = world.engine().publisher();
    let ticket = publisher.publish(&fanlog::Message::new("", "a", b"12345678")).unwrap();
    let report = world.engine().close(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(report.unconfirmed, 0);
    ticket.wait().unwrap();
}

#[test]
fn a_lost_header_of_a_segment_with_batches_is_noticed() {
    crate::runs::run(2431, 700).unwrap();
}

#[test]
fn a_bit_of_what_was_synced_after_its_confirm_is_noticed() {
    crate::runs::run(2684, 700).unwrap();
}
