//! Statistics: the counters of known workloads, and what they say of the cost of things.

use std::{sync::Arc, time::Duration};

use fanlog::{
    Change, Config, Engine, ExchangeKind, Message, Stats, clock::SystemClock,
    storage::MemoryStorage,
};

use crate::support::{
    Machine, PATIENCE, consume, next, pattern, publish, publish_numbers, ready, settle, small,
    start, stepped, with_jobs,
};

/// Machine and engine with a fanout exchange bound to so many queues, `q0000` and on.
fn fanout(queues: usize) -> (Machine, Engine) {
    let machine = Machine::new();
    let engine = machine.open_with(Config { segment_bytes_max: 16 << 20, ..stepped() });
    engine.declare_exchange("results", ExchangeKind::Fanout).unwrap();
    let names: Vec<String> = (0..queues).map(|number| format!("q{number:04}")).collect();
    let mut changes = Vec::new();
    for name in &names {
        changes.push(Change::declare_queue(name));
        changes.push(Change::Bind { queue: name, exchange: "results", routing_key: "" });
    }
    engine.change(&changes).unwrap();
    settle(&engine);
    (machine, engine)
}

#[test]
fn a_batch_of_a_hundred_messages_to_a_hundred_queues_costs_one_sync() {
    let (_machine, engine) = fanout(100);
    let messages = [Message::new("results", "", b"warm"); 100];
    engine.publisher().publish_confirmed(&messages[0]).unwrap();
    let before = engine.stats();
    engine.publisher().publish_batch(&messages).unwrap().wait().unwrap();
    let after = engine.stats();
    assert_eq!((after.syncs - before.syncs, after.batches - before.batches), (1, 1));
    assert_eq!(after.confirmed_messages - before.confirmed_messages, 100);
    assert!((0..100).all(|at| engine.queue(&format!("q{at:04}")).unwrap().messages == 101));
}

#[test]
fn publishing_to_a_thousand_queues_writes_the_bytes_of_publishing_to_one() {
    let written = [1, 10, 1000].map(|queues| {
        let (machine, engine) = fanout(queues);
        let payload = pattern(1, 1024);
        let message = Message::new("results", "some.key", &payload);
        // The first defines the route.
        engine.publisher().publish_confirmed(&message).unwrap();
        let before = (engine.stats(), machine.disk.operation_count());
        for _ in 0..20 {
            engine.publisher().publish_confirmed(&message).unwrap();
        }
        let after = engine.stats();
        (
            after.log_bytes_written - before.0.log_bytes_written,
            after.syncs - before.0.syncs,
            machine.disk.operation_count() - before.1,
        )
    });
    assert_eq!(written[0], written[1]);
    assert_eq!(written[0], written[2]);
    assert_eq!(written[0].1, 20);
}

#[test]
fn many_publishers_share_syncs() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", b"warm");
    let before = engine.stats();
    let publishers: Vec<_> = (0..64).map(|_| engine.publisher()).collect();
    let tickets: Vec<_> = publishers
        .iter()
        .map(|publisher| publisher.publish(&Message::new("", "jobs", b"m")).unwrap())
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(engine.stats().syncs - before.syncs, 1);
}

#[test]
fn counters_tell_what_was_done() {
    let (_machine, engine) = with_jobs();
    for text in ["1", "22", "333"] {
        publish(&engine, "jobs", text.as_bytes());
    }
    let consumer = consume(&engine, "jobs", 10);
    next(&consumer).ack().unwrap().wait().unwrap();
    next(&consumer).nack(true).unwrap();
    let _held = ready(&consumer);
    assert!(engine.publisher().publish(&Message::new("", "nobody", b"x")).is_err());
    let stats: Stats = engine.stats();
    assert_eq!((stats.published_messages, stats.published_bytes), (3, 6));
    assert_eq!((stats.confirmed_messages, stats.unroutable_messages), (3, 1));
    assert_eq!((stats.delivered_messages, stats.redelivered_messages), (4, 1));
    assert_eq!(stats.acked_messages, 1);
    assert_eq!((stats.end_offset.0, stats.durable_offset.0), (3, 3));
    assert_eq!((stats.unconfirmed_bytes, stats.poisoned), (0, false));
    assert_eq!(stats.batches, stats.batch_bytes.count);
    assert_eq!(stats.batches, stats.commit_us.count);
    assert_eq!(stats.log_bytes_written, stats.batch_bytes.sum);
    assert!(stats.log_bytes_written.is_multiple_of(4096));
}

#[test]
fn an_idle_store_writes_one_mark_and_then_nothing() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    settle(&engine);
    let begin = engine.stats().batches;
    for _ in 0..10 {
        machine.clock.advance(Duration::from_millis(500));
        settle(&engine);
    }
    assert_eq!(engine.stats().batches - begin, 1);
    // A checkpoint is due once, after a minute.
    machine.clock.advance(Duration::from_mins(2));
    settle(&engine);
    let before = machine.disk.operation_count();
    for _ in 0..100 {
        machine.clock.advance(Duration::from_mins(3));
        settle(&engine);
    }
    assert_eq!(machine.disk.operation_count(), before);
}

#[test]
fn checkpoints_come_by_bytes_and_by_time_and_by_call() {
    let (machine, engine) = with_jobs();
    for number in 0..100 {
        publish(&engine, "jobs", &pattern(number, 4000));
        settle(&engine);
    }
    let by_bytes = engine.stats().checkpoints;
    assert!(by_bytes >= 3, "{by_bytes}");
    publish(&engine, "jobs", b"a");
    machine.clock.advance(Duration::from_secs(61));
    settle(&engine);
    let by_time = engine.stats().checkpoints;
    assert!(by_time > by_bytes);
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().checkpoints, by_time + 1);
}

#[test]
fn an_opening_after_a_checkpoint_reads_the_tail_and_not_the_data() {
    let (machine, engine) = with_jobs();
    for number in 0..400 {
        publish(&engine, "jobs", &pattern(number, 4000));
        settle(&engine);
    }
    engine.checkpoint().unwrap();
    publish(&engine, "jobs", b"tail");
    let again = machine.power_cut().open();
    assert!(again.recovery().replayed_batches <= 3, "{}", again.recovery().replayed_batches);
    assert!(again.recovery().read_bytes <= 256 << 10, "{}", again.recovery().read_bytes);
    assert_eq!(again.queue("jobs").unwrap().messages, 401);
}

#[test]
fn thousands_of_idle_queues_cost_less_than_a_kibibyte_each() {
    let (machine, engine) = fanout(5000);
    let each = |engine: &Engine| {
        engine.topology().queues.iter().map(|queue| queue.heap_bytes).max().unwrap()
    };
    assert!(each(&engine) < 1024, "{}", each(&engine));
    for _ in 0..10 {
        let message = Message::new("results", "", b"m");
        engine.publisher().publish_confirmed(&message).unwrap();
    }
    assert!(each(&engine) < 1024, "{}", each(&engine));
    drop(engine);
    let again = machine.open();
    assert!(each(&again) < 1024, "{}", each(&again));
    // No file of their own.
    assert!(machine.files().len() < 10);
}

#[test]
fn a_queue_bound_and_unbound_ten_thousand_times_costs_no_memory() {
    let (_machine, engine) = fanout(1);
    let changes = [
        Change::Unbind { queue: "q0000", exchange: "results", routing_key: "" },
        Change::Bind { queue: "q0000", exchange: "results", routing_key: "" },
    ];
    let many: Vec<Change<'_>> = changes.iter().cycle().take(2000).copied().collect();
    for _ in 0..5 {
        engine.change(&many).unwrap();
    }
    assert!(engine.queue("q0000").unwrap().heap_bytes < 1024);
}

#[test]
fn ten_million_acks_behind_a_stuck_head_would_fit_into_a_megabyte() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 60_000);
    let consumer = consume(&engine, "jobs", 0);
    let mut tags = Vec::new();
    while tags.len() < 60_000 {
        tags.extend(consumer.recv_batch(60_000, Duration::ZERO).unwrap().keep());
    }
    for tag in &tags[1..] {
        consumer.ack(*tag).unwrap();
    }
    consumer.ack(tags[1]).unwrap_err();
    settle(&engine);
    publish(&engine, "jobs", b"carries the acks");
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.ack_floor.0), (2, 0));
    assert!(view.heap_bytes < 6 * 1024, "{}", view.heap_bytes);
}

/// A reader that holds everything must not take the buffers that its own publishing needs.
#[test]
fn a_thread_that_holds_a_hundred_thousand_payloads_can_go_on_publishing() {
    let config = Config { pinned_bytes_max: 1 << 20, segment_bytes_max: 4 << 20, ..small() };
    let storage = Arc::new(MemoryStorage::new());
    let engine = Engine::open_on(storage, Arc::new(SystemClock::new()), config).unwrap();
    engine.declare_queue("jobs").unwrap();
    let working = start(move || {
        let consumer = consume(&engine, "jobs", 0);
        let publisher = engine.publisher();
        let mut payloads = Vec::new();
        let mut number = 0u64;
        while payloads.len() < 100_000 {
            let bytes: Vec<_> = (number..number + 500).map(|at| pattern(at, 80)).collect();
            let messages: Vec<_> =
                bytes.iter().map(|payload| Message::new("", "jobs", payload)).collect();
            publisher.publish_batch(&messages).unwrap().wait().unwrap();
            number += 500;
            while payloads.len() < usize::try_from(number).unwrap() {
                let batch = consumer.recv_batch(500, PATIENCE).unwrap();
                payloads.extend(batch.iter().map(|delivery| delivery.to_payload()));
                batch.ack().unwrap();
            }
        }
        let pinned = engine.stats().pinned_bytes;
        for (number, payload) in (0..).zip(&payloads) {
            assert!(**payload == pattern(number, 80), "payload {number}");
        }
        drop(payloads);
        (pinned, engine.stats().pinned_bytes)
    });
    let (held, released) = working.join();
    assert!(held <= 16 << 20, "{held}");
    assert!(released < 1 << 20, "{released}");
}

/// A queue that gets few messages and is behind the window finds one in each batch that it reads back.
#[test]
fn a_message_that_is_held_does_not_keep_the_batch_that_was_read_back_for_it() {
    let machine = Machine::new();
    let config = Config {
        window_bytes_max: 1 << 20,
        buffer_bytes_max: 1 << 20,
        segment_bytes_max: 64 << 20,
        ..stepped()
    };
    let engine = machine.open_with(config);
    engine.declare_queue("busy").unwrap();
    engine.declare_queue("rare").unwrap();
    let filler = vec![7; 500_000];
    for number in 0..40 {
        let rare = pattern(number, 100);
        let messages = [Message::new("", "rare", &rare), Message::new("", "busy", &filler)];
        engine.publisher().publish_batch(&messages).unwrap().wait().unwrap();
    }
    let before = engine.stats().pinned_bytes;
    let consumer = consume(&engine, "rare", 0);
    let batch = consumer.recv_batch(40, Duration::ZERO).unwrap();
    assert_eq!(batch.len(), 40);
    for (number, delivery) in (0..).zip(batch.iter()) {
        assert!(delivery.payload() == pattern(number, 100), "message {number}");
    }
    let held = engine.stats().pinned_bytes.saturating_sub(before);
    assert!((3 << 20..6 << 20).contains(&held), "{held} bytes are held");
    batch.ack().unwrap();
    let left = engine.stats().pinned_bytes.saturating_sub(before);
    assert!(left < 1 << 20, "{left} bytes are still held");
}

/// Past the limit readers get copies, so that one held message does not keep a whole arena.
#[test]
fn past_the_limit_of_pinned_memory_payloads_are_copies() {
    let machine = Machine::new();
    let config = Config { pinned_bytes_max: 2 << 20, segment_bytes_max: 4 << 20, ..stepped() };
    let engine = machine.open_with(config);
    engine.declare_queue("jobs").unwrap();
    let consumer = consume(&engine, "jobs", 0);
    let mut kept = Vec::new();
    let mut most = 0;
    for number in 0..4000u64 {
        publish(&engine, "jobs", &pattern(number, 10_000));
        let delivery = next(&consumer);
        // One in a hundred: without copies they would keep every arena there ever was.
        if number % 100 == 0 {
            kept.push((number, delivery.to_payload()));
        }
        delivery.ack().unwrap();
        most = most.max(engine.stats().pinned_bytes);
    }
    assert!(most <= 6 << 20, "{most} bytes were pinned");
    for (number, payload) in &kept {
        assert!(**payload == pattern(*number, 10_000));
    }
}

#[test]
fn the_window_of_recent_batches_keeps_to_its_size() {
    let (_machine, engine) = with_jobs();
    for number in 0..1000 {
        publish(&engine, "jobs", &pattern(number, 10_000));
        assert!(engine.stats().window_bytes <= (1 << 20) + 64 * 1024);
    }
    settle(&engine);
    assert!(engine.stats().window_bytes > 900 << 10);
}

#[test]
fn memory_does_not_follow_the_backlog() {
    let (_machine, engine) = with_jobs();
    let mut largest = 0;
    for number in 0..6000 {
        publish(&engine, "jobs", &pattern(number, 1000));
        settle(&engine);
        largest = largest.max(engine.stats().index_bytes);
    }
    // The index of one unsealed segment, however many messages wait.
    assert!(largest < 64 << 10, "{largest}");
    assert!(engine.queue("jobs").unwrap().heap_bytes < 1024);
}

#[test]
fn maps_of_sealed_segments_keep_to_their_number() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { mapped_segments_max: 3, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    for number in 0..600 {
        publish(&engine, "jobs", &pattern(number, 4000));
        settle(&engine);
    }
    let consumer = consume(&engine, "jobs", 5);
    for _ in 0..600 {
        next(&consumer).ack().unwrap();
        let stats = engine.stats();
        assert!(stats.mapped_bytes <= 3 * (64 << 10), "{}", stats.mapped_bytes);
    }
}
