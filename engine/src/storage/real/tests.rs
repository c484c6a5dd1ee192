//! What only a directory of the file system has: backends, links, modes, other processes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::{ALIGNMENT, AlignedBuffer, Allocation, WriteSync};
use super::*;

/// A directory on the file system that this is built on.
fn directory() -> tempfile::TempDir {
    let executable = std::env::current_exe().unwrap();
    tempfile::tempdir_in(executable.parent().unwrap()).unwrap()
}

fn buffered(directory: &tempfile::TempDir) -> RealStorage {
    RealStorage::open(directory.path(), false, BackendChoice::Buffered).unwrap()
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn probing_leaves_nothing_behind() {
    let directory = directory();
    let storage = RealStorage::open(directory.path(), false, BackendChoice::Auto).unwrap();
    assert!(storage.list().unwrap().is_empty());
}

#[test]
fn forcing_a_backend_gives_that_one_or_an_error() {
    let directory = directory();
    let auto = RealStorage::open(directory.path(), false, BackendChoice::Auto).unwrap();
    let direct = RealStorage::open(directory.path(), false, BackendChoice::Direct);
    match auto.backend() {
        Backend::Direct => assert_eq!(direct.unwrap().backend(), Backend::Direct),
        _ => assert_eq!(kind(direct), io::ErrorKind::Unsupported),
    }
    assert_eq!(buffered(&directory).backend(), Backend::Buffered);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_system_in_memory_is_buffered() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        return; // Not every machine has one.
    };
    if rustix::fs::statfs(directory.path()).unwrap().f_type != 0x0102_1994 {
        return;
    }
    let auto = RealStorage::open(directory.path(), false, BackendChoice::Auto).unwrap();
    assert_eq!(auto.backend(), Backend::Buffered);
    let direct = RealStorage::open(directory.path(), false, BackendChoice::Direct);
    assert_eq!(kind(direct), io::ErrorKind::Unsupported);
    let file = auto.create("a", Purpose::Log).unwrap();
    file.allocate(1 << 20).unwrap();
    let block = AlignedBuffer::zeroed(ALIGNMENT);
    file.write_all_at(0, &block, WriteSync::Data).unwrap();
    assert_eq!(file.bytes().unwrap(), 1 << 20);
}

#[test]
fn a_direct_file_refuses_what_is_not_aligned() {
    let directory = directory();
    let storage = RealStorage::open(directory.path(), false, BackendChoice::Auto).unwrap();
    if storage.backend() != Backend::Direct {
        return; // Nothing to see on this file system.
    }
    let file = storage.create("a", Purpose::Log).unwrap();
    assert_eq!(file.block_bytes(), ALIGNMENT);
    let block = AlignedBuffer::zeroed(ALIGNMENT);
    let refused = file.write_at(0, &block[..100], WriteSync::Data);
    assert_eq!(kind(refused), io::ErrorKind::InvalidInput);
    assert_eq!(file.write_at(0, &block, WriteSync::Data).unwrap(), ALIGNMENT);
}

#[test]
fn allocation_reserves_blocks_where_the_file_system_can() {
    let directory = directory();
    let file = buffered(&directory).create("a", Purpose::Log).unwrap();
    let allocation = file.allocate(1 << 20).unwrap();
    let blocks = fs::metadata(directory.path().join("a")).unwrap().blocks();
    if allocation != Allocation::Sparse {
        assert!(blocks * 512 >= 1 << 20, "{allocation:?} {blocks}");
    }
}

#[test]
fn directories_are_made_for_their_owner_alone() {
    let directory = directory();
    let path = directory.path().join("a/b/store");
    let missing = RealStorage::open(&path, false, BackendChoice::Buffered);
    assert_eq!(kind(missing), io::ErrorKind::NotFound);
    assert!(!directory.path().join("a").exists());
    for _ in 0..2 {
        RealStorage::open(&path, true, BackendChoice::Buffered).unwrap();
    }
    for made in [directory.path().join("a"), path] {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_store_is_not_a_file() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    for create in [false, true] {
        assert!(RealStorage::open(&path, create, BackendChoice::Auto).is_err());
        assert!(RealStorage::open(&path.join("in"), create, BackendChoice::Auto).is_err());
    }
    assert!(RealStorage::open_read_only(&path).is_err());
}

#[test]
fn files_are_for_their_owner_alone() {
    let directory = directory();
    let storage = buffered(&directory);
    storage.create("a", Purpose::Plain).unwrap();
    let lock = storage.lock("lock").unwrap();
    for name in ["a", "lock"] {
        let mode = fs::metadata(storage.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(lock);
}

#[cfg(target_os = "linux")]
#[test]
fn links_directories_and_pipes_are_listed_but_not_opened() {
    let directory = directory();
    let storage = buffered(&directory);
    fs::write(storage.path("real"), "secret").unwrap();
    std::os::unix::fs::symlink("real", storage.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", storage.path("dangling")).unwrap();
    fs::create_dir(storage.path("folder")).unwrap();
    let pipe = FileType::Fifo;
    rustix::fs::mknodat(&storage.directory, "pipe", pipe, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for name in ["link", "dangling", "folder", "pipe"] {
        for access in [Access::Read, Access::Write] {
            let opened = storage.open(name, access, Purpose::Plain);
            assert_eq!(kind(opened), io::ErrorKind::InvalidInput, "{name}");
        }
        let created = storage.create(name, Purpose::Plain);
        assert_eq!(kind(created), io::ErrorKind::AlreadyExists, "{name}");
        assert!(matches!(storage.lock(name), Err(LockError::Io(_))), "{name}");
        assert!(matches!(storage.lock_read_only(name), Err(LockError::Io(_))), "{name}");
    }
    let mut entries = storage.list().unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let seen: Vec<_> = entries.iter().map(|e| (&*e.name, e.bytes, e.is_file)).collect();
    assert_eq!(
        seen,
        [
            ("dangling", 0, false),
            ("folder", 0, false),
            ("link", 0, false),
            ("pipe", 0, false),
            ("real", 6, true),
        ]
    );
}

#[test]
fn a_store_stays_whole_when_its_directory_moves() {
    let parent = directory();
    let (before, after) = (parent.path().join("before"), parent.path().join("after"));
    let storage = RealStorage::open(&before, true, BackendChoice::Buffered).unwrap();
    storage.create("a", Purpose::Plain).unwrap();
    fs::rename(&before, &after).unwrap();
    storage.create("b", Purpose::Plain).unwrap();
    storage.sync_directory().unwrap();
    assert_eq!(storage.list().unwrap().len(), 2);
    assert!(after.join("b").exists());
}

#[test]
fn a_read_only_store_changes_nothing() {
    let directory = directory();
    fs::write(directory.path().join("a"), "bytes").unwrap();
    let changed = fs::metadata(directory.path()).unwrap().mtime_nsec();
    let storage = RealStorage::open_read_only(directory.path()).unwrap();
    let writable = RealStorage::open(directory.path(), false, BackendChoice::Auto).unwrap();
    assert_eq!(storage.backend(), writable.backend());
    let changed = fs::metadata(directory.path()).unwrap().mtime_nsec().max(changed);
    let refused = io::ErrorKind::ReadOnlyFilesystem;
    assert_eq!(kind(storage.create("b", Purpose::Plain)), refused);
    assert_eq!(kind(storage.open("a", Access::Write, Purpose::Plain)), refused);
    assert_eq!(kind(storage.rename("a", "b")), refused);
    assert_eq!(kind(storage.remove("a")), refused);
    assert_eq!(kind(storage.sync_directory()), refused);
    assert!(matches!(storage.lock("lock"), Err(LockError::Io(_))));
    assert!(storage.lock_read_only("lock").unwrap().is_none());
    let file = storage.open("a", Access::Read, Purpose::Log).unwrap();
    let mut read = [0; 5];
    file.read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"bytes");
    assert_eq!(storage.list().unwrap().len(), 1);
    assert_eq!(fs::metadata(directory.path()).unwrap().mtime_nsec(), changed);
}

#[test]
fn two_openers_of_one_directory_exclude_each_other() {
    let directory = directory();
    let (first, second) = (buffered(&directory), buffered(&directory));
    let reader = RealStorage::open_read_only(directory.path()).unwrap();
    let lock = first.lock("lock").unwrap();
    drop(first);
    assert!(matches!(second.lock("lock"), Err(LockError::Held)));
    assert!(matches!(reader.lock_read_only("lock"), Err(LockError::Held)));
    drop(lock);
    let reading = reader.lock_read_only("lock").unwrap().unwrap();
    assert!(matches!(second.lock("lock"), Err(LockError::Held)));
    drop(reading);
    drop(second.lock("lock").unwrap());
}
