//! Faults of a real kernel: system calls that fail once, or from then on, by the hand of strace, and
//! file systems that are full.
//!
//! Whatever fails, the command ends with a status of its own and one line for the error, never with a
//! panic or a signal; and everything that was confirmed is there, whole, once, in order.
//!
//! A few of the cases run always; `FANLOG_REAL_FAULTS=full`, or `tests/real-faults/run`, runs all. Where
//! something can't be done, as there is no strace, or it may not trace, or nothing may be mounted,
//! `NOT RUN` is said, with the reason.
//!
//! What strace makes of a call that fails is that it is not made. So a short write is none of its
//! faults: that one comes from the limit on a file's size (`torture_crash`) and from a full disk.

#![expect(clippy::print_stderr, reason = "what was not run, and how much was, has to be told")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    setup::{Ended, Store},
    torture::{Asked, Told},
};

const ASKED: Asked = Asked { queues: 2, threads: 2, size: (24, 6000) };
/// Enough to roll segments, write footers and checkpoints, and give segments back.
const MESSAGES: u64 = 160;

fn full() -> bool {
    std::env::var_os("FANLOG_REAL_FAULTS").is_some_and(|value| value == "full")
}

/// Whether system calls can be made to fail here.
fn can_trace() -> bool {
    let tried = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    let fine = tried.as_ref().is_ok_and(|output| output.status.success());
    if !fine {
        eprintln!("NOT RUN: strace is not here, or may not trace: {tried:?}");
    }
    fine
}

/// Places of both backends: the usual one for direct writes, and one in memory for buffered ones.
fn places() -> Vec<PathBuf> {
    let mut places = vec![std::env::temp_dir()];
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        places.push(memory);
    } else {
        eprintln!("NOT RUN on buffered writes: there is no /dev/shm");
    }
    places
}

/// A call, what it fails with, and which of them: strace counts those of each thread by itself.
struct Fault {
    call: &'static str,
    error: &'static str,
    when: String,
}

/// Runs `fanlog` with a fault.
fn run_with(store: &Store, fault: &Fault, words: &str) -> Ended {
    let Fault { call, error, when } = fault;
    let fanlog = assert_cmd::cargo::cargo_bin!("fanlog").to_str().unwrap().to_owned();
    let mut arguments: Vec<String> =
        ["-f", "-qq", "-o", "/dev/null", "-e"].into_iter().map(str::to_owned).collect();
    arguments.push(format!("trace={call}"));
    arguments.push("-e".to_owned());
    arguments.push(format!("inject={call}:error={error}:when={when}"));
    arguments.push(fanlog);
    arguments.extend(store.arguments(words));
    let child = store.start_program("strace", &arguments, Stdio::piped());
    Ended::from(child.wait_with_output().unwrap())
}

/// It ended well, or with a status that says that a call failed; nothing else.
#[track_caller]
fn proper(ended: &Ended, what: &str) -> bool {
    assert!(!ended.stderr.contains("panicked"), "{what}: {ended:?}");
    // So early that the program was not loaded.
    let not_begun = ended.status == Some(127) && ended.stdout.is_empty();
    if ended.status == Some(0) || not_begun {
        return true;
    }
    assert_eq!(ended.status, Some(5), "{what}: {ended:?}");
    assert!(ended.stderr.starts_with("error: "), "{what}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{what}: {ended:?}");
    false
}

/// Everything that was told is there, by reading alone and then by opening; the store is sound.
#[track_caller]
fn judge(store: &Store, told: &Told, sent: u64, what: &str) {
    for words in ["torture verify DIR --read-only", "torture verify DIR"] {
        let ended = store.run(words);
        if ended.status == Some(2) && told.confirms() == 0 {
            // It was never made.
            assert!(ended.stderr.contains("not-found"), "{what}: {ended:?}");
            return;
        }
        assert_eq!(ended.status, Some(0), "{what}: {words}: {ended:?}");
        told.judge(ASKED, sent, &ended.stdout);
    }
    assert!(store.fine("verify DIR").starts_with("ok: "), "{what}");
}

/// Calls, and with what each may fail. An interrupted one is to be made again by whoever called it.
const CALLS: [(&str, &[&str]); 9] = [
    ("pwritev2", &["EIO", "ENOSPC", "EINTR", "EDQUOT"]),
    ("pwrite64", &["EIO", "ENOSPC", "EINTR", "EFBIG"]),
    ("fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EINTR"]),
    ("fallocate", &["EIO", "ENOSPC", "EINTR", "EOPNOTSUPP"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("unlinkat", &["EIO", "EPERM"]),
    ("openat", &["EIO", "EMFILE", "EACCES"]),
    ("pread64", &["EIO", "EINTR"]),
];

fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, errors) in CALLS {
        for &error in errors {
            let once = ["1", "2", "3", "5", "10", "22"];
            let on = ["2+", "12+"];
            // An interruption that never ends is none.
            let on = if error == "EINTR" { &[][..] } else { &on[..] };
            for when in once.iter().chain(on) {
                faults.push(Fault { call, error, when: (*when).to_owned() });
            }
        }
    }
    if full() {
        return faults;
    }
    // Some of each call.
    let every = |&(at, _): &(usize, Fault)| at % 25 == 3;
    faults.into_iter().enumerate().filter(every).map(|(_, fault)| fault).collect()
}

#[test]
fn a_call_that_fails_while_publishing_costs_no_confirmed_message() {
    if !can_trace() {
        return;
    }
    let (mut ran, mut failed, mut interrupted) = (0, 0, 0);
    for place in places() {
        for fault in faults() {
            let what =
                format!("{} {} {} in {}", fault.call, fault.error, fault.when, place.display());
            let store = Store::within(&place);
            let words = ASKED.words(0, MESSAGES, " --ack 3 --segment-bytes 65536");
            let ended = run_with(&store, &fault, &words);
            let fine = proper(&ended, &what);
            if fault.error == "EINTR" {
                assert!(fine, "{what}: {ended:?}");
                interrupted += 1;
            }
            ran += 1;
            failed += u32::from(!fine);
            let mut told = Told::default();
            told.read(&ended.stdout);
            judge(&store, &told, MESSAGES, &what);
            // It goes on where it ended, with nothing failing.
            let words = ASKED.words(MESSAGES, 20, " --segment-bytes 65536");
            told.read(&store.fine(&words));
            judge(&store, &told, MESSAGES + 20, &what);
        }
    }
    eprintln!("{ran} faults while publishing, {failed} of them told, {interrupted} interruptions");
    assert!(failed > 0, "some of the faults strike");
}

#[test]
fn a_call_that_fails_while_opening_is_told_as_that_and_costs_nothing() {
    if !can_trace() {
        return;
    }
    let (mut ran, mut failed) = (0, 0);
    for place in places() {
        let made = Store::within(&place);
        let mut told = Told::default();
        let words = ASKED.words(0, MESSAGES, " --ack 3 --segment-bytes 65536");
        told.read(&made.fine(&words));
        for fault in faults() {
            let what =
                format!("{} {} {} in {}", fault.call, fault.error, fault.when, place.display());
            let store = Store::within(&place);
            fs::create_dir(store.dir()).unwrap();
            for (path, bytes) in made.files() {
                fs::write(store.dir().join(path.file_name().unwrap()), bytes).unwrap();
            }
            for words in ["torture verify DIR --read-only", "verify DIR", "torture verify DIR"] {
                let fine = proper(&run_with(&store, &fault, words), &format!("{what}: {words}"));
                ran += 1;
                failed += u32::from(!fine);
            }
            judge(&store, &told, MESSAGES, &what);
        }
    }
    eprintln!("{ran} faults while opening and reading, {failed} of them told");
    assert!(failed > 0, "some of the faults strike");
}

/// A file system of its own, gone at the end.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None`, and `NOT RUN` said, where this process may not mount.
    fn new(kind: &str, arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let tried = Command::new("mount").args(arguments).arg(dir.path()).output();
        if tried.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("NOT RUN on {kind}: it can't be mounted here: {tried:?}");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Fills a file system through the command, drains it and fills it again.
fn fill_and_drain(place: &Path) {
    let store = Store::within(place);
    let big = Asked { queues: 1, threads: 2, size: (50_000, 60_000) };
    let mut told = Told::default();
    let mut sent = 0;
    for round in 0..2 {
        let words = big.words(sent, 2000, " --segment-bytes 262144");
        let ended = store.run(&words);
        sent += 2000;
        assert_eq!(ended.status, Some(5), "round {round}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("error: out-of-space: "), "round {round}: {ended:?}");
        told.read(&ended.stdout);
        assert!(told.confirms() > 20, "round {round}: {}", told.confirms());
        let printed = store.fine("torture verify DIR");
        told.judge(big, sent, &printed);
        let stored = printed.lines().filter(|line| line.starts_with("M ")).count();
        let drained = store.fine("consume DIR --queue q0 --json").lines().count();
        assert!(0 < drained && drained <= stored, "round {round}: {drained} of {stored}");
        assert_eq!(store.fine("consume DIR --queue q0"), "", "round {round}");
        store.fine("reclaim DIR");
        // What was taken is gone on purpose.
        told = Told::default();
        assert!(store.fine("verify DIR").starts_with("ok: "), "round {round}");
    }
}

#[test]
fn a_full_file_system_in_memory_is_told_drained_and_filled_again() {
    if let Some(mounted) = Mounted::new("a tmpfs", &["-t", "tmpfs", "-o", "size=48m", "fanlog"]) {
        fill_and_drain(mounted.path());
    }
}

#[test]
fn a_full_file_system_on_a_disk_is_told_drained_and_filled_again() {
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("image");
    fs::File::create(&image).unwrap().set_len(72 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output();
    if !made.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("NOT RUN on an ext4: none could be made: {made:?}");
        return;
    }
    let image = image.to_str().unwrap();
    if let Some(mounted) = Mounted::new("an ext4", &["-o", "loop", image]) {
        fill_and_drain(mounted.path());
    }
}
