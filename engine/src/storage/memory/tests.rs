//! The crash model: what a disk in memory keeps and what it loses.

use super::super::{ALIGNMENT, AlignedBuffer, WriteSync};
use super::*;

/// Enough for every outcome that a test expects to come up.
const SEEDS: std::ops::Range<u64> = 0..500;

fn create(disk: &MemoryStorage, name: &str) -> Arc<dyn StorageFile> {
    disk.create(name, Purpose::Plain).unwrap()
}

fn write(file: &dyn StorageFile, position: u64, bytes: &[u8]) {
    file.write_all_at(position, bytes, WriteSync::None).unwrap();
}

/// A disk with one durable file `a` of `bytes`.
fn disk_with(bytes: &[u8]) -> (MemoryStorage, Arc<dyn StorageFile>) {
    let disk = MemoryStorage::new();
    disk.write_file("a", bytes).unwrap();
    let file = disk.open("a", Access::Write, Purpose::Plain).unwrap();
    (disk, file)
}

fn names(disk: &MemoryStorage) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

/// The files and bytes of a disk.
fn contents(disk: &MemoryStorage) -> Vec<(String, Vec<u8>)> {
    names(disk).into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

/// Everything that a crash by chance may leave of `a`.
fn outcomes(disk: &MemoryStorage) -> std::collections::BTreeSet<Vec<u8>> {
    SEEDS.map(|seed| disk.crash_image(seed, CrashMode::Random).read_file("a").unwrap()).collect()
}

fn lost(disk: &MemoryStorage) -> MemoryStorage {
    disk.crash_image(0, CrashMode::LoseUnsynced)
}

#[test]
fn unsynced_bytes_are_lost_and_synced_ones_kept() {
    let (disk, file) = disk_with(b"");
    write(&*file, 0, b"synced");
    file.sync().unwrap();
    write(&*file, 0, b"UN");
    write(&*file, 6, b"more");
    assert_eq!(disk.read_file("a").unwrap(), b"UNncedmore", "M1");
    assert_eq!(lost(&disk).read_file("a").unwrap(), b"synced");
    let kept = disk.crash_image(0, CrashMode::KeepAll);
    assert_eq!(kept.read_file("a").unwrap(), b"UNncedmore");
}

#[test]
fn a_durable_write_speaks_for_itself_alone() {
    let (disk, file) = disk_with(&[0; 2048]);
    write(&*file, 0, &[1; 512]);
    file.write_all_at(1024, &[2; 512], WriteSync::Data).unwrap();
    let left = lost(&disk).read_file("a").unwrap();
    assert_eq!(left[..1024], [0; 1024], "the earlier write");
    assert_eq!(left[1024..1536], [2; 512]);
    let some_lost_it = outcomes(&disk).iter().any(|left| left[0] == 0);
    let all_kept_the_other = outcomes(&disk).iter().all(|left| left[1024..1536] == [2; 512]);
    assert!(some_lost_it && all_kept_the_other);
}

// The earlier write may still be on its way to the disk, but can't arrive over newer durable bytes.
#[test]
fn an_older_unsynced_write_never_comes_back_over_a_durable_one() {
    let (disk, file) = disk_with(&[0; 2048]);
    write(&*file, 0, &[1; 2048]);
    file.write_all_at(700, &[2; 600], WriteSync::Data).unwrap();
    for left in outcomes(&disk) {
        assert_eq!(left[700..1300], [2; 600]);
        assert!(left[..700].iter().chain(&left[1300..]).all(|byte| *byte < 2));
    }
    let before = outcomes(&disk).iter().any(|left| left[..700] == [1; 700]);
    let after = outcomes(&disk).iter().any(|left| left[1300..] == [1; 748]);
    assert!(before && after, "both rests can survive");
}

#[test]
fn a_newer_unsynced_write_may_replace_durable_bytes() {
    let (disk, file) = disk_with(b"old!");
    file.write_all_at(0, b"mid!", WriteSync::Data).unwrap();
    write(&*file, 0, b"new!");
    assert_eq!(outcomes(&disk), [b"mid!".to_vec(), b"new!".to_vec()].into());
}

#[test]
fn a_durable_write_past_the_end_makes_the_size_durable() {
    let (disk, file) = disk_with(b"");
    file.allocate(4096).unwrap();
    file.write_all_at(1000, b"x", WriteSync::Data).unwrap();
    assert_eq!(disk.read_file("a").unwrap().len(), 4096);
    let left = lost(&disk).read_file("a").unwrap();
    assert_eq!((left.len(), left[999], left[1000]), (1001, 0, b'x'));
    let sizes: Vec<usize> = outcomes(&disk).iter().map(Vec::len).collect();
    assert!(sizes.contains(&1001) && sizes.contains(&4096), "{sizes:?}");
}

#[test]
fn torn_writes_are_torn_where_sectors_end() {
    let (disk, file) = disk_with(&[0; 2048]);
    write(&*file, 256, &[1; 1500]);
    let outcomes = outcomes(&disk);
    for left in &outcomes {
        for part in [0..256, 256..512, 512..1024, 1024..1536, 1536..1756, 1756..2048] {
            let bytes = &left[part.clone()];
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{part:?}");
        }
        assert!(left[..256].iter().chain(&left[1756..]).all(|byte| *byte == 0));
    }
    assert_eq!(outcomes.len(), 16, "every subset of four sectors can be found");
}

#[test]
fn unsynced_writes_are_lost_and_kept_apart_from_each_other() {
    let (disk, file) = disk_with(&[0; 1024]);
    write(&*file, 0, &[1; 512]);
    write(&*file, 512, &[2; 512]);
    let ends: std::collections::BTreeSet<_> =
        outcomes(&disk).iter().map(|left| (left[0], left[512])).collect();
    assert_eq!(ends, [(0, 0), (0, 2), (1, 0), (1, 2)].into());
}

#[test]
fn a_file_without_a_durable_name_is_gone() {
    let disk = MemoryStorage::new();
    let file = create(&disk, "new");
    write(&*file, 0, b"bytes");
    file.sync().unwrap();
    assert!(names(&lost(&disk)).is_empty());
    disk.sync_directory().unwrap();
    assert_eq!(lost(&disk).read_file("new").unwrap(), b"bytes");
}

#[test]
fn unsynced_renames_and_removals_are_undone() {
    let disk = MemoryStorage::new();
    disk.write_file("a", b"a").unwrap();
    disk.write_file("b", b"b").unwrap();
    disk.write_file("c", b"c").unwrap();
    let before = contents(&disk);
    disk.rename("a", "b").unwrap();
    disk.remove("c").unwrap();
    assert_eq!(contents(&disk), [("b".to_owned(), b"a".to_vec())]);
    assert_eq!(contents(&lost(&disk)), before);
    disk.sync_directory().unwrap();
    assert_eq!(contents(&lost(&disk)), [("b".to_owned(), b"a".to_vec())]);
}

// The protocol of a checkpoint, without its last step: the old file or the new one, never neither.
#[test]
fn an_unsynced_replacement_leaves_the_old_file_or_the_new() {
    let disk = MemoryStorage::new();
    disk.write_file("checkpoint", b"old").unwrap();
    let file = create(&disk, "checkpoint.tmp");
    write(&*file, 0, b"new");
    file.sync().unwrap();
    disk.rename("checkpoint.tmp", "checkpoint").unwrap();
    let mut found = std::collections::BTreeSet::new();
    for seed in SEEDS {
        let image = disk.crash_image(seed, CrashMode::Random);
        found.insert((image.read_file("checkpoint").unwrap(), names(&image).len()));
    }
    let possible = [(b"old".to_vec(), 1), (b"old".to_vec(), 2), (b"new".to_vec(), 1)];
    assert_eq!(found, possible.into());
}

#[test]
fn changes_of_different_names_are_lost_apart_and_of_one_name_in_order() {
    let disk = MemoryStorage::new();
    for name in ["a", "b"] {
        drop(create(&disk, name));
    }
    disk.remove("a").unwrap();
    drop(create(&disk, "a"));
    disk.rename("a", "c").unwrap();
    let found: std::collections::BTreeSet<_> =
        SEEDS.map(|seed| names(&disk.crash_image(seed, CrashMode::Random)).concat()).collect();
    let possible = ["", "a", "b", "ab", "c", "bc"].map(str::to_owned);
    assert_eq!(found, possible.into());
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let disk = MemoryStorage::new();
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let file = create(&disk, name);
        write(&*file, 0, &vec![1; 3000]);
        write(&*file, number as u64 * 700, &vec![2; 3000]);
        disk.rename(name, &format!("{name}{name}")).unwrap();
    }
    let image = |seed| contents(&disk.crash_image(seed, CrashMode::Random));
    let distinct: std::collections::BTreeSet<_> = SEEDS.map(image).collect();
    for seed in SEEDS {
        assert_eq!(image(seed), image(seed), "M4: {seed}");
    }
    assert!(distinct.len() > 100, "{}", distinct.len());
}

#[test]
fn what_an_image_holds_is_durable_and_the_disk_is_untouched() {
    let (disk, file) = disk_with(&[0; 1024]);
    write(&*file, 0, &[1; 1024]);
    let before = contents(&disk);
    for seed in SEEDS {
        let image = disk.crash_image(seed, CrashMode::Random);
        assert_eq!(contents(&lost(&image)), contents(&image));
        assert_eq!(image.operation_count(), 0);
        image.corrupt("a", 0, 0xff).unwrap();
    }
    assert_eq!(contents(&disk), before);
}

#[test]
fn an_image_is_unlocked_and_has_power() {
    let disk = MemoryStorage::new();
    let lock = disk.lock("lock").unwrap();
    disk.sync_directory().unwrap();
    disk.cut_at(0);
    disk.sync_directory().unwrap_err();
    let image = lost(&disk);
    assert!(!image.is_cut());
    drop(image.lock("lock").unwrap());
    drop(lock);
}

#[test]
fn operations_are_numbered_and_labelled() {
    let disk = MemoryStorage::new();
    let file = create(&disk, "a");
    write(&*file, 3, b"12345");
    disk.rename("a", "b").unwrap();
    file.write_all_at(8, b"6", WriteSync::Data).unwrap();
    file.allocate(100).unwrap();
    file.sync().unwrap();
    disk.sync_directory().unwrap();
    disk.remove("b").unwrap();
    disk.remove("b").unwrap_err();
    let seen: Vec<_> = disk
        .operations()
        .into_iter()
        .map(|o| (o.number, o.kind, o.name, o.renamed_to, o.position, o.bytes))
        .collect();
    let a = || "a".to_owned();
    let b = || "b".to_owned();
    assert_eq!(
        seen,
        [
            (0, OperationKind::Create, a(), None, 0, 0),
            (1, OperationKind::Write, a(), None, 3, 5),
            (2, OperationKind::Rename, a(), Some(b()), 0, 0),
            (3, OperationKind::WriteData, b(), None, 8, 1),
            (4, OperationKind::Allocate, b(), None, 0, 100),
            (5, OperationKind::Sync, b(), None, 0, 0),
            (6, OperationKind::SyncDirectory, String::new(), None, 0, 0),
            (7, OperationKind::Remove, b(), None, 0, 0),
            (8, OperationKind::Remove, b(), None, 0, 0),
        ]
    );
}

#[test]
fn after_a_cut_every_call_fails() {
    let (disk, file) = disk_with(b"bytes");
    disk.cut_at(disk.operation_count() + 1);
    write(&*file, 0, b"B");
    assert!(!disk.is_cut());
    let error = file.write_at(1, b"Y", WriteSync::Data).unwrap_err();
    assert_eq!(error.to_string(), "the machine is off");
    assert!(disk.is_cut());
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(file.write_at(0, b"x", WriteSync::None).is_err());
    assert!(file.sync().is_err() && file.bytes().is_err() && file.map().is_err());
    assert!(file.allocate(10).is_err());
    assert!(disk.create("b", Purpose::Plain).is_err());
    assert!(disk.open("a", Access::Read, Purpose::Plain).is_err());
    assert!(disk.list().is_err() && disk.free_bytes().is_err());
    assert!(disk.rename("a", "b").is_err() && disk.remove("a").is_err());
    assert!(disk.sync_directory().is_err());
    assert!(disk.lock("lock").is_err() && disk.lock_read_only("lock").is_err());
    assert_eq!(disk.operation_count(), 2, "only calls with power are numbered");
    assert_eq!(disk.read_file("a").unwrap(), b"BYtes", "the helpers still work");
}

#[test]
fn the_call_that_power_goes_off_in_is_there_but_not_durable() {
    let (disk, file) = disk_with(b"....");
    disk.cut_at(0);
    file.write_at(0, b"data", WriteSync::Data).unwrap_err();
    assert_eq!(outcomes(&disk), [b"....".to_vec(), b"data".to_vec()].into());
    assert_eq!(lost(&disk).read_file("a").unwrap(), b"....");

    let (disk, file) = disk_with(b"....");
    write(&*file, 0, b"data");
    disk.cut_at(1);
    file.sync().unwrap_err();
    assert_eq!(lost(&disk).read_file("a").unwrap(), b"....", "an unfinished sync");

    let disk = MemoryStorage::new();
    drop(create(&disk, "b"));
    disk.cut_at(1);
    disk.sync_directory().unwrap_err();
    assert!(names(&lost(&disk)).is_empty(), "an unfinished sync of the directory");

    let (disk, _) = disk_with(b"");
    disk.cut_at(0);
    disk.rename("a", "b").unwrap_err();
    let found: std::collections::BTreeSet<_> =
        SEEDS.map(|seed| names(&disk.crash_image(seed, CrashMode::Random)).concat()).collect();
    assert_eq!(found, ["a".to_owned(), "b".to_owned()].into());
}

#[test]
fn a_cut_in_the_past_takes_the_next_call() {
    let (disk, file) = disk_with(b"");
    write(&*file, 0, b"1");
    disk.cut_at(0);
    assert!(!disk.is_cut());
    assert!(file.read_at(0, &mut [0]).is_ok());
    assert!(file.sync().is_err() && disk.is_cut());
}

#[test]
fn a_full_disk_takes_no_more_but_is_overwritten_and_drained() {
    let disk = MemoryStorage::new();
    disk.set_capacity(Some(1000));
    let file = create(&disk, "a");
    write(&*file, 0, &[1; 600]);
    let other = create(&disk, "b");
    for refused in [
        other.write_at(0, &[1; 401], WriteSync::None).map(|_| ()),
        other.allocate(401).map(|_| ()),
        file.write_at(1000, &[1], WriteSync::Data).map(|_| ()),
    ] {
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    assert_eq!(other.bytes().unwrap(), 0);
    assert_eq!(disk.free_bytes().unwrap(), 400);
    write(&*other, 0, &[1; 400]);
    write(&*file, 0, &[2; 600]);
    disk.remove("a").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0, "it is still open");
    drop(file);
    assert_eq!(disk.free_bytes().unwrap(), 600);
    disk.set_capacity(Some(1001));
    write(&*other, 400, &[1; 601]);
    disk.set_capacity(None);
    write(&*other, 0, &[1; 5000]);
}

#[test]
fn sizes_beyond_any_file_are_refused() {
    let disk = MemoryStorage::new();
    let file = create(&disk, "a");
    for position in [u64::MAX, u64::MAX - 1, i64::MAX as u64] {
        let result = file.write_at(position, b"x", WriteSync::None);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
    assert!(file.allocate(u64::MAX).is_err());
    assert_eq!(file.bytes().unwrap(), 0);
}

#[test]
fn log_files_are_written_in_aligned_blocks_only() {
    let disk = MemoryStorage::new();
    let file = disk.create("a", Purpose::Log).unwrap();
    let buffer = AlignedBuffer::zeroed(3 * ALIGNMENT);
    let refused = |position, bytes: &[u8]| {
        let error = file.write_at(position, bytes, WriteSync::Data).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    };
    refused(1, &buffer);
    refused(0, &buffer[..100]);
    refused(0, &buffer[512..512 + ALIGNMENT]);
    file.write_all_at(4096, &buffer[ALIGNMENT..], WriteSync::Data).unwrap();
    assert_eq!(file.read_at(5000, &mut [0; 100]).unwrap(), 100);
}

#[test]
fn damage_is_durable_and_no_operation() {
    let (disk, file) = disk_with(b"abcdef");
    write(&*file, 0, b"A");
    let operations = disk.operation_count();
    disk.corrupt("a", 2, 0x20).unwrap();
    assert_eq!(lost(&disk).read_file("a").unwrap(), b"AbCdef");
    assert!(disk.corrupt("a", 6, 1).is_err() && disk.corrupt("b", 0, 1).is_err());
    disk.truncate("a", 3).unwrap();
    assert_eq!(lost(&disk).read_file("a").unwrap(), b"AbC");
    disk.truncate("a", 5).unwrap();
    assert_eq!(lost(&disk).read_file("a").unwrap(), b"AbC\0\0");
    disk.write_file("b", b"new").unwrap();
    disk.write_file("a", b"replaced").unwrap();
    disk.remove_file("b").unwrap();
    assert!(disk.remove_file("b").is_err() && disk.read_file("b").is_err());
    assert!(disk.write_file("a/b", b"").is_err());
    assert_eq!(contents(&lost(&disk)), [("a".to_owned(), b"replaced".to_vec())]);
    assert_eq!(disk.operation_count(), operations);
    assert_eq!(file.bytes().unwrap(), 5, "an open handle has the file that was replaced");
}

#[test]
fn a_clone_is_the_same_disk_and_a_deep_copy_is_not() {
    let (disk, file) = disk_with(b"one");
    write(&*file, 0, b"two");
    let (same, copy) = (disk.clone(), disk.deep_copy());
    write(&*file, 0, b"six");
    assert_eq!(same.read_file("a").unwrap(), b"six");
    assert_eq!(copy.read_file("a").unwrap(), b"two");
    assert_eq!(lost(&copy).read_file("a").unwrap(), b"one", "unsynced there too");
    assert_eq!((disk.operation_count(), copy.operation_count()), (2, 1));
}
