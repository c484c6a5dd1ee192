//! Power is cut while the background drops, dead-letters and deletes: each message is in its queue or
//! was let go, and its copy is there if, and only if, the original is not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fanlog::{
    Engine, ExchangeKind,
    clock::ManualClock,
    storage::{CrashMode, MemoryStorage},
};

use crate::{
    broker::Broker,
    machine::config,
    message::birth_of,
    operations::{End, Operation},
    queue::{Entry, Place, Queue},
};

/// Long enough for a checkpoint, and for most messages that expire.
const SECONDS: u64 = 70;
/// Power is cut at one of so many operations of the disk.
const CUTS: u64 = 24;

/// What is in a queue: places, and births.
type Found = Vec<(Place, Place)>;

/// Lets time pass on a copy of a disk, cuts its power at some operation, and judges what is left.
/// `broker` is what the disk holds, durably.
pub(crate) fn cut_power_in_a_round(disk: &MemoryStorage, broker: &Broker) {
    let seed = broker.next_place() * 31 + broker.queues.len() as u64;
    let disk = disk.crash_image(0, CrashMode::KeepAll);
    let clock = Arc::new(ManualClock::new());
    clock.advance(broker.now());
    let open = |disk: &MemoryStorage| {
        Engine::open_on(Arc::new(disk.clone()), Arc::<ManualClock>::clone(&clock), config())
    };
    let engine = open(&disk).unwrap();
    disk.cut_at(disk.operation_count() + seed % CUTS);
    clock.advance(Duration::from_secs(SECONDS));
    while matches!(engine.step(), Ok(true)) {}
    // What was dropped is in the log now, unless power failed.
    drop(engine.declare_exchange("flush", ExchangeKind::Fanout));
    let mode = [CrashMode::LoseUnsynced, CrashMode::KeepAll, CrashMode::Random];
    let left = disk.crash_image(seed, mode[usize::try_from(seed % 3).unwrap()]);
    drop(engine);

    let mut before = broker.clone();
    before.apply(&Operation::Again(End::Kill));
    let mut after = before.clone();
    after.apply(&Operation::Advance { seconds: SECONDS });
    after.apply(&Operation::Again(End::PowerCut));
    judge(&open(&left).unwrap(), &before, &after);
}

fn judge(engine: &Engine, before: &Broker, after: &Broker) {
    let report = engine.check(&mut |_| {}).unwrap();
    assert!(report.problems.is_empty() && report.uncounted == 0, "{report:?}");
    let found: BTreeMap<String, Found> = engine
        .topology()
        .queues
        .into_iter()
        .map(|view| {
            let messages = engine.browse(&view.name).unwrap().map(Result::unwrap);
            let left = messages.filter(|message| !message.acked);
            let left: Found = left.map(|one| (one.offset.0, birth_of(&one.payload))).collect();
            assert_eq!(view.messages, left.len() as u64, "{view:?}");
            (view.name, left)
        })
        .collect();
    // Queues are those of before, but for some that came to their end.
    assert!(found.keys().all(|name| before.queues.contains_key(name)));
    for (name, queue) in after.visible() {
        judge_queue(&found[name], &before.queues[name], queue, before.next_place());
    }
    if after.queues.len() == before.queues.len() {
        judge_copies(&found, before, after);
    }
}

/// What stays is there, and nothing that never was.
fn judge_queue(found: &Found, before: &Queue, after: &Queue, end: Place) {
    let has = |queue: &Queue, place| queue.entries.iter().any(|entry| entry.place == place);
    for entry in before.entries.iter().filter(|entry| has(after, entry.place)) {
        assert!(found.contains(&(entry.place, entry.birth)), "{entry:?} of {found:?}");
    }
    for (place, birth) in found.iter().filter(|(place, _)| *place < end) {
        let same = |entry: &Entry| entry.place == *place && entry.birth == *birth;
        assert!(before.entries.iter().any(same), "message {place} in {found:?}");
    }
}

/// Of each message there are as many copies in a queue as originals left for it.
fn judge_copies(found: &BTreeMap<String, Found>, before: &Broker, after: &Broker) {
    let end = before.next_place();
    let gone_from = |name: &String, birth: Place| {
        let gone = |entry: &&Entry| {
            let there = found[name].iter().any(|(place, _)| *place == entry.place);
            entry.birth == birth && !there
        };
        before.queues[name].entries.iter().filter(gone).count()
    };
    let leaves = |name: &String, birth: Place| {
        let of = |broker: &Broker| {
            let entries = broker.queues[name].entries.iter();
            entries.filter(|entry| entry.birth == birth && entry.place < end).count()
        };
        of(before) - of(after)
    };
    for (name, left) in found {
        let copies = |birth| left.iter().filter(|(at, of)| *at >= end && *of == birth).count();
        let arrived = || after.queues[name].entries.iter().filter(|entry| entry.place >= end);
        for (_, birth) in left.iter().filter(|(place, _)| *place >= end) {
            assert!(arrived().any(|entry| entry.birth == *birth), "{birth} in {name}: {left:?}");
        }
        for birth in arrived().map(|entry| entry.birth) {
            let of_it = || arrived().filter(|entry| entry.birth == birth);
            let from: BTreeMap<&String, usize> =
                of_it().fold(BTreeMap::new(), |mut from, entry| {
                    *from.entry(&entry.deaths[0].queue).or_default() += 1;
                    from
                });
            // Of several in one queue only some may lead here.
            if from.iter().all(|(queue, copies)| leaves(queue, birth) == *copies) {
                let gone: usize = from.keys().map(|queue| gone_from(queue, birth)).sum();
                assert_eq!(copies(birth), gone, "copies of {birth} in {name}: {found:?}");
            }
        }
    }
}
