//! Limits: what is over one is refused before anything is written, what is at one goes through.

use std::time::Duration;

use fanlog::{Change, Config, Engine, Error, ErrorKind, Message};

use crate::support::{
    Machine, PATIENCE, consume, next, pattern, publish, settle, sound, start, stepped, threaded,
    with_jobs,
};

const MIB: usize = 1 << 20;

#[track_caller]
fn too_large(
    machine: &Machine,
    engine: &Engine,
    messages: &[Message<'_>],
    what: &str,
    limit: usize,
) {
    settle(engine);
    let before = (machine.disk.operation_count(), engine.stats().end_offset);
    let publisher = engine.publisher();
    let outcome = match messages {
        [message] => publisher.publish(message),
        batch => publisher.publish_batch(batch),
    };
    let error = outcome.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let Error::TooLarge { what: named, found, limit: told } = error else { panic!("{error}") };
    assert_eq!((named, told), (what, limit));
    assert!(found > limit);
    settle(engine);
    assert_eq!((machine.disk.operation_count(), engine.stats().end_offset), before);
}

#[test]
fn what_is_over_a_limit_is_refused_before_anything_is_written() {
    let machine = Machine::new();
    let config = Config { message_bytes_max: 10_000, transaction_bytes_max: 50_000, ..stepped() };
    let engine = machine.open_with(config);
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"first");
    let plain = Message::new("", "jobs", b"m");
    let (payload, over) = (vec![1; 10_000], vec![1; 10_001]);
    let long = vec![1; MIB + 1];
    too_large(&machine, &engine, &[Message::new("", "jobs", &over)], "message", 10_000);
    too_large(&machine, &engine, &[plain.properties(&long)], "properties", MIB);
    too_large(&machine, &engine, &[plain.headers(&long)], "headers", MIB);
    too_large(&machine, &engine, &[plain, Message::new("", "jobs", &over)], "message", 10_000);
    too_large(&machine, &engine, &[Message::new("", "jobs", &payload); 5], "batch", 50_000);
    // At the limit all of it goes through.
    let largest = Message::new("", "jobs", &payload).properties(&long[1..]).headers(&long[1..]);
    engine.publisher().publish_confirmed(&largest).unwrap();
    engine.publisher().publish_batch(&[Message::new("", "jobs", &payload); 4]).unwrap();
    settle(&engine);
    assert_eq!(engine.queue("jobs").unwrap().messages, 6);
    sound(&machine.power_cut().open());
}

#[test]
fn a_change_over_the_limit_is_refused_and_changes_nothing() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { transaction_bytes_max: 10_000, ..stepped() });
    let names: Vec<String> = (0..200).map(|number| format!("q{number}")).collect();
    let changes: Vec<Change<'_>> = names.iter().map(|name| Change::declare_queue(name)).collect();
    let before = machine.disk.operation_count();
    assert_eq!(engine.change(&changes).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(machine.disk.operation_count(), before);
    assert!(engine.topology().queues.is_empty());
    engine.change(&changes[..20]).unwrap();
}

#[test]
fn a_message_of_64_mib_with_all_its_parts_at_their_limits_comes_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { transaction_bytes_max: 4096, segments_ahead: 1, ..Config::default() };
    let engine =
        Engine::open(dir.path(), Config { segment_bytes_max: 1 << 20, ..config.clone() }).unwrap();
    engine.declare_queue("jobs").unwrap();
    let (payload, properties, headers) = (pattern(1, 64 * MIB), pattern(2, MIB), pattern(3, MIB));
    publish(&engine, "jobs", b"before");
    let message = Message::new("", "jobs", &payload).properties(&properties).headers(&headers);
    engine.publisher().publish_confirmed(&message).unwrap();
    publish(&engine, "jobs", b"after");
    let whole = |engine: &Engine| {
        let consumer = consume(engine, "jobs", 10);
        let take = || consumer.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(take().payload(), b"before");
        let large = take();
        assert!(large.payload() == payload && large.properties() == properties);
        assert!(large.headers() == headers);
        assert_eq!(take().payload(), b"after");
    };
    whole(&engine);
    engine.close(PATIENCE).unwrap();
    let again = Engine::open(dir.path(), Config { segment_bytes_max: 1 << 20, ..config }).unwrap();
    whole(&again);
    sound(&again);
}

#[test]
fn one_byte_over_64_mib_is_refused() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"first");
    let over = vec![0; 64 * MIB + 1];
    too_large(&machine, &engine, &[Message::new("", "jobs", &over)], "message", 64 * MIB);
}

#[test]
fn messages_of_every_size_around_the_borders_of_blocks_and_segments_come_back() {
    let (machine, engine) = with_jobs();
    let sizes: Vec<usize> = [0, 1, 7, 8, 4000, 4095, 4096, 4097, 8192, 60_000, 65_000, 70_000]
        .into_iter()
        .flat_map(|size: usize| (size.saturating_sub(30)..size + 30).step_by(13))
        .collect();
    for (number, &size) in (0..).zip(&sizes) {
        publish(&engine, "jobs", &pattern(number, size));
        if number % 5 == 0 {
            settle(&engine);
        }
    }
    let again = machine.power_cut().open();
    for engine in [&engine, &again] {
        let consumer = consume(engine, "jobs", 0);
        for (number, &size) in (0..).zip(&sizes) {
            let delivery = next(&consumer);
            assert!(delivery.payload() == pattern(number, size), "{size} bytes");
            delivery.keep();
        }
        sound(engine);
    }
}

#[test]
fn a_setting_out_of_its_range_is_refused_by_name_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let base = Config::default;
    let day = Duration::from_hours(24);
    for (setting, config) in [
        ("segment_bytes_max", Config { segment_bytes_max: 4096, ..base() }),
        ("segment_bytes_max", Config { segment_bytes_max: (1 << 30) + 4096, ..base() }),
        ("segment_bytes_max", Config { segment_bytes_max: 100_000, ..base() }),
        ("segments_ahead", Config { segments_ahead: 0, ..base() }),
        ("segments_ahead", Config { segments_ahead: 65, ..base() }),
        ("message_bytes_max", Config { message_bytes_max: 0, ..base() }),
        ("message_bytes_max", Config { message_bytes_max: 64 * MIB + 1, ..base() }),
        ("transaction_bytes_max", Config { transaction_bytes_max: 4095, ..base() }),
        ("transaction_bytes_max", Config { transaction_bytes_max: 80 * MIB + 1, ..base() }),
        ("window_bytes_max", Config { window_bytes_max: MIB - 1, ..base() }),
        ("buffer_bytes_max", Config { buffer_bytes_max: MIB - 1, ..base() }),
        ("mapped_segments_max", Config { mapped_segments_max: 0, ..base() }),
        ("store_bytes_max", Config { store_bytes_max: Some(400 << 20), ..base() }),
        ("checkpoint_log_bytes", Config { checkpoint_log_bytes: 1000, ..base() }),
        ("ack_delay_max", Config { ack_delay_max: Duration::ZERO, ..base() }),
        ("ack_delay_max", Config { ack_delay_max: day, ..base() }),
        ("buffered_sync_delay_max", Config { buffered_sync_delay_max: day, ..base() }),
        ("checkpoint_interval", Config { checkpoint_interval: Duration::ZERO, ..base() }),
    ] {
        let error = Engine::open(&path, config).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let Error::Setting { setting: named, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, setting);
        assert!(!path.exists());
    }
}

#[test]
fn without_create_a_directory_without_a_store_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { create: false, ..Config::default() };
    let missing = dir.path().join("missing");
    for path in [dir.path(), &missing] {
        let error = Engine::open(path, config.clone()).map(drop).unwrap_err();
        assert!(
            matches!(&error, Error::NoStore { path: named } if named.starts_with(path)),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert!(!missing.exists());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.len() <= 1, "only a lock file may be there: {left:?}");
}

#[test]
fn a_message_larger_than_the_buffers_is_taken_also_as_the_first_of_its_route() {
    // The definition of its route is in the buffers then, and nobody else is there to commit it.
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let payload = vec![1; 20 << 20];
    let publisher = engine.publisher();
    let publishing =
        start(move || publisher.publish_confirmed(&Message::new("", "jobs", &payload)));
    publishing.join().unwrap();
    assert_eq!(engine.queue("jobs").unwrap().bytes, 20 << 20);
}
