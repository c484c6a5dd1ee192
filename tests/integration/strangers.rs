//! What others put into a store's directory: directories, links, pipes, sockets, files without rights.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use fanlog::{Config, Engine, ErrorKind, OnDamage};
use tempfile::TempDir;

use crate::support::{consume, next, pattern, publish, settle, sound, start, stepped};

const MESSAGES: u64 = 100;
const BYTES: usize = 900;

/// A closed store of several segments in a directory of its own, in which queue `jobs` has `pattern`s.
fn store(parent: &TempDir) -> PathBuf {
    static MADE: LazyLock<Vec<(OsString, Vec<u8>)>> = LazyLock::new(|| {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("store");
        make(&dir);
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    });
    let dir = parent.path().join("store");
    fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    for (name, bytes) in &*MADE {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

/// Makes the store in a directory that is not there yet.
fn make(dir: &Path) {
    let engine = Engine::open(dir, stepped()).unwrap();
    engine.declare_queue("jobs").unwrap();
    for number in 0..MESSAGES {
        publish(&engine, "jobs", &pattern(number, BYTES));
        if number % 10 == 9 {
            settle(&engine);
        }
    }
    settle(&engine);
    engine.checkpoint().unwrap();
    engine.close(Duration::ZERO).unwrap();
}

/// Opens in a thread, so that one that waits fails the test.
fn open(dir: &Path, on_damage: OnDamage) -> fanlog::Result<Engine> {
    let dir = dir.to_owned();
    start(move || Engine::open(dir, Config { on_damage, ..stepped() })).join()
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// What a stranger may be; `outside` is a file that is none of the store's.
fn put(kind: &str, path: &Path, outside: &Path) {
    match kind {
        "directory" => fs::create_dir(path).unwrap(),
        "link" => symlink(outside, path).unwrap(),
        "dangling link" => symlink("nowhere", path).unwrap(),
        "link to a directory" => symlink("/", path).unwrap(),
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        _ => pipe(path),
    }
}

const KINDS: [&str; 6] =
    ["directory", "link", "dangling link", "link to a directory", "socket", "pipe"];

/// A file of the store, one that is to come, one that is prepared, one that is written.
const NAMES: [&str; 6] = [
    "00000002.seg",
    "00000777.seg",
    "00000002.7.seg",
    "free-00000777.seg",
    "00000777.ckpt",
    "00000777.ckpt.tmp",
];

#[test]
fn what_is_no_file_under_a_name_of_the_stores_is_refused_and_set_aside_on_demand() {
    // Every kind under the name of a file that is there, every name for two kinds.
    for kind in KINDS {
        for name in NAMES {
            if name != NAMES[0] && !matches!(kind, "directory" | "link") {
                continue;
            }
            let parent = tempfile::tempdir().unwrap();
            let dir = store(&parent);
            let (path, outside) = (dir.join(name), parent.path().join("outside"));
            fs::write(&outside, "not yours").unwrap();
            let had = fs::read(&path).ok();
            if had.is_some() {
                fs::remove_file(&path).unwrap();
            }
            put(kind, &path, &outside);
            let what = format!("{kind} {name}");
            let error = open(&dir, OnDamage::Fail).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert_eq!(error.path(), Some(&*path), "{what}: {error}");
            assert!(error.to_string().contains("not a regular file"), "{what}: {error}");
            let around = open(&dir, OnDamage::Quarantine).unwrap();
            assert!(fs::symlink_metadata(&path).is_err(), "{what} is still in the way");
            assert!(fs::symlink_metadata(dir.join(format!("damaged-{name}"))).is_ok(), "{what}");
            sound(&around);
            let messages = around.queue("jobs").unwrap().messages;
            assert_eq!(messages == MESSAGES, had.is_none(), "{what}: {messages}");
            publish(&around, "jobs", b"more");
            settle(&around);
            around.close(Duration::ZERO).unwrap();
            assert_eq!(fs::read(&outside).unwrap(), b"not yours", "{what}");
            assert!(open(&dir, OnDamage::Fail).unwrap().recovery().clean, "{what}");
        }
    }
}

#[test]
fn strangers_of_any_kind_are_named_and_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = store(&parent);
    let outside = parent.path().join("outside");
    fs::write(&outside, "not yours").unwrap();
    for kind in KINDS {
        put(kind, &dir.join(format!("x {kind}")), &outside);
    }
    let engine = open(&dir, OnDamage::Fail).unwrap();
    let expected: Vec<String> = {
        let mut names: Vec<String> = KINDS.iter().map(|kind| format!("x {kind}")).collect();
        names.sort();
        names
    };
    assert_eq!(engine.recovery().strangers, expected);
    sound(&engine);
    engine.close(Duration::ZERO).unwrap();
    for kind in KINDS {
        let kept = fs::symlink_metadata(dir.join(format!("x {kind}"))).unwrap().file_type();
        let right = match kind {
            "directory" => kept.is_dir(),
            "pipe" => kept.is_fifo(),
            "socket" => kept.is_socket(),
            _ => kept.is_symlink(),
        };
        assert!(right, "{kind}");
    }
    assert_eq!(fs::read(&outside).unwrap(), b"not yours");
}

#[test]
fn a_lock_file_that_is_none_is_an_error_and_nothing_is_followed() {
    for kind in KINDS {
        let parent = tempfile::tempdir().unwrap();
        let dir = store(&parent);
        let (path, outside) = (dir.join("fanlog.lock"), parent.path().join("outside"));
        fs::write(&outside, "not yours").unwrap();
        fs::remove_file(&path).unwrap();
        put(kind, &path, &outside);
        for on_damage in [OnDamage::Fail, OnDamage::Quarantine, OnDamage::Repair] {
            let error = open(&dir, on_damage).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{kind}: {error}");
            assert!(error.to_string().contains("fanlog.lock"), "{kind}: {error}");
        }
        let read = start({
            let dir = dir.clone();
            move || Engine::open_read_only(dir, stepped()).map(drop)
        });
        assert!(read.join().is_err(), "{kind}");
        assert_eq!(fs::read(&outside).unwrap(), b"not yours", "{kind}");
        assert!(!dir.join("nowhere").exists(), "{kind}");
    }
}

/// Segments rolled, sealed, rewritten and recycled, checkpoints, copies, a backup: all of it.
#[test]
fn all_that_a_store_writes_is_for_its_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    make(&dir);
    let engine = Engine::open(&dir, stepped()).unwrap();
    let consumer = consume(&engine, "jobs", 0);
    for number in 0..MESSAGES {
        let delivery = next(&consumer);
        if number % 16 == 0 {
            delivery.keep();
        } else {
            delivery.ack().unwrap();
        }
    }
    drop(consumer);
    settle(&engine);
    engine.reclaim(&mut |_| {}).unwrap();
    let backup = parent.path().join("a/backup");
    engine.backup_with(&backup, fanlog::BackupFiles::Copied, &mut |_| {}).unwrap();
    engine.close(Duration::ZERO).unwrap();
    let mut files = 0;
    for dir in [&dir, &backup] {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 8, "{files}");
    assert_eq!(fs::metadata(parent.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
}

const STORE: &str = "FANLOG_TEST_STORE_WITHOUT_RIGHTS";

/// Root may read and write anything, so the store is opened by a child without its rights.
#[test]
fn files_without_rights_are_errors_that_name_them() {
    let parent = tempfile::tempdir().unwrap();
    let dir = store(&parent);
    let is_root = fs::metadata(&dir).unwrap().uid() == 0;
    let own = std::env::current_exe().unwrap();
    let place = tempfile::tempdir().unwrap();
    let program = if is_root { crate::read_only::for_everyone(&own, place.path()) } else { own };
    let mut child = Command::new(program);
    child
        .args(["--exact", "--ignored", "strangers::in_a_child_without_rights"])
        .env(STORE, &dir)
        .current_dir("/");
    if is_root {
        const NOBODY: u32 = 65_534;
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(&dir).unwrap() {
            chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
        child.uid(NOBODY).gid(NOBODY);
    }
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn in_a_child_without_rights() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let dir = Path::new(&dir);
    let parent = tempfile::tempdir().unwrap();
    let names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut refused = 0;
    for (at, name) in names.iter().enumerate() {
        for mode in [0o000, 0o400] {
            let copy = parent.path().join(format!("{at}-{mode}"));
            fs::create_dir(&copy).unwrap();
            for name in &names {
                fs::copy(dir.join(name), copy.join(name)).unwrap();
            }
            let rights = fs::Permissions::from_mode(mode);
            fs::set_permissions(copy.join(name), rights).unwrap();
            let name = name.to_str().unwrap();
            match open(&copy, OnDamage::Fail) {
                // It was a prepared file, or an older checkpoint: nobody needs to read those.
                Ok(engine) => {
                    sound(&engine);
                    engine.close(Duration::ZERO).unwrap();
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Io, "{name} {mode:o}: {error}");
                    assert!(error.to_string().contains(name), "{name} {mode:o}: {error}");
                    let left = fs::read_dir(&copy).unwrap().count();
                    assert_eq!(left, names.len(), "{name} {mode:o}");
                }
            }
        }
    }
    assert!(refused > 5, "{refused}");
    for mode in [0o000, 0o500] {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        let error = open(dir, OnDamage::Fail).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{mode:o}: {error}");
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    sound(&open(dir, OnDamage::Fail).unwrap());
}
