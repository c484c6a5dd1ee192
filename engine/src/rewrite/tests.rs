use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fanlog_segment_format::{Offset, batch::open_batch, record::verify_record, seed_record};
use proptest::prelude::*;

use super::{
    survivors::survivors,
    writer::{Source, Stopped, Writer},
};
use crate::{
    Change, Config, ConsumerOptions, Engine, ExchangeKind, Message,
    clock::ManualClock,
    log::{sealed::SealedReader, segment::Segment},
    storage::MemoryStorage,
};

/// Queues, and the exchange `f` that all but the last of them get.
const QUEUES: [&str; 3] = ["one", "two", "late"];

fn engine_on(storage: &MemoryStorage) -> Engine {
    let config = Config { stepped: true, segment_bytes_max: 64 << 10, ..Config::default() };
    Engine::open_on(Arc::new(storage.clone()), Arc::new(ManualClock::new()), config).unwrap()
}

fn topology(engine: &Engine) {
    let exchange = Change::DeclareExchange { name: "f", kind: ExchangeKind::Fanout };
    let queues = QUEUES.map(Change::declare_queue);
    let bind = |queue| Change::Bind { queue, exchange: "f", routing_key: "" };
    engine.change(&[exchange]).unwrap();
    engine.change(&queues).unwrap();
    engine.change(&[bind("one"), bind("two")]).unwrap();
}

fn payload(number: u64, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().iter().copied().cycle().take(bytes).collect()
}

/// Publishes to the exchange or, in the default one, to a queue.
fn publish(engine: &Engine, to: Option<&str>, bytes: usize, numbers: std::ops::Range<u64>) {
    let publisher = engine.publisher();
    let payloads: Vec<_> = numbers.map(|number| payload(number, bytes)).collect();
    let message = |payload| match to {
        None => Message::new("f", "", payload),
        Some(queue) => Message::new("", queue, payload),
    };
    let tickets: Vec<_> =
        payloads.iter().map(|payload| publisher.publish(&message(payload)).unwrap()).collect();
    assert!(tickets.iter().all(|ticket| ticket.wait().is_ok()));
}

/// Acks the messages of a queue whose offset `acked` wants.
fn ack(engine: &Engine, queue: &str, acked: impl Fn(u64) -> bool) {
    let consumer = engine.consume(queue, ConsumerOptions::prefetch(0)).unwrap();
    let mut kept = Vec::new();
    while let Some(one) = consumer.recv_timeout(Duration::ZERO).unwrap() {
        if acked(one.offset().0) {
            one.ack().unwrap().wait().unwrap();
        } else {
            kept.push(one);
        }
    }
}

/// Writes the footers of what is full, and does nothing else.
fn seal_all(engine: &Engine) {
    while engine.segments().iter().any(|one| one.state == "full") {
        assert!(engine.step().unwrap());
    }
}

fn sealed(engine: &Engine) -> Vec<Arc<SealedReader>> {
    let core = engine.core();
    let sealed = core.log.segments().into_iter().filter(|segment| segment.is_sealed());
    sealed.map(|segment| core.log.reader_once(&segment).unwrap().unwrap()).collect()
}

fn survivors_of(engine: &Engine, reader: &SealedReader) -> BTreeSet<u64> {
    let footer = reader.footer();
    let numbers: Vec<u32> = survivors(engine.core(), reader).within(0..footer.messages()).collect();
    numbers.into_iter().map(|number| footer.offset_of(number).0).collect()
}

/// What some queue has not acked, by looking through all of them.
fn live(engine: &Engine) -> BTreeSet<u64> {
    let unacked = |queue| engine.browse(queue).unwrap().map(Result::unwrap);
    let all = QUEUES.into_iter().flat_map(unacked);
    all.filter(|message| !message.acked).map(|message| message.offset.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn survivors_are_what_some_queue_got_and_has_not_acked(
        bursts in prop::collection::vec((0..6_u8, 1..60_u64), 4..20),
        acks in prop::collection::vec((0..3_usize, 1..9_u64, 0..9_u64), 1..6),
    ) {
        let engine = engine_on(&MemoryStorage::new());
        topology(&engine);
        let mut bound = false;
        let mut next = 0;
        for (sort, count) in bursts {
            let to = match sort {
                0 => Some("late"),
                1 => Some("one"),
                2 => {
                    let change = if bound { Engine::unbind } else { Engine::bind };
                    change(&engine, "late", "f", "").unwrap();
                    bound = !bound;
                    None
                }
                _ => None,
            };
            publish(&engine, to, 700, next..next + count);
            next += count;
        }
        for (queue, modulus, rest) in acks {
            ack(&engine, QUEUES[queue], |offset| offset % modulus != rest);
        }
        seal_all(&engine);
        let live = live(&engine);
        for reader in sealed(&engine) {
            let footer = reader.footer();
            let here = footer.first_offset().0..footer.end_offset().0;
            let expected: BTreeSet<u64> = live.range(here).copied().collect();
            prop_assert_eq!(survivors_of(&engine, &reader), expected);
        }
    }
}

/// A store of several sealed segments in which a tenth is live.
fn sparse_store() -> (MemoryStorage, Engine) {
    store_with_one_in(10)
}

fn store_with_one_in(step: u64) -> (MemoryStorage, Engine) {
    let storage = MemoryStorage::new();
    let engine = engine_on(&storage);
    topology(&engine);
    for first in (0..400).step_by(20) {
        publish(&engine, None, 1000, first..first + 20);
    }
    ack(&engine, "one", |offset| offset % step != 3);
    ack(&engine, "two", |_| true);
    seal_all(&engine);
    (storage, engine)
}

fn sources(engine: &Engine) -> Vec<Source> {
    let source = |reader: Arc<SealedReader>| {
        let survivors = survivors(engine.core(), &reader);
        Source { reader, survivors }
    };
    sealed(engine).into_iter().map(source).collect()
}

fn write(engine: &Engine, sources: Vec<Source>) -> Result<(Arc<Segment>, u64), Stopped> {
    let core = engine.core();
    let mut writer = Writer::begin(Arc::clone(&core.storage), sources, core.epoch, 7)?;
    let mut batches = 0;
    while writer.step()? {
        batches += 1;
    }
    Ok((writer.finish()?, batches))
}

#[test]
fn a_rewritten_file_holds_the_same_records_and_stands_for_the_same_log() {
    let (storage, engine) = sparse_store();
    let olds = sealed(&engine);
    let live = live(&engine);
    let (segment, batches) = write(&engine, sources(&engine)).unwrap();
    let (first, last) = (olds[0].segment.header, olds.last().unwrap());
    assert_eq!(segment.name, "00000001.1.seg");
    let header = segment.header;
    assert_eq!((header.first_offset, header.first_batch), (first.first_offset, first.first_batch));
    assert_eq!((header.covers_to, header.previous), (last.segment.id(), first.previous));
    let new = SealedReader::open(&storage, segment).unwrap();
    let footer = new.footer();
    assert_eq!(header.file_bytes, new.bytes().len() as u64);
    assert_eq!(footer.end_offset(), last.footer().end_offset());
    assert_eq!(footer.last_batch(), last.footer().last_batch());
    assert_eq!(footer.checksum(), last.footer().checksum());
    assert_eq!((u64::from(footer.batches()), footer.controls()), (batches, 0));
    assert!(new.check_batches().is_empty());
    let mut previous = header.previous;
    for at in 0..footer.batches() {
        let batch = footer.batch(at);
        let bytes = &new.bytes()[batch.position as usize..];
        let open = open_batch(bytes, header.store, header.segment, batch.position.into()).unwrap();
        assert_eq!(open.header.previous, previous);
        assert_eq!(open.header.number, batch.number);
        previous = open.checksum;
    }
    let expected: Vec<u64> = live.range(..footer.end_offset().0).copied().collect();
    let offsets = (0..footer.messages()).map(|number| footer.offset_of(number).0);
    assert_eq!(offsets.collect::<Vec<_>>(), expected);
    for number in 0..footer.messages() {
        let offset = footer.offset_of(number);
        let old = olds.iter().find(|old| old.footer().end_offset() > offset).unwrap();
        let before = old.record_bytes(old.footer().index_of(offset).unwrap()).unwrap();
        let after = new.record_bytes(number).unwrap();
        assert_eq!(before, after, "{offset}");
        verify_record(seed_record(header.store), after).unwrap();
    }
    // Bytes per route are those of the survivors.
    let bytes: u64 = (0..footer.routes()).map(|at| footer.route(at).bytes).sum();
    assert_eq!(bytes, 1000 * expected.len() as u64);
}

#[test]
fn a_file_of_nothing_live_is_a_valid_segment() {
    let (storage, engine) = sparse_store();
    ack(&engine, "one", |_| true);
    let (segment, batches) = write(&engine, sources(&engine)).unwrap();
    assert_eq!(batches, 0);
    let reader = SealedReader::open(&storage, segment).unwrap();
    assert_eq!(reader.footer().messages(), 0);
    assert_eq!(reader.footer().lower_bound(Offset(17)), 0);
}

#[test]
fn a_file_that_an_earlier_attempt_left_behind_is_in_nobodys_way() {
    let (storage, engine) = sparse_store();
    storage.write_file("00000001.1.seg.tmp", &vec![1; 1 << 20]).unwrap();
    let (segment, _) = write(&engine, sources(&engine)).unwrap();
    let reader = SealedReader::open(&storage, segment).unwrap();
    assert!(reader.check_batches().is_empty() && reader.bytes().len() < 1 << 20);
}

#[test]
fn a_record_that_was_changed_is_not_copied() {
    let (storage, engine) = sparse_store();
    let olds = sealed(&engine);
    let number = olds[1].footer().lower_bound(Offset(43));
    let offset = olds[1].footer().offset_of(number);
    let position = u64::from(olds[1].footer().position_of(number));
    let name = olds[1].segment.name.clone();
    drop(olds);
    storage.corrupt(&name, position + 600, 1).unwrap();
    ack(&engine, "one", |other| other != offset.0 && other % 10 == 3);
    publish(&engine, None, 10, 0..1);
    let stopped = write(&engine, sources(&engine)).unwrap_err();
    let Stopped::Damaged(segment, damage) = stopped else { panic!("{stopped:?}") };
    assert_eq!((segment.name.as_str(), damage.offset, damage.position), (&*name, offset, position));
}

/// W4: looking again costs nothing as long as little changes.
#[test]
fn a_segment_is_found_out_again_only_after_its_outstanding_fell_by_a_quarter() {
    let (_storage, engine) = store_with_one_in(5);
    let core = engine.core();
    let mut table = super::table::Table::default();
    let mut look = || {
        let segments = core.log.segments();
        std::iter::from_fn(|| {
            table.find_out_one(core, &segments, core.clock.now(), true).then_some(())
        })
        .count()
    };
    let sparse =
        sealed(&engine).iter().filter(|one| !survivors_of(&engine, one).is_empty()).count();
    assert!(sparse > 4);
    assert_eq!(look(), sparse);
    assert_eq!(look(), 0);
    // One of eight that are left in the second segment, then two more.
    ack(&engine, "one", |offset| offset == 53);
    assert_eq!(look(), 0);
    ack(&engine, "one", |offset| offset == 43 || offset == 63);
    assert_eq!(look(), 1);
    assert_eq!(look(), 0);
}
