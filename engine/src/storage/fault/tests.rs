//! Rules: which calls fail, how often, and what still happens.

use super::super::MemoryStorage;
use super::*;

fn wrapped() -> (FaultStorage, MemoryStorage) {
    let memory = MemoryStorage::new();
    (FaultStorage::new(Arc::new(memory.clone())), memory)
}

/// A call, and whether it worked.
type Attempt<'a> = Box<dyn Fn() -> bool + 'a>;

fn error(kind: io::ErrorKind) -> Fault {
    Fault::Error(kind)
}

fn refused() -> Fault {
    error(io::ErrorKind::PermissionDenied)
}

#[test]
fn without_rules_everything_passes_and_is_counted() {
    let (storage, memory) = wrapped();
    let file = storage.create("a", Purpose::Plain).unwrap();
    file.write_all_at(0, b"bytes", WriteSync::Data).unwrap();
    file.sync().unwrap();
    file.read_exact_at(0, &mut [0; 5]).unwrap();
    storage.rename("a", "b").unwrap();
    drop(storage.open("b", Access::Read, Purpose::Plain).unwrap());
    storage.list().unwrap();
    for (call, count) in [
        (Call::Write, 1),
        (Call::Sync, 1),
        (Call::Read, 1),
        (Call::Create, 1),
        (Call::Open, 1),
        (Call::Rename, 1),
        (Call::Remove, 0),
        (Call::List, 1),
        (Call::Any, 7),
    ] {
        assert_eq!(storage.calls(call), count, "{call:?}");
    }
    assert_eq!(memory.read_file("b").unwrap(), b"bytes");
    assert_eq!(storage.faults(), 0);
}

#[test]
fn each_call_fails_once_without_effect_and_then_works() {
    let (storage, memory) = wrapped();
    let file = storage.create("a", Purpose::Plain).unwrap();
    let before = memory.operation_count();
    let attempts: Vec<(Call, Attempt<'_>)> = vec![
        (Call::Write, Box::new(|| file.write_at(0, b"x", WriteSync::None).is_ok())),
        (Call::Sync, Box::new(|| file.sync().is_ok())),
        (Call::Read, Box::new(|| file.read_at(0, &mut [0]).is_ok())),
        (Call::Allocate, Box::new(|| file.allocate(10).is_ok())),
        (Call::Map, Box::new(|| file.map().is_ok())),
        (Call::Create, Box::new(|| storage.create("b", Purpose::Plain).is_ok())),
        (Call::Open, Box::new(|| storage.open("a", Access::Read, Purpose::Plain).is_ok())),
        (Call::Rename, Box::new(|| storage.rename("b", "c").is_ok())),
        (Call::Remove, Box::new(|| storage.remove("c").is_ok())),
        (Call::SyncDirectory, Box::new(|| storage.sync_directory().is_ok())),
        (Call::List, Box::new(|| storage.list().is_ok())),
        (Call::Lock, Box::new(|| storage.lock("lock").is_ok())),
        (Call::Lock, Box::new(|| storage.lock_read_only("lock").is_ok())),
        (Call::FreeBytes, Box::new(|| storage.free_bytes().is_ok())),
    ];
    let mut faults = 0;
    for (call, attempt) in attempts {
        for rule_for in [call, Call::Any] {
            let operations = memory.operation_count();
            storage.fail(FaultRule::new(rule_for, refused()));
            assert!(!attempt(), "{call:?}");
            assert_eq!(memory.operation_count(), operations, "F1: {call:?}");
            faults += 1;
        }
        assert!(attempt(), "{call:?}");
    }
    assert!(memory.operation_count() > before);
    assert_eq!(storage.faults(), faults);
}

#[test]
fn a_rule_skips_matching_calls_only_and_may_stay() {
    let (storage, _) = wrapped();
    let log = storage.create("0001.seg", Purpose::Plain).unwrap();
    let other = storage.create("checkpoint", Purpose::Plain).unwrap();
    let full = FaultRule::new(Call::Write, error(io::ErrorKind::StorageFull));
    storage.fail(full.name_contains(".seg").skip(2).forever());
    let write = |file: &Arc<dyn StorageFile>| file.write_at(0, b"x", WriteSync::Data).is_ok();
    assert!(write(&log) && write(&other) && write(&other) && write(&log));
    assert!(!write(&log) && !write(&log) && write(&other));
    assert!(log.sync().is_ok());
    storage.clear();
    assert!(write(&log));
    assert_eq!((storage.calls(Call::Write), storage.faults()), (8, 2));
}

#[test]
fn the_first_rule_that_is_due_decides() {
    let (storage, _) = wrapped();
    storage.fail(FaultRule::new(Call::List, error(io::ErrorKind::NotFound)).skip(1));
    storage.fail(FaultRule::new(Call::Any, refused()).forever());
    let kinds: Vec<_> = (0..3).map(|_| storage.list().unwrap_err().kind()).collect();
    let denied = io::ErrorKind::PermissionDenied;
    assert_eq!(kinds, [denied, io::ErrorKind::NotFound, denied]);
}

#[test]
fn a_rename_is_known_by_both_names_and_a_nameless_call_by_none() {
    let (storage, memory) = wrapped();
    memory.write_file("old", b"").unwrap();
    for part in ["ol", "ew"] {
        storage.fail(FaultRule::new(Call::Rename, refused()).name_contains(part));
        assert!(storage.rename("old", "new").is_err(), "{part}");
    }
    storage.fail(FaultRule::new(Call::Any, refused()).name_contains(""));
    assert!(storage.list().is_ok() && storage.sync_directory().is_ok());
    assert!(storage.rename("old", "new").is_err());
    assert!(storage.rename("old", "new").is_ok());
}

#[test]
fn an_error_number_is_the_systems_own() {
    let (storage, _) = wrapped();
    let code = rustix::io::Errno::DQUOT.raw_os_error();
    storage.fail(FaultRule::new(Call::List, Fault::Os(code)));
    let error = storage.list().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(code));
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
}

#[test]
fn an_error_after_the_effect_leaves_the_effect() {
    let (storage, memory) = wrapped();
    let after = Fault::ErrorAfter(io::ErrorKind::Other);
    storage.fail(FaultRule::new(Call::Any, after).forever());
    assert!(storage.create("a", Purpose::Plain).is_err());
    storage.clear();
    let file = storage.open("a", Access::Write, Purpose::Plain).unwrap();
    storage.fail(FaultRule::new(Call::Any, after).forever());
    assert!(file.write_at(0, b"there", WriteSync::Data).is_err());
    assert!(storage.rename("a", "b").is_err());
    assert_eq!(memory.read_file("b").unwrap(), b"there");
}

#[test]
fn a_short_write_says_how_short_and_the_loop_completes_it() {
    let (storage, memory) = wrapped();
    let file = storage.create("a", Purpose::Plain).unwrap();
    let short = FaultRule::new(Call::Any, Fault::ShortWrite(3));
    storage.fail(short.clone());
    assert!(storage.list().is_ok(), "only writes are short");
    assert_eq!(file.write_at(0, b"12345", WriteSync::Data).unwrap(), 3);
    assert_eq!(memory.read_file("a").unwrap(), b"123");
    storage.fail(short.clone());
    file.write_all_at(0, b"12345", WriteSync::Data).unwrap();
    assert_eq!(memory.read_file("a").unwrap(), b"12345");
    storage.fail(FaultRule { error: Fault::ShortWrite(0), ..short });
    let nothing = file.write_all_at(0, b"x", WriteSync::None).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WriteZero);
}

#[test]
fn a_short_write_of_a_log_file_ends_with_a_block() {
    let (storage, memory) = wrapped();
    let file = storage.create("a", Purpose::Log).unwrap();
    let bytes = super::super::AlignedBuffer::zeroed(3 * 4096);
    storage.fail(FaultRule::new(Call::Write, Fault::ShortWrite(9000)));
    assert_eq!(file.write_at(0, &bytes, WriteSync::Data).unwrap(), 8192);
    assert_eq!(memory.read_file("a").unwrap().len(), 8192);
    storage.fail(FaultRule::new(Call::Write, Fault::ShortWrite(9000)));
    file.write_all_at(0, &bytes, WriteSync::Data).unwrap();
    assert_eq!(memory.read_file("a").unwrap().len(), 12_288);
}

#[test]
fn an_interruption_is_not_seen_by_callers() {
    let (storage, _) = wrapped();
    let file = storage.create("a", Purpose::Plain).unwrap();
    storage.fail(FaultRule::new(Call::Write, Fault::EintrOnce));
    assert_eq!(file.write_at(0, b"12345", WriteSync::Data).unwrap(), 5);
    assert_eq!((storage.calls(Call::Write), storage.faults()), (2, 1));
}
