//! The set against a plain one, its stored form, and its size.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Offsets that the model keeps one by one.
const MODEL_END: u64 = 6 * PAGE_OFFSETS;

#[derive(Debug, Clone)]
enum Op {
    Insert(u64, u64),
    Clip(u64),
    Reload,
}

/// Offsets with a liking for page boundaries.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..MODEL_END,
        2 => (0..=6u64, -3..=3i64)
            .prop_map(|(page, by)| (page * PAGE_OFFSETS).saturating_add_signed(by).min(MODEL_END)),
        2 => 2 * PAGE_OFFSETS..2 * PAGE_OFFSETS + 300,
    ]
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    let length = prop_oneof![5 => Just(1), 4 => 1..40u64, 1 => 1..3 * PAGE_OFFSETS];
    prop_oneof![
        9 => (offset(), length).prop_map(|(start, length)| (start, (start + length).min(MODEL_END))),
        1 => (offset(), offset()),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        60 => range().prop_map(|(start, end)| Op::Insert(start, end)),
        1 => offset().prop_map(Op::Clip),
        1 => Just(Op::Reload),
    ]
}

fn encoded(set: &AckSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    bytes
}

fn reloaded(set: &AckSet) -> AckSet {
    let mut copy = AckSet::new(set.floor());
    copy.apply(AckBytes(&encoded(set))).unwrap();
    copy
}

/// The maximal runs of a plain set.
fn runs_of(model: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &offset in model {
        match runs.last_mut() {
            Some((_, end)) if *end == offset => *end += 1,
            _ => runs.push((offset, offset + 1)),
        }
    }
    runs
}

/// Compares everything that can be asked; `model` holds what is acked above `floor` only.
#[track_caller]
fn check(set: &AckSet, floor: u64, model: &BTreeSet<u64>, probes: &[(u64, u64)]) {
    assert_eq!(set.floor(), floor);
    let runs = runs_of(model);
    assert_eq!(set.runs().collect::<Vec<_>>(), runs);
    assert_eq!(set.end(), runs.last().map_or(floor, |&(_, end)| end));
    assert_eq!(set.is_empty_above_floor(), runs.is_empty());
    let acked = |offset: u64| offset < floor || model.contains(&offset);
    for &(from, to) in probes {
        assert_eq!(set.contains(from), acked(from), "{from}");
        assert_eq!(
            set.first_missing(from),
            (from..=from.max(set.end())).find(|&at| !acked(at)).unwrap(),
            "{from}"
        );
        assert_eq!(set.contains(to), acked(to), "{to}");
        let to = to.min(from.saturating_add(2_000));
        let missing = (from..to).filter(|&at| !acked(at)).collect();
        let found: Vec<_> = set.missing(from, to).collect();
        assert_eq!(found, runs_of(&missing), "{from}..{to}");
    }
    let copy = reloaded(set);
    assert_eq!(&copy, set);
    assert_eq!(encoded(&copy), encoded(set));
    set.pages.check();
}

fn raise(floor: &mut u64, model: &mut BTreeSet<u64>) {
    while model.remove(floor) {
        *floor += 1;
    }
}

fn run_ops(floor: u64, ops: &[Op], probes: &[(u64, u64)]) {
    let mut set = AckSet::new(floor);
    let (mut floor, mut model) = (floor, BTreeSet::new());
    for op in ops {
        match *op {
            Op::Insert(start, end) => {
                set.insert(start, end);
                model.extend(start.max(floor)..end);
                raise(&mut floor, &mut model);
            }
            Op::Clip(end) => {
                let past = model.split_off(&end);
                assert_eq!(set.clip(end), floor > end || !past.is_empty());
                floor = floor.min(end);
            }
            Op::Reload => set = reloaded(&set),
        }
        assert_eq!(set.floor(), floor);
        set.pages.check();
    }
    check(&set, floor, &model, probes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn behaves_like_a_plain_set(
        floor in prop_oneof![Just(0), offset()],
        ops in prop::collection::vec(op(), 1..400),
        probes in prop::collection::vec((offset(), offset()), 20),
    ) {
        run_ops(floor, &ops, &probes);
    }

    #[test]
    fn dense_page_behaves_like_a_plain_set(
        step in 1..9u64,
        ops in prop::collection::vec(op(), 1..60),
        probes in prop::collection::vec((offset(), offset()), 20),
    ) {
        let every = (PAGE_OFFSETS + 1..3 * PAGE_OFFSETS).step_by(usize::try_from(step).unwrap());
        let dense = every.map(|at| Op::Insert(at, at + 1));
        let ops: Vec<Op> = dense.chain(ops).collect();
        run_ops(0, &ops, &probes);
    }

    #[test]
    fn stored_acks_of_two_sets_make_their_union(
        first in prop::collection::vec(range(), 1..300),
        second in prop::collection::vec(range(), 1..300),
        dense in offset(),
        floor in offset(),
    ) {
        let (mut both, mut batch) = (AckSet::new(floor), AckBatch::default());
        let mut parts = [AckSet::new(0), AckSet::new(0)];
        for (part, ranges) in parts.iter_mut().zip([&first, &second]) {
            let singles = (dense + 1..dense + 900).step_by(2).map(|at| (at, at + 1));
            for (start, end) in ranges.iter().copied().filter(|range| range.0 > 0).chain(singles) {
                part.insert(start, end);
                both.insert(start, end);
                batch.insert(start, end);
            }
        }
        let mut union = AckSet::new(floor);
        for part in &parts {
            union.apply(AckBytes(&encoded(part))).unwrap();
        }
        prop_assert_eq!(&union, &both);
        union.pages.check();
        let mut bytes = Vec::new();
        batch.encode(&mut bytes);
        let mut replayed = AckSet::new(floor);
        replayed.apply(AckBytes(&bytes)).unwrap();
        prop_assert_eq!(&replayed, &both);
    }

    #[test]
    fn batch_behaves_like_a_plain_set(
        rounds in prop::collection::vec(prop::collection::vec(range(), 0..200), 1..4),
    ) {
        let mut batch = AckBatch::default();
        for ranges in rounds {
            let mut model = BTreeSet::new();
            for &(start, end) in &ranges {
                batch.insert(start, end);
                model.extend(start..end);
            }
            prop_assert_eq!(batch.is_empty(), model.is_empty());
            prop_assert_eq!(batch.runs().collect::<Vec<_>>(), runs_of(&model));
            let mut again = AckBatch::default();
            ranges.iter().rev().for_each(|&(start, end)| again.insert(start, end));
            let (mut bytes, mut again_bytes) = (Vec::new(), Vec::new());
            batch.encode(&mut bytes);
            again.encode(&mut again_bytes);
            prop_assert_eq!(bytes, again_bytes);
            batch.clear();
            prop_assert!(batch.is_empty() && batch.runs().next().is_none());
        }
    }

    #[test]
    fn damaged_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        floor in any::<u64>(),
    ) {
        let mut set = AckSet::new(floor);
        drop(set.apply(AckBytes(&bytes)));
        set.pages.check();
        prop_assert_eq!(reloaded(&set), set);
    }
}

/// Numbers that look random, the same in each run.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// Each of `0..count` once, in the order of consumers that hold `window` at a time and finish any
/// of them: what is open at a moment is spread over some ten times as many.
fn in_window(count: u64, window: u64, mut act: impl FnMut(u64)) {
    let mut random = numbers(7);
    let mut waiting: Vec<u64> = (0..window.min(count)).collect();
    for next in window..count + window {
        let at = usize::try_from(random(waiting.len() as u64)).unwrap();
        act(waiting[at]);
        if next < count {
            waiting[at] = next;
        } else {
            waiting.swap_remove(at);
            if waiting.is_empty() {
                return;
            }
        }
    }
}

#[test]
fn set_of_many_stretches_behaves_like_a_plain_set() {
    // Many chunks, filled in random order, thinned from both ends and melted in the middle.
    let mut set = AckSet::new(0);
    let mut model = BTreeSet::new();
    let mut random = numbers(3);
    for _ in 0..4000 {
        let offset = 1 + random(20_000) * PAGE_OFFSETS / 4;
        set.insert(offset, offset + 1);
        model.insert(offset);
        set.insert(offset + 9, offset + 11);
        model.extend([offset + 9, offset + 10]);
    }
    check(&set, 0, &model, &[(0, 9), (5 * PAGE_OFFSETS, 7 * PAGE_OFFSETS)]);
    let (from, to) = (1000 * PAGE_OFFSETS + 77, 1003 * PAGE_OFFSETS + 5);
    set.insert(from, to);
    model.extend(from..to);
    let end = 4500 * PAGE_OFFSETS + 10;
    model.split_off(&end);
    assert!(set.clip(end) && !set.clip(end));
    check(&set, 0, &model, &[(from - 1, to + 1)]);
    let floor = 900 * PAGE_OFFSETS;
    set.insert(0, floor);
    model = model.split_off(&floor);
    let mut reached = floor;
    raise(&mut reached, &mut model);
    check(&set, reached, &model, &[(from - 1, to + 1)]);
}

#[test]
fn floor_passes_what_was_acked_ahead_of_it() {
    let mut set = AckSet::new(10);
    set.insert(12, 20);
    set.insert(3, 11);
    assert_eq!((set.floor(), set.end()), (11, 20));
    set.insert(11, 12);
    assert_eq!((set.floor(), set.is_empty_above_floor()), (20, true));
    set.insert(5, 15);
    assert_eq!(set.floor(), 20);
}

#[test]
fn offsets_at_the_end_of_all_numbers_are_left_out() {
    for (start, end) in [(5, u64::MAX), (u64::MAX - 1, u64::MAX), (u64::MAX - 9000, u64::MAX)] {
        let mut set = AckSet::new(0);
        set.insert(start, end);
        set.insert(start, end);
        assert_eq!(set.end(), if start < pages::OFFSET_END { pages::OFFSET_END } else { 0 });
        assert_eq!(reloaded(&set), set);
        set.insert(0, end);
        set.pages.check();
        assert_eq!(set.floor(), pages::OFFSET_END);
    }
    let mut set = AckSet::new(u64::MAX);
    set.insert(3, u64::MAX);
    assert_eq!((set.floor(), set.end()), (u64::MAX, u64::MAX));
    assert!(set.clip(7));
    assert_eq!(set, AckSet::new(7));
}

#[test]
fn in_order_takes_no_memory() {
    let mut set = AckSet::new(0);
    (0..100_000).for_each(|offset| set.insert(offset, offset + 1));
    assert_eq!((set.floor(), set.heap_bytes()), (100_000, 0));
}

#[test]
fn stuck_head_takes_one_run() {
    let mut set = AckSet::new(0);
    (1..10_000_000).for_each(|offset| set.insert(offset, offset + 1));
    assert_eq!(set.runs().collect::<Vec<_>>(), [(1, 10_000_000)]);
    assert!(set.heap_bytes() < 512, "{}", set.heap_bytes());
    assert!(encoded(&set).len() < 16);
    set.insert(0, 1);
    assert!(set.heap_bytes() < 512, "{}", set.heap_bytes());
    assert_eq!(set.floor(), 10_000_000);
}

#[test]
fn stuck_head_in_random_order_takes_little_at_every_moment() {
    for (window, bytes_max) in [(1000, 16 * 1024), (65_536, 64 * 1024)] {
        let (mut set, mut most, mut count) = (AckSet::new(0), 0, 0u64);
        in_window(10_000_000, window, |offset| {
            set.insert(offset + 1, offset + 2);
            count += 1;
            if count.is_multiple_of(1009) {
                most = most.max(set.heap_bytes());
            }
        });
        assert_eq!(set.runs().collect::<Vec<_>>(), [(1, 10_000_001)]);
        assert!(most < bytes_max, "{most} bytes for a window of {window}");
    }
}

#[test]
fn stuck_head_of_a_sparse_queue_takes_as_little() {
    // One message in 4,096 is the queue's; each acks what was not routed to it before it.
    let (mut set, mut most) = (AckSet::new(0), 0);
    in_window(1_000_000, 1000, |message| {
        let start = 5 + message * PAGE_OFFSETS;
        set.insert(start, start + PAGE_OFFSETS);
        most = most.max(set.heap_bytes());
    });
    assert_eq!(set.runs().count(), 1);
    assert!(most < 64 * 1024, "{most}");
}

#[test]
fn every_second_takes_a_bit_per_offset() {
    let mut set = AckSet::new(0);
    (0..2_000_000).for_each(|at| set.insert(2 * at + 1, 2 * at + 2));
    assert!(set.heap_bytes() < 4_000_000 / 8 * 11 / 10, "{}", set.heap_bytes());
    assert!(encoded(&set).len() < 4_000_000 / 8 * 101 / 100);
}

#[test]
fn few_open_take_two_bytes_each() {
    // Three in a hundred stay open: 123 in a page, 246 bytes as a list, 512 as a bitmap.
    let mut open = numbers(11);
    let open: BTreeSet<u64> =
        (0..4_000_000).filter(|&offset| offset == 0 || open(100) < 3).collect();
    let list_bytes = open.len() * 2;
    let mut set = AckSet::new(0);
    in_window(4_000_000, 1000, |offset| {
        if !open.contains(&offset) {
            set.insert(offset, offset + 1);
        }
    });
    assert!(set.heap_bytes() < list_bytes * 5 / 4 + 20_000, "{}", set.heap_bytes());
    // The same in an order that touches every page all the time.
    let mut scattered = AckSet::new(0);
    (0..4_000_000u64).map(|at| at * 1_000_003 % 4_000_000).for_each(|offset| {
        if !open.contains(&offset) {
            scattered.insert(offset, offset + 1);
        }
    });
    assert_eq!(scattered, set);
    assert!(scattered.heap_bytes() < list_bytes * 5 / 4 + 20_000, "{}", scattered.heap_bytes());
    let bytes = reloaded(&set).heap_bytes();
    assert!(bytes < list_bytes * 5 / 4 + 20_000, "{bytes}");
}

#[test]
fn few_acked_take_two_bytes_each() {
    let mut set = AckSet::new(0);
    let mut random = numbers(5);
    for _ in 0..100_000 {
        let offset = 1 + random(4_000_000);
        set.insert(offset, offset + 1);
    }
    assert!(set.heap_bytes() < 100_000 * 5 / 2 + 80_000, "{}", set.heap_bytes());
}
