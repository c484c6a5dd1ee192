//! Publishing: what a ticket says, what a confirm promises, what a refusal leaves behind.

use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use fanlog::{
    Config, Engine, Error, ErrorKind, ExchangeKind, Message, Publisher, Ticket, WhenFull,
    clock::{ManualClock, SystemClock},
    storage::{CrashMode, MemoryStorage},
};

use crate::{
    gate::{Gate, GatedStorage},
    support::{
        Machine, PATIENCE, consume, next, pattern, publish, publish_numbers, ready, settle, small,
        sound, start, stepped, text, threaded, unacked, until, with_jobs,
    },
};

fn gated(config: Config) -> (Arc<Gate>, Engine) {
    let gate = Arc::new(Gate::default());
    let storage = Arc::new(GatedStorage::new(&gate));
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), config).unwrap();
    engine.declare_queue("jobs").unwrap();
    publish(&engine, "jobs", b"first");
    (gate, engine)
}

#[test]
fn a_ticket_has_no_outcome_before_the_commit_and_the_same_one_ever_after() {
    let (_machine, engine) = with_jobs();
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    assert!(ticket.try_wait().is_none());
    let confirm = ticket.wait().unwrap();
    assert_eq!((confirm.first_offset.0, confirm.messages), (0, 1));
    assert_eq!(ticket.try_wait().unwrap().unwrap(), confirm);
    assert_eq!(ticket.wait_timeout(Duration::ZERO).unwrap(), confirm);
    assert_eq!(ticket.wait().unwrap(), confirm);
}

#[test]
fn a_message_is_not_visible_before_it_is_confirmed() {
    let (_machine, engine) = with_jobs();
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    assert_eq!(unacked(&engine, "jobs"), [""; 0]);
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    ticket.wait().unwrap();
    assert_eq!(unacked(&engine, "jobs"), ["a"]);
}

#[test]
fn a_wait_that_timed_out_can_be_waited_for_again() {
    let (gate, engine) = gated(small());
    gate.shut();
    let ticket = engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap();
    for _ in 0..3 {
        let error = ticket.wait_timeout(Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(ticket.try_wait().is_none());
    }
    gate.open();
    assert_eq!(ticket.wait().unwrap().first_offset.0, 1);
    assert_eq!(unacked(&engine, "jobs"), ["first", "a"]);
}

#[test]
fn a_ticket_that_is_dropped_gives_nothing_up() {
    let (machine, engine) = with_jobs();
    drop(engine.publisher().publish(&Message::new("", "jobs", b"a")).unwrap());
    settle(&engine);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["a"]);
}

#[test]
fn confirmed_messages_survive_a_power_cut_and_offsets_go_on_behind_them() {
    let (machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 100);
    let again = machine.power_cut().open();
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(unacked(&again, "jobs"), expected);
    assert_eq!(publish(&again, "jobs", b"next"), 100);
    assert_eq!(again.queue("jobs").unwrap().messages, 101);
    sound(&again);
}

#[test]
fn a_batch_is_contiguous_behind_one_ticket() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", b"before");
    let messages = [1, 2, 3].map(|_| Message::new("", "jobs", b"m"));
    let confirm = engine.publisher().publish_batch(&messages).unwrap().wait().unwrap();
    assert_eq!((confirm.first_offset.0, confirm.messages), (1, 3));
    assert_eq!(publish(&engine, "jobs", b"after"), 4);
}

#[test]
fn batches_of_many_publishers_are_not_mixed() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let threads: Vec<_> = (0..4u8)
        .map(|who| {
            let publisher = engine.publisher();
            start(move || {
                for _ in 0..100 {
                    let payload = [who; 100];
                    let messages = [Message::new("", "jobs", &payload); 7];
                    publisher.publish_batch(&messages).unwrap();
                }
                publisher.publish_batch(&[]).unwrap().wait().unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    publish(&engine, "jobs", b"last");
    let who: Vec<u8> =
        engine.browse("jobs").unwrap().map(|message| message.unwrap().payload[0]).collect();
    assert_eq!(who.len(), 4 * 700 + 1);
    assert!(who[..2800].chunks(7).all(|batch| batch.iter().all(|&one| one == batch[0])));
}

#[test]
fn an_empty_batch_is_confirmed_at_once_and_writes_nothing() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let before = machine.disk.operation_count();
    let ticket = engine.publisher().publish_batch(&[]).unwrap();
    let confirm = ticket.try_wait().unwrap().unwrap();
    assert_eq!((confirm.first_offset.0, confirm.messages), (1, 0));
    assert_eq!(machine.disk.operation_count(), before);
}

#[test]
fn a_batch_with_one_bad_message_stores_none() {
    let (machine, engine) = with_jobs();
    let large = vec![0; 1001];
    let config = Config { message_bytes_max: 1000, ..stepped() };
    drop(engine);
    let engine = machine.open_with(config);
    let good = Message::new("", "jobs", b"good");
    publish(&engine, "jobs", b"the first defines the route");
    settle(&engine);
    let before = (engine.stats().log_bytes_written, engine.stats().end_offset);
    for (bad, kind) in [
        (Message::new("", "nobody", b"x"), ErrorKind::Unroutable),
        (Message::new("nothing", "", b"x"), ErrorKind::NotFound),
        (Message::new("", "jobs", &large), ErrorKind::TooLarge),
    ] {
        let error = engine.publisher().publish_batch(&[good, bad, good]).unwrap_err();
        assert_eq!(error.kind(), kind);
        settle(&engine);
        assert_eq!((engine.stats().log_bytes_written, engine.stats().end_offset), before);
    }
    assert_eq!(publish(&engine, "jobs", b"a"), 1);
}

/// Power is cut at every operation of the disk while a batch of 40 is published.
#[test]
fn a_batch_that_a_power_cut_hits_is_there_whole_or_not_at_all() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"before");
    drop(engine);
    let payload = [7; 2000];
    let (mut whole, mut none) = (0, 0);
    for cut in 0..40 {
        let trial = Machine { disk: machine.disk.deep_copy(), clock: Arc::default() };
        let Ok(engine) = trial.try_open(stepped()) else { continue };
        trial.disk.cut_at(trial.disk.operation_count() + cut);
        let publisher = engine.publisher();
        for _ in 0..3 {
            let batch = [Message::new("", "jobs", &payload); 40];
            drop(publisher.publish_batch(&batch).and_then(|ticket| ticket.wait()));
        }
        for seed in 0..8 {
            let mode = [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random];
            let disk = trial.disk.crash_image(seed, mode[(seed % 3) as usize]);
            let again = Machine { disk, clock: Arc::default() }.open();
            let messages = unacked_count(&again);
            assert!(messages % 40 == 1, "cut at {cut}, seed {seed}: {messages} messages");
            if messages > 1 {
                whole += 1;
            } else {
                none += 1;
            }
            sound(&again);
        }
    }
    assert!(whole > 0 && none > 0, "{whole} {none}");
}

fn unacked_count(engine: &Engine) -> u64 {
    engine.queue("jobs").unwrap().messages
}

#[test]
fn offsets_of_many_publishers_have_no_gaps_and_keep_each_ones_order() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let publisher = engine.publisher();
            start(move || {
                let publish = |_| publisher.publish(&Message::new("", "jobs", &[1; 300])).unwrap();
                let tickets: Vec<Ticket> = (0..1000).map(publish).collect();
                let confirmed = tickets.iter().map(|ticket| ticket.wait().unwrap());
                confirmed.map(|confirm| confirm.first_offset.0).collect::<Vec<_>>()
            })
        })
        .collect();
    let lists: Vec<Vec<u64>> = threads.into_iter().map(|thread| thread.join()).collect();
    assert!(lists.iter().all(|list| list.is_sorted()));
    let mut all = lists.concat();
    all.sort_unstable();
    assert_eq!(all, (0..4000).collect::<Vec<_>>());
    assert_eq!(engine.stats().end_offset.0, 4000);
}

#[test]
fn everything_that_a_publisher_gives_is_delivered_as_given() {
    let (machine, engine) = with_jobs();
    engine.declare_exchange("x", ExchangeKind::Direct).unwrap();
    engine.bind("jobs", "x", "key \u{1F980}").unwrap();
    let (properties, headers, payload) = (pattern(1, 5000), pattern(2, 300), pattern(3, 9000));
    let mut message = Message::new("x", "key \u{1F980}", &payload);
    message = message.properties(&properties).headers(&headers);
    message.priority = 9;
    engine.publisher().publish_confirmed(&message).unwrap();
    publish(&engine, "jobs", b"");
    let again = machine.power_cut().open();
    for engine in [&engine, &again] {
        let consumer = consume(engine, "jobs", 2);
        let full = next(&consumer);
        assert_eq!(full.payload(), payload);
        assert_eq!((full.properties(), full.headers()), (&*properties, &*headers));
        assert_eq!(full.routing_key(), "key \u{1F980}".as_bytes());
        assert_eq!((full.priority(), &*full.exchange()), (9, "x"));
        assert_eq!(full.published_us(), ManualClock::WALL_US_START);
        let empty = next(&consumer);
        assert_eq!(
            (empty.payload(), empty.properties(), empty.headers()),
            (&[][..], &[][..], &[][..])
        );
        assert_eq!((empty.priority(), empty.routing_key()), (0, &b"jobs"[..]));
    }
}

#[test]
fn an_unroutable_message_is_reported_and_stores_nothing() {
    let (machine, engine) = with_jobs();
    engine.declare_exchange("lonely", ExchangeKind::Fanout).unwrap();
    settle(&engine);
    let before = (machine.disk.operation_count(), engine.stats().end_offset);
    for (exchange, key) in [("lonely", "k"), ("", "nobody")] {
        let error = engine.publisher().publish(&Message::new(exchange, key, b"x")).unwrap_err();
        let Error::Unroutable { exchange: named, routing_key } = error else { panic!("{error}") };
        assert_eq!((&*named, &*routing_key), (exchange, key));
    }
    settle(&engine);
    assert_eq!((machine.disk.operation_count(), engine.stats().end_offset), before);
    assert_eq!(engine.stats().unroutable_messages, 2);
    assert_eq!(engine.stats().published_messages, 0);
}

#[test]
fn with_fail_a_full_buffer_is_an_error_with_numbers_and_room_comes_back() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { when_full: WhenFull::Fail, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    let payload = [1; 10_000];
    let publisher = engine.publisher();
    let mut placed = 0;
    let error = loop {
        match publisher.publish(&Message::new("", "jobs", &payload)) {
            Ok(_) => placed += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full);
    let Error::Full { unconfirmed, limit } = error else { panic!() };
    assert_eq!(limit, 1 << 20);
    assert!(unconfirmed <= limit && unconfirmed + 10_100 > limit, "{unconfirmed}");
    assert_eq!(engine.stats().unconfirmed_bytes, unconfirmed as u64);
    settle(&engine);
    assert_eq!(engine.stats().unconfirmed_bytes, 0);
    assert_eq!(publish(&engine, "jobs", &payload), placed);
    assert_eq!(unacked_count(&engine), placed + 1);
}

#[test]
fn with_block_a_full_buffer_makes_the_publisher_wait_until_there_is_room() {
    let (gate, engine) = gated(small());
    gate.shut();
    let placed = Arc::new(AtomicU64::new(0));
    let (publisher, count) = (engine.publisher(), Arc::clone(&placed));
    let publishing = start(move || {
        for _ in 0..300 {
            publisher.publish(&Message::new("", "jobs", &[1; 10_000])).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    until("the buffer is full", || engine.stats().unconfirmed_bytes + 10_100 > 1 << 20);
    until("a write is under way", || gate.waiting() > 0);
    assert!(publishing.is_done().is_none());
    assert!(engine.stats().unconfirmed_bytes <= 1 << 20);
    assert!(placed.load(Ordering::SeqCst) < 105);
    gate.open();
    publishing.join();
    until("all is confirmed", || engine.stats().unconfirmed_bytes == 0);
    assert_eq!(unacked_count(&engine), 301);
    sound(&engine);
}

#[test]
fn a_message_larger_than_the_buffer_is_taken_alone() {
    let (machine, engine) = with_jobs();
    let payload = pattern(1, 3 << 20);
    assert_eq!(publish(&engine, "jobs", &payload), 0);
    publish(&engine, "jobs", b"after");
    let again = machine.power_cut().open();
    let consumer = consume(&again, "jobs", 2);
    assert!(next(&consumer).payload() == payload);
    assert_eq!(next(&consumer).payload(), b"after");
    sound(&again);
}

#[test]
fn a_confirm_that_did_not_come_in_time_leaves_the_message_in_doubt_and_not_lost() {
    let (gate, engine) = gated(small());
    gate.shut();
    // Occupies the write, so that the next one is not written by its own thread.
    let first = engine.publisher().publish(&Message::new("", "jobs", b"1")).unwrap();
    until("the write hangs", || gate.waiting() > 0);
    let publisher = engine.publisher();
    let message = Message::new("", "jobs", b"2");
    let waited = publisher.publish_confirmed_timeout(&message, Duration::from_millis(10));
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Timeout);
    gate.open();
    first.wait().unwrap();
    until("the second is confirmed", || engine.stats().confirmed_messages == 3);
    assert_eq!(unacked(&engine, "jobs"), ["first", "1", "2"]);
}

#[test]
fn a_lone_publisher_that_waits_commits_in_its_own_thread() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    for _ in 0..100 {
        publish(&engine, "jobs", b"m");
    }
    assert!(engine.stats().inline_batches > 50, "{}", engine.stats().inline_batches);
}

#[test]
fn who_waits_alone_for_a_batch_or_an_ack_commits_in_its_own_thread() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 256);
    let publisher = engine.publisher();
    let batch = [Message::new("", "jobs", b"m"); 64];
    // The first ones show that nobody else publishes, and get a lease.
    publisher.publish_batch_confirmed(&batch).unwrap();
    consumer.recv_batch(64, PATIENCE).unwrap().ack().unwrap().wait().unwrap();
    let before = engine.stats();
    for _ in 0..100 {
        publisher.publish_batch_confirmed(&batch).unwrap();
        let mut left = 64;
        while left > 0 {
            let taken = consumer.recv_batch(left, PATIENCE).unwrap();
            left -= taken.len();
            taken.ack().unwrap().wait().unwrap();
        }
    }
    let after = engine.stats();
    assert!(after.inline_batches - before.inline_batches > 100, "{after:?}");
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    assert_eq!(after.confirmed_messages - before.confirmed_messages, 6_400);
    // None of them is confirmed by a batch that is not there.
    assert_eq!(publisher.publish_batch_confirmed(&[]).unwrap().messages, 0);
}

#[test]
fn leases_ride_along_with_batches_that_are_written_anyway() {
    // Acks that nobody waits for are not written in this time, nor is anything else on its own.
    let config = Config { ack_delay_max: Duration::from_secs(10), ..small() };
    let storage = Arc::new(MemoryStorage::new());
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), config).unwrap();
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 256);
    let batch = [Message::new("", "jobs", b"m"); 64];
    let before = engine.stats().batches;
    for _ in 0..100 {
        engine.publisher().publish_batch_confirmed(&batch).unwrap();
        let mut left = 64;
        while left > 0 {
            let taken = consumer.recv_batch(left, PATIENCE).unwrap();
            left -= taken.len();
            drop(taken.ack().unwrap());
        }
    }
    // 6,400 messages take a lease each 512 or so.
    let batches = engine.stats().batches - before;
    assert!(batches <= 104, "{batches}");
}

#[test]
fn a_buffered_message_is_confirmed_unsynced_and_synced_within_the_stated_time() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"synced");
    let before = engine.stats();
    let message = Message::new("", "jobs", b"buffered").buffered();
    engine.publisher().publish_confirmed(&message).unwrap();
    assert_eq!(engine.stats().syncs, before.syncs);
    assert_eq!((engine.stats().durable_offset.0, engine.stats().end_offset.0), (1, 2));
    assert_eq!(unacked(&engine, "jobs"), ["synced", "buffered"]);
    assert_eq!(unacked(&machine.killed().open(), "jobs"), ["synced", "buffered"]);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["synced"]);
    machine.clock.advance(Duration::from_millis(999));
    settle(&engine);
    assert_eq!(engine.stats().durable_offset.0, 1);
    machine.clock.advance(Duration::from_millis(1));
    settle(&engine);
    assert_eq!(engine.stats().durable_offset.0, 2);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["synced", "buffered"]);
}

#[test]
fn a_stream_of_buffered_messages_does_not_put_the_sync_off() {
    let (machine, engine) = with_jobs();
    for _ in 0..30 {
        let message = Message::new("", "jobs", b"m").buffered();
        engine.publisher().publish_confirmed(&message).unwrap();
        machine.clock.advance(Duration::from_millis(100));
        settle(&engine);
        let stats = engine.stats();
        assert!(stats.end_offset.0 - stats.durable_offset.0 <= 10, "{:?}", stats.durable_offset);
    }
}

/// A synced write of a later batch proves nothing about the bytes before it.
#[test]
fn a_synced_message_behind_a_buffered_one_makes_both_durable() {
    let (machine, engine) = with_jobs();
    let message = Message::new("", "jobs", b"buffered").buffered();
    engine.publisher().publish_confirmed(&message).unwrap();
    assert_eq!(engine.stats().durable_offset.0, 0);
    publish(&engine, "jobs", b"synced");
    assert_eq!(engine.stats().durable_offset.0, 2);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["buffered", "synced"]);
}

#[test]
fn one_synced_message_makes_its_whole_batch_synced() {
    let (machine, engine) = with_jobs();
    let batch = [Message::new("", "jobs", b"a").buffered(), Message::new("", "jobs", b"b")];
    engine.publisher().publish_batch(&batch).unwrap().wait().unwrap();
    assert_eq!(engine.stats().durable_offset.0, 2);
    assert_eq!(unacked(&machine.power_cut().open(), "jobs"), ["a", "b"]);
}

#[test]
fn the_durable_offset_never_passes_what_a_power_cut_would_leave() {
    let (machine, engine) = with_jobs();
    for round in 0..60u64 {
        let message = Message::new("", "jobs", &[1; 3000]);
        let message = if round % 3 == 0 { message } else { message.buffered() };
        engine.publisher().publish_confirmed(&message).unwrap();
        machine.clock.advance(Duration::from_millis(70 * (round % 5)));
        if round % 4 == 0 {
            settle(&engine);
        }
        let durable = engine.stats().durable_offset;
        let left = machine.power_cut().open().recovery().end;
        assert!(left >= durable, "round {round}: durable {durable}, left {left}");
    }
}

#[test]
fn a_wall_clock_that_jumps_changes_the_date_of_a_message_and_nothing_else() {
    let (machine, engine) = with_jobs();
    let mut dates = Vec::new();
    let mut engine = engine;
    for (round, date) in [5_000_000, 4_000_000, 0, u64::MAX, 7].into_iter().enumerate() {
        machine.clock.set_wall_us(date);
        publish(&engine, "jobs", round.to_string().as_bytes());
        dates.push(date);
        if round % 2 == 1 {
            drop(engine);
            engine = machine.open();
        }
    }
    let again = machine.power_cut().open();
    let found = ready(&consume(&again, "jobs", 10));
    let texts: Vec<String> = found.iter().map(|delivery| text(delivery.payload())).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    let published: Vec<u64> = found.iter().map(fanlog::Delivery::published_us).collect();
    assert_eq!(published, dates);
    sound(&again);
}

#[test]
fn handles_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Engine>();
    shared::<Publisher>();
    shared::<Ticket>();
    shared::<fanlog::Consumer>();
    shared::<fanlog::Delivery>();
    shared::<fanlog::DeliveryBatch>();
    shared::<fanlog::Payload>();
    shared::<fanlog::Ack>();
    shared::<Error>();
}
