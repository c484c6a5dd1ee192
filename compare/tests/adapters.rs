//! Every adapter publishes and consumes on real files, in a process of its own, as in a run: three
//! consumers get everything once and in order, over reopenings, and nothing that they acked again.

use std::process::Command;

fn check(peer: &str) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let store = dir.path().join("store");
    let output = Command::new(env!("CARGO_BIN_EXE_fanlog-compare"))
        .args(["probe", "--step", "check", "--peer", peer, "--store"])
        .arg(&store)
        .env("WALRUS_DATA_DIR", &store)
        .env("WALRUS_QUIET", "1")
        .output()
        .expect("the program can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{peer}: {errors}");
}

macro_rules! adapters {
    ($($test:ident: $peer:literal,)+) => {
        $(#[test]
        fn $test() {
            check($peer);
        })+

        #[test]
        fn every_adapter_is_checked() {
            let names = [$($peer),+];
            let output = Command::new(env!("CARGO_BIN_EXE_fanlog-compare"))
                .arg("--list")
                .output()
                .expect("the program can be run");
            let listed = String::from_utf8(output.stdout).expect("names are text");
            for line in listed.lines() {
                let name = line.split_whitespace().next().unwrap_or_default();
                assert!(names.contains(&name), "{name} is not checked");
            }
            assert!(listed.lines().count() > 0);
        }
    };
}

adapters! {
    fanlog: "fanlog",
    fanlog_small: "fanlog-small",
    fjall: "fjall",
    redb: "redb",
    sqlite: "sqlite",
    lmdb: "lmdb",
    raft_engine: "raft-engine",
    okaywal: "okaywal",
    wal_db: "wal-db",
    walrus: "walrus",
    kafko: "kafko",
    queue_file: "queue-file",
    persistent_queue: "persistent-queue",
    mrecordlog: "mrecordlog",
    commitlog: "commitlog",
    yaque: "yaque",
}
