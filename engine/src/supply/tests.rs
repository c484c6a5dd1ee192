use std::{sync::Arc, time::Duration};

use crate::{
    Config, ConsumerOptions, Engine, ErrorKind, Message, Ticket, WhenFull,
    clock::ManualClock,
    keeper::{self, Did},
    storage::{MemoryStorage, Storage as _},
};

const SEGMENT: u64 = 64 << 10;
const LARGE: usize = 3 << 20;

struct Store {
    disk: MemoryStorage,
    clock: Arc<ManualClock>,
    engine: Engine,
}

impl Store {
    /// A store with one small message, at rest.
    fn new(more: &Config) -> Self {
        let (disk, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new()));
        let config = Config {
            stepped: true,
            segment_bytes_max: SEGMENT,
            segments_ahead: 1,
            buffer_bytes_max: 1 << 20,
            ..more.clone()
        };
        let (storage, time) = (Arc::new(disk.clone()), Arc::clone(&clock));
        let engine = Engine::open_on(storage, time, config).unwrap();
        engine.declare_queue("jobs").unwrap();
        engine.publisher().publish_confirmed(&Message::new("", "jobs", b"small")).unwrap();
        let store = Self { disk, clock, engine };
        store.settle();
        store
    }

    /// Has everything done that can be done now.
    fn settle(&self) {
        while self.engine.step_commit() || self.engine.step().unwrap() {}
    }

    fn used_bytes(&self) -> u64 {
        self.disk.list().unwrap().iter().map(|entry| entry.bytes).sum()
    }

    /// Leaves room on the disk for one large message, and little more.
    fn leave_room_for_one(&self) {
        let room = LARGE as u64 * 9 / 8 + 4 * SEGMENT;
        self.disk.set_capacity(Some(self.used_bytes() + room));
    }

    fn publish_large(&self) -> crate::Result<Ticket> {
        let payload = vec![7; LARGE];
        self.engine.publisher().publish(&Message::new("", "jobs", &payload))
    }

    fn accepted_bytes(&self) -> u64 {
        self.engine.core().supply.accepted_bytes()
    }

    /// Everything that others could get now is theirs.
    fn others_take_all(&self) {
        let core = self.engine.core();
        let all = core.supply.could_promise(core).unwrap();
        assert!(core.supply.promise(core, all).unwrap(), "{all}");
        let file = self.disk.create("others", crate::storage::Purpose::Log).unwrap();
        file.allocate(all).unwrap();
        core.supply.rewriting_goes_on(Some(all));
        // The keeper prepares what it may, too.
        while keeper::step(core).unwrap() != Did::Nothing {}
    }

    fn others_give_back(&self) {
        self.disk.remove("others").unwrap();
        self.engine.core().supply.rewriting_goes_on(None);
    }

    /// Acks what is there, of which there are to be so many.
    fn drain(&self, messages: usize) {
        let consumer = self.engine.consume("jobs", ConsumerOptions::prefetch(0)).unwrap();
        for _ in 0..messages {
            let delivery = consumer.recv_timeout(Duration::ZERO).unwrap().unwrap();
            delivery.ack().unwrap().wait().unwrap();
        }
        assert!(consumer.recv_timeout(Duration::ZERO).unwrap().is_none());
    }

    fn is_sound(&self) {
        let report = self.engine.check(&mut |_| {}).unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
    }
}

/// On a disk, and in a store with a limit of its own.
fn tight_stores() -> [Store; 2] {
    let on_disk = Store::new(&Config { when_full: WhenFull::Fail, ..Config::default() });
    on_disk.leave_room_for_one();
    let limit = 5 * LARGE as u64;
    let limited = Store::new(&Config {
        when_full: WhenFull::Fail,
        store_bytes_max: Some(limit),
        ..Config::default()
    });
    // Three lie there already.
    for _ in 0..3 {
        limited.publish_large().unwrap().wait().unwrap();
    }
    limited.settle();
    [on_disk, limited]
}

#[test]
fn what_was_accepted_has_its_room_whatever_others_take() {
    for (store, before) in tight_stores().into_iter().zip([1, 4]) {
        let ticket = store.publish_large().unwrap();
        store.others_take_all();
        assert!(store.engine.step_commit(), "it is written");
        ticket.try_wait().unwrap().unwrap();
        assert!(!store.engine.core().is_stuck());
        // Neither do acks wait for anything.
        store.drain(before + 1);
        store.others_give_back();
        store.settle();
        store.is_sound();
    }
}

#[test]
fn of_two_that_race_for_the_room_of_one_the_second_is_refused_at_once() {
    for (store, before) in tight_stores().into_iter().zip([1, 4]) {
        let ticket = store.publish_large().unwrap();
        let refused = store.publish_large().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::OutOfSpace, "{refused}");
        // Others only have to wait for it.
        let full = store.engine.publisher().publish(&Message::new("", "jobs", b"x")).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Full, "{full}");
        assert!(store.engine.step_commit());
        ticket.try_wait().unwrap().unwrap();
        store.settle();
        assert_eq!(store.publish_large().unwrap_err().kind(), ErrorKind::OutOfSpace);
        store.drain(before + 1);
        // The log leaves the file that it is in.
        store
            .engine
            .publisher()
            .publish_confirmed(&Message::new("", "jobs", &vec![1; 40_000]))
            .unwrap();
        store.engine.reclaim(&mut |_| {}).unwrap();
        store.publish_large().unwrap().wait().unwrap();
        store.is_sound();
    }
}

#[test]
fn a_promise_lasts_until_its_file_is_made_and_is_used_up_then() {
    let store = Store::new(&Config { when_full: WhenFull::Fail, ..Config::default() });
    store.leave_room_for_one();
    let ticket = store.publish_large().unwrap();
    let promised = store.accepted_bytes();
    assert!(promised > LARGE as u64);
    // Somebody else filled the disk: it is tried again, and keeps what it was promised.
    store.disk.set_capacity(Some(0));
    assert!(!store.engine.step_commit());
    assert!(store.engine.core().is_stuck());
    assert_eq!(store.accepted_bytes(), promised);
    store.disk.set_capacity(None);
    store.clock.advance(Duration::from_secs(1));
    assert!(store.engine.step_commit());
    ticket.try_wait().unwrap().unwrap();
    assert_eq!(store.accepted_bytes(), 0);
    store.is_sound();
}

#[test]
fn what_is_not_placed_after_all_gives_its_room_back() {
    let store = Store::new(&Config { when_full: WhenFull::Fail, ..Config::default() });
    store.leave_room_for_one();
    let small = store.engine.publisher().publish(&Message::new("", "jobs", b"first")).unwrap();
    let full = store.publish_large().unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Full, "{full}");
    assert_eq!(store.accepted_bytes(), 0);
    small.wait().unwrap();
    // Nor does it keep anything that the engine ended with.
    let ticket = store.publish_large().unwrap();
    assert!(store.accepted_bytes() > 0);
    store.engine.core().poison(crate::Error::Timeout);
    assert!(ticket.wait().is_err());
    assert_eq!(store.publish_large().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(store.engine.core().supply.accepted_bytes() < 2 * LARGE as u64);
}

/// Files could not be prepared beside what it was promised: then nobody would ever go on.
#[test]
fn who_waits_for_space_to_come_back_holds_none_of_it() {
    let store = Store::new(&Config { when_full: WhenFull::Block, ..Config::default() });
    store.leave_room_for_one();
    let core = store.engine.core();
    let reason = || "it was said so".to_owned();
    core.append.lock().out_of_space =
        Some(crate::Error::OutOfSpace { segment: 9, reason: reason() });
    let refused = store.publish_large().unwrap_err();
    assert!(refused.to_string().contains("it was said so"), "{refused}");
    assert_eq!(store.accepted_bytes(), 0);
    store.settle();
    store.publish_large().unwrap().wait().unwrap();
    store.is_sound();
}
