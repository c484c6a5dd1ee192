//! Messages that are not to be delivered before a time: neither early nor late, each once, at their
//! original place, whatever happens to clocks, files and processes.

use std::time::{Duration, SystemTime};

use fanlog::{
    Change, Config, Consumer, Delivery, Engine, Error, ErrorKind, ExchangeKind, Message,
    clock::ManualClock,
};

use crate::support::{
    Machine, block_on, consume, is_segment, next, nothing, offsets, publish, ready, settle, sound,
    start, stepped, texts, threaded, with_jobs,
};

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn delayed(engine: &Engine, queue: &str, payload: &str, delay: Duration) -> u64 {
    let message = Message::new("", queue, payload.as_bytes()).delay(delay);
    engine.publisher().publish_confirmed(&message).unwrap().first_offset.0
}

/// Takes and acks all that is ready.
#[track_caller]
fn taken(consumer: &Consumer) -> Vec<String> {
    let deliveries = ready(consumer);
    let found = texts(&deliveries);
    for delivery in deliveries {
        delivery.ack().unwrap().wait().unwrap();
    }
    found
}

fn date(wall_us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(wall_us)
}

#[test]
fn a_message_comes_when_it_is_due_and_not_a_microsecond_earlier() {
    let (machine, engine) = with_jobs();
    delayed(&engine, "jobs", "later", 10 * SECOND);
    publish(&engine, "jobs", b"now");
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer), ["now"]);
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.ready, view.delayed, view.unacked), (1, 1, 1, 0));
    machine.clock.advance(Duration::from_micros(9_999_999));
    nothing(&consumer);
    machine.clock.advance(Duration::from_micros(1));
    let delivery = next(&consumer);
    assert_eq!(delivery.payload(), b"later");
    assert!(!delivery.redelivered());
    delivery.ack().unwrap().wait().unwrap();
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.delayed, view.ack_floor.0), (0, 0, 2));
    sound(&engine);
}

#[test]
fn a_date_that_is_past_delays_nothing() {
    let (machine, engine) = with_jobs();
    machine.clock.advance(SECOND);
    let publisher = engine.publisher();
    for past in [date(0), date(ManualClock::WALL_US_START), SystemTime::UNIX_EPOCH - SECOND] {
        publisher.publish_confirmed(&Message::new("", "jobs", b"x").due_at(past)).unwrap();
    }
    delayed(&engine, "jobs", "x", Duration::ZERO);
    assert_eq!(taken(&consume(&engine, "jobs", 0)).len(), 4);
}

/// What falls due while others are being taken is looked for once those are done, not at the next call.
#[test]
fn what_fell_due_since_another_was_taken_is_got_at_once() {
    let (machine, engine) = with_jobs();
    delayed(&engine, "jobs", "second", 3 * SECOND);
    delayed(&engine, "jobs", "first", SECOND);
    assert!(engine.get("jobs").unwrap().is_none());
    machine.clock.advance(SECOND);
    let first = engine.get("jobs").unwrap().unwrap();
    machine.clock.advance(2 * SECOND);
    assert_eq!(engine.peek("jobs", 9).unwrap().len(), 1);
    let second = engine.get("jobs").unwrap().unwrap();
    assert_eq!(texts(&[first, second]), ["first", "second"]);
}

/// Of what is due one is taken, and nobody has credit for the others: what falls due before them since
/// comes before them.
#[test]
fn what_falls_due_while_others_wait_for_credit_comes_at_its_place_too() {
    for as_one in [true, false] {
        let (machine, engine) = with_jobs();
        let messages = [("e", 9), ("c", 5), ("a", 1), ("b", 1), ("d", 5)]
            .map(|(text, delay)| Message::new("", "jobs", text.as_bytes()).delay(delay * SECOND));
        let publisher = engine.publisher();
        if as_one {
            publisher.publish_batch(&messages).unwrap().wait().unwrap();
        } else {
            for message in &messages {
                publisher.publish_confirmed(message).unwrap();
            }
        }
        let consumer = consume(&engine, "jobs", 1);
        nothing(&consumer);
        machine.clock.advance(SECOND);
        let first = next(&consumer);
        machine.clock.advance(4 * SECOND);
        first.ack().unwrap().wait().unwrap();
        let rest = ["c", "b", "d"].map(|_| taken(&consumer));
        assert_eq!(rest, [["c"], ["b"], ["d"]]);
        machine.clock.advance(4 * SECOND);
        assert_eq!(taken(&consumer), ["e"]);
        let view = engine.queue("jobs").unwrap();
        assert_eq!((view.messages, view.delayed, view.ack_floor.0), (0, 0, 5));
        sound(&engine);
    }
}

#[test]
fn what_fell_due_comes_at_its_original_place() {
    let (machine, engine) = with_jobs();
    delayed(&engine, "jobs", "a", 3 * SECOND);
    delayed(&engine, "jobs", "b", SECOND);
    for text in ["c", "d"] {
        publish(&engine, "jobs", text.as_bytes());
    }
    delayed(&engine, "jobs", "e", 2 * SECOND);
    let consumer = consume(&engine, "jobs", 1);
    let c = next(&consumer);
    assert_eq!(c.payload(), b"c");
    machine.clock.advance(3 * SECOND);
    c.ack().unwrap();
    let mut found = Vec::new();
    while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() {
        found.push(delivery.offset().0);
        delivery.ack().unwrap();
    }
    assert_eq!(found, [0, 1, 3, 4]);
}

#[test]
fn what_fell_due_and_came_back_keeps_its_place_among_what_came_back() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    delayed(&engine, "jobs", "b", SECOND);
    publish(&engine, "jobs", b"c");
    let consumer = consume(&engine, "jobs", 0);
    let first = ready(&consumer);
    assert_eq!(offsets(&first), [0, 2]);
    machine.clock.advance(SECOND);
    drop(first);
    let all = ready(&consumer);
    assert_eq!(offsets(&all), [0, 1, 2]);
    let flags: Vec<bool> = all.iter().map(Delivery::redelivered).collect();
    assert_eq!(flags, [true, false, true]);
    drop(all);
    assert!(ready(&consumer).iter().all(Delivery::redelivered));
}

/// Some thousand messages over several segments, every third of them delayed.
fn several_segments(engine: &Engine) {
    let publisher = engine.publisher();
    let payload = [7; 300];
    for number in 0..3000_u32 {
        let mut message = Message::new("", "jobs", &payload);
        if number % 3 == 0 {
            message = message.delay(SECOND * (number % 7 + 1));
        }
        let ticket = publisher.publish(&message).unwrap();
        if number % 50 == 0 {
            ticket.wait().unwrap();
        }
    }
    while engine.step_commit() {}
}

#[test]
fn a_restart_changes_nothing_for_what_is_not_due() {
    for cut in [false, true] {
        let (mut machine, mut engine) = with_jobs();
        several_segments(&engine);
        settle(&engine);
        assert!(engine.segments().iter().filter(|segment| segment.state == "sealed").count() > 2);
        let consumer = consume(&engine, "jobs", 0);
        assert_eq!(taken(&consumer).len(), 2000);
        drop(consumer);
        for second in 1..=7_u32 {
            machine = if cut { machine.power_cut() } else { machine };
            drop(engine);
            engine = machine.open();
            let consumer = consume(&engine, "jobs", 0);
            nothing(&consumer);
            machine.clock.advance(Duration::from_micros(999_999));
            nothing(&consumer);
            machine.clock.advance(Duration::from_micros(1));
            let found = ready(&consumer);
            let expected: Vec<u64> =
                (0..3000).filter(|n| n % 3 == 0 && n % 7 + 1 == u64::from(second)).collect();
            assert_eq!(offsets(&found), expected);
            assert!(found.iter().all(|delivery| !delivery.redelivered()), "it was in no hands");
            for delivery in found {
                delivery.ack().unwrap().wait().unwrap();
            }
            engine.checkpoint().unwrap();
        }
        settle(&engine);
        let view = engine.queue("jobs").unwrap();
        assert_eq!((view.messages, view.ack_floor.0), (0, 3000));
        sound(&engine);
    }
}

#[test]
fn what_falls_due_while_the_store_is_closed_is_there_at_once() {
    let (machine, engine) = with_jobs();
    delayed(&engine, "jobs", "a", SECOND);
    delayed(&engine, "jobs", "b", 9 * SECOND);
    publish(&engine, "jobs", b"c");
    drop(engine);
    machine.clock.advance(5 * SECOND);
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer), ["a", "c"]);
    machine.clock.advance(4 * SECOND);
    assert_eq!(taken(&consumer), ["b"]);
}

#[test]
fn a_clock_that_is_set_back_or_jumps_makes_nothing_early_and_nothing_lost() {
    let (machine, engine) = with_jobs();
    let start_us = ManualClock::WALL_US_START;
    delayed(&engine, "jobs", "a", 100 * SECOND);
    let consumer = consume(&engine, "jobs", 0);
    nothing(&consumer);
    // Back: what is published now is due by the clock as it is.
    machine.clock.set_wall_us(start_us - 1_000_000_000);
    delayed(&engine, "jobs", "b", 5 * SECOND);
    nothing(&consumer);
    machine.clock.advance(5 * SECOND);
    assert_eq!(taken(&consumer), ["b"]);
    // Forward: a date was reached.
    machine.clock.set_wall_us(start_us + 100_000_000);
    assert_eq!(taken(&consumer), ["a"]);
    // And back again, once all that was due has been taken.
    machine.clock.set_wall_us(start_us);
    delayed(&engine, "jobs", "c", 50 * SECOND);
    delayed(&engine, "jobs", "d", 150 * SECOND);
    nothing(&consumer);
    machine.clock.set_wall_us(start_us + 50_000_000);
    assert_eq!(taken(&consumer), ["c"]);
    machine.clock.set_wall_us(start_us + 500_000_000);
    assert_eq!(taken(&consumer), ["d"]);
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    sound(&engine);
}

#[test]
fn a_delay_beyond_the_end_of_time_is_refused_and_nothing_is_stored() {
    let (_machine, engine) = with_jobs();
    let publisher = engine.publisher();
    let long = Message::new("", "jobs", b"x").delay(Duration::from_micros(u64::MAX));
    let longer = Message::new("", "jobs", b"x").delay(Duration::MAX);
    let beyond = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::MAX / 1_000_000 + 1);
    let late = Message::new("", "jobs", b"x").due_at(beyond);
    for message in [long, longer, late] {
        let error = publisher.publish(&message).unwrap_err();
        assert!(matches!(error, Error::BeyondTime { what: "due time", .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
        let batch = [Message::new("", "jobs", b"y"), message];
        assert!(matches!(publisher.publish_batch(&batch), Err(Error::BeyondTime { .. })));
    }
    assert_eq!(engine.queue("jobs").unwrap().messages, 0);
    let last = Message::new("", "jobs", b"x").due_at(date(u64::MAX));
    publisher.publish_confirmed(&last).unwrap();
    nothing(&consume(&engine, "jobs", 0));
    assert_eq!(engine.queue("jobs").unwrap().messages, 1);
}

#[test]
fn a_purge_drops_what_is_not_due_too() {
    let (machine, engine) = with_jobs();
    delayed(&engine, "jobs", "a", SECOND);
    publish(&engine, "jobs", b"b");
    let consumer = consume(&engine, "jobs", 0);
    let b = next(&consumer);
    nothing(&consumer);
    assert_eq!(engine.purge_queue("jobs").unwrap(), 1);
    assert_eq!(engine.queue("jobs").unwrap().delayed, 0);
    delayed(&engine, "jobs", "c", SECOND);
    machine.clock.advance(SECOND);
    assert_eq!(taken(&consumer), ["c"]);
    b.ack().unwrap().wait().unwrap();
    let view = engine.queue("jobs").unwrap();
    assert_eq!((view.messages, view.ack_floor.0), (0, 3));
    sound(&engine);
}

#[test]
fn acks_of_what_fell_due_close_the_gaps_that_other_queues_messages_leave() {
    let (machine, engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    for round in 0..100 {
        publish(&engine, "other", b"x");
        delayed(&engine, "jobs", "late", SECOND * (1 + round % 3));
        publish(&engine, "other", b"y");
        if round % 4 == 0 {
            publish(&engine, "jobs", b"soon");
        }
    }
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer).len(), 25);
    for _ in 0..3 {
        machine.clock.advance(SECOND);
        taken(&consumer);
    }
    let view = engine.queue("jobs").unwrap();
    assert_eq!(view.messages, 0);
    // All up to its last message, which one of the other queue may follow.
    assert!(view.ack_floor.0 >= 323, "{}", view.ack_floor);
    sound(&engine);
}

#[test]
fn queues_with_the_same_message_each_get_it_when_it_is_due() {
    let (machine, engine) = with_jobs();
    engine.declare_exchange("all", ExchangeKind::Fanout).unwrap();
    let names = ["one", "two", "three"];
    let changes = names.iter().flat_map(|name| {
        [
            Change::declare_queue(name),
            Change::Bind { queue: name, exchange: "all", routing_key: "" },
        ]
    });
    engine.change(&changes.collect::<Vec<_>>()).unwrap();
    let publisher = engine.publisher();
    for number in 0..20_u32 {
        let text = number.to_string();
        let message = Message::new("all", "", text.as_bytes()).delay(SECOND * (number % 4));
        publisher.publish_confirmed(&message).unwrap();
    }
    let consumers = names.map(|name| consume(&engine, name, 0));
    for second in 0..4 {
        for consumer in &consumers {
            let expected: Vec<String> =
                (0..20).filter(|number| number % 4 == second).map(|n| n.to_string()).collect();
            assert_eq!(taken(consumer), expected);
        }
        machine.clock.advance(SECOND);
    }
    sound(&engine);
}

#[test]
fn rewriting_keeps_due_times() {
    let (machine, engine) = with_jobs();
    several_segments(&engine);
    settle(&engine);
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer).len(), 2000);
    drop(consumer);
    machine.clock.advance(SECOND / 2);
    engine.reclaim(&mut |_| {}).unwrap();
    assert!(engine.stats().segments_rewritten > 0);
    for engine in [engine, machine.power_cut().open()] {
        let consumer = consume(&engine, "jobs", 0);
        nothing(&consumer);
        sound(&engine);
        drop(consumer);
        drop(engine);
    }
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    nothing(&consumer);
    machine.clock.advance(3 * SECOND);
    let found = ready(&consumer);
    let expected: Vec<u64> = (0..3000).filter(|n| n % 3 == 0 && n % 7 < 3).collect();
    assert_eq!(offsets(&found), expected);
}

#[test]
fn a_footer_that_is_made_anew_has_the_due_times() {
    let (machine, engine) = with_jobs();
    several_segments(&engine);
    settle(&engine);
    drop(engine);
    let mut damaged = 0;
    for (name, mut bytes) in machine.files() {
        if !is_segment(&name) {
            continue;
        }
        if let Some(at) = bytes.windows(8).position(|magic| magic == b"fanlogFT") {
            bytes[at + 200] ^= 1;
            machine.disk.write_file(&name, &bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 2);
    let engine = machine.open();
    let consumer = consume(&engine, "jobs", 0);
    assert_eq!(taken(&consumer).len(), 2000);
    machine.clock.advance(7 * SECOND);
    assert_eq!(taken(&consumer).len(), 1000);
}

#[test]
fn a_footer_with_times_fits_where_room_was_kept_for_it() {
    let machine = Machine::new();
    let engine = machine.open();
    engine.declare_queue("jobs").unwrap();
    let publisher = engine.publisher();
    for number in 0..5000_u64 {
        let message = Message::new("", "jobs", b"").delay(Duration::from_micros(number));
        drop(publisher.publish(&message).unwrap());
    }
    settle(&engine);
    for segment in engine.segments() {
        let name = segment.path.file_name().unwrap().to_str().unwrap();
        assert_eq!(machine.disk.read_file(name).unwrap().len() as u64, segment.file_bytes);
    }
    sound(&engine);
}

/// Sleeping consumers are woken by the engine, blocking and not.
#[test]
fn whoever_sleeps_is_woken_when_the_next_one_is_due() {
    let engine = threaded();
    engine.declare_queue("jobs").unwrap();
    let delay = Duration::from_millis(30);
    let consumer = consume(&engine, "jobs", 0);
    let waiting = start(move || {
        let first = consumer.recv().unwrap();
        let second = block_on(consumer.recv_async()).unwrap();
        (first.payload().to_vec(), second.payload().to_vec())
    });
    delayed(&engine, "jobs", "first", delay);
    delayed(&engine, "jobs", "second", 3 * delay);
    let (first, second) = waiting.join();
    assert_eq!((&*first, &*second), (&b"first"[..], &b"second"[..]));
}

#[test]
fn a_consumer_without_credit_keeps_nobody_busy() {
    let (machine, engine) = with_jobs();
    publish(&engine, "jobs", b"held");
    delayed(&engine, "jobs", "due", SECOND);
    let consumer = consume(&engine, "jobs", 1);
    let held = next(&consumer);
    machine.clock.advance(2 * SECOND);
    nothing(&consumer);
    assert!((0..1000).any(|_| !engine.step().unwrap()), "it comes to rest");
    held.ack().unwrap();
    assert_eq!(next(&consumer).payload(), b"due");
}

/// Random delays, clocks, restarts and credits, against a list.
#[test]
fn each_message_comes_once_when_it_is_due_whatever_happens_between() {
    for seed in 0..20 {
        random_run(seed);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) % end
    }
}

fn random_run(seed: u64) {
    let mut random = Random(seed * 7919 + 1);
    let (mut machine, mut engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    let mut consumer = consume(&engine, "jobs", 0);
    // Offset, when it is due, and the latest that the clock has shown since it was published.
    let mut waiting: Vec<(u64, u64, u64)> = Vec::new();
    let mut wall_us = ManualClock::WALL_US_START;
    for _ in 0..400 {
        match random.below(20) {
            0..=8 => {
                let publisher = engine.publisher();
                for _ in 0..random.below(20) {
                    let queue = if random.below(3) == 0 { "other" } else { "jobs" };
                    let delay_us = if random.below(2) == 0 { 0 } else { random.below(2000) };
                    let payload = vec![0; usize::try_from(random.below(300)).unwrap()];
                    let message =
                        Message::new("", queue, &payload).delay(Duration::from_micros(delay_us));
                    let offset = publisher.publish_confirmed(&message).unwrap().first_offset.0;
                    if queue == "jobs" {
                        waiting.push((offset, wall_us + delay_us, wall_us));
                    }
                }
            }
            9..=13 => {
                wall_us += random.below(500);
                machine.clock.set_wall_us(wall_us);
            }
            14 => {
                wall_us -= random.below(1000);
                machine.clock.set_wall_us(wall_us);
            }
            15 => {
                drop(consumer);
                machine = if random.below(2) == 0 { machine.power_cut() } else { machine };
                drop(engine);
                engine = machine.open();
                consumer = consume(&engine, "jobs", 0);
            }
            16 => {
                drop(consumer);
                consumer = consume(&engine, "jobs", 1 + u32::try_from(random.below(5)).unwrap());
            }
            17 => settle(&engine),
            18 => drop(engine.reclaim(&mut |_| {}).unwrap()),
            _ => {}
        }
        for entry in &mut waiting {
            entry.2 = entry.2.max(wall_us);
        }
        // With however little credit, all that is due comes.
        while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() {
            let offset = delivery.offset().0;
            let at = waiting.iter().position(|entry| entry.0 == offset);
            let (_, due_us, latest_us) = waiting.remove(at.unwrap_or_else(|| {
                panic!("seed {seed}: {offset} came twice, or was never for this queue")
            }));
            assert!(due_us <= latest_us, "seed {seed}: {offset} came before it was due");
            delivery.ack().unwrap().wait().unwrap();
        }
        let late: Vec<u64> =
            waiting.iter().filter(|entry| entry.1 <= wall_us).map(|entry| entry.0).collect();
        assert!(late.is_empty(), "seed {seed}: {late:?} are due and did not come");
    }
    let view = engine.queue("jobs").unwrap();
    let left = waiting.len() as u64;
    assert_eq!((view.messages, view.delayed), (left, left), "seed {seed}");
    sound(&engine);
}

#[test]
fn settings_do_not_matter_to_what_is_due() {
    let machine = Machine::new();
    let engine = machine.open_with(Config { window_bytes_max: 1 << 20, ..stepped() });
    engine.declare_queue("jobs").unwrap();
    // More than a deal hands out at a time falls due at once.
    let publisher = engine.publisher();
    for number in 0..3000_u64 {
        let text = number.to_string();
        let message = Message::new("", "jobs", text.as_bytes()).delay(SECOND);
        drop(publisher.publish(&message).unwrap());
    }
    settle(&engine);
    let consumer = consume(&engine, "jobs", 100);
    nothing(&consumer);
    machine.clock.advance(SECOND);
    let mut expected = 0..3000;
    while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).unwrap() {
        assert_eq!(Some(delivery.offset().0), expected.next());
        delivery.ack().unwrap();
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn a_delay_in_a_transaction_begins_with_the_commit() {
    let (machine, engine) = with_jobs();
    let mut transaction = engine.begin();
    transaction.publish(&Message::new("", "jobs", b"later").delay(SECOND)).unwrap();
    machine.clock.advance(5 * SECOND);
    transaction.commit().unwrap().wait().unwrap();
    let consumer = consume(&engine, "jobs", 0);
    nothing(&consumer);
    machine.clock.advance(SECOND);
    assert_eq!(taken(&consumer), ["later"]);
    let endless = Message::new("", "jobs", b"never").delay(Duration::MAX);
    assert!(matches!(transaction.publish(&endless), Err(Error::BeyondTime { .. })));
}

#[test]
fn looking_and_getting_without_a_subscription_pass_by_what_is_not_due() {
    let (machine, engine) = with_jobs();
    let looked = |engine: &Engine| {
        let found = engine.peek("jobs", 10).unwrap();
        found.iter().map(|one| one.offset.0).collect::<Vec<_>>()
    };
    let got = |engine: &Engine| {
        let delivery = engine.get("jobs").unwrap()?;
        let offset = delivery.offset().0;
        delivery.ack().unwrap().wait().unwrap();
        Some(offset)
    };
    for delay in [3, 1, 0, 2, 0] {
        delayed(&engine, "jobs", "x", SECOND * delay);
    }
    assert_eq!(looked(&engine), [2, 4]);
    assert_eq!(got(&engine), Some(2));
    assert_eq!(looked(&engine), [4]);
    machine.clock.advance(2 * SECOND);
    assert_eq!(looked(&engine), [1, 3, 4]);
    assert_eq!(engine.queue("jobs").unwrap().oldest_age, Some(2 * SECOND));
    assert_eq!([got(&engine), got(&engine)], [Some(1), Some(3)]);
    assert_eq!(looked(&engine), [4]);
    machine.clock.advance(2 * SECOND);
    assert_eq!(looked(&engine), [0, 4]);
    assert_eq!([got(&engine), got(&engine), got(&engine)], [Some(0), Some(4), None]);
    sound(&engine);
}
