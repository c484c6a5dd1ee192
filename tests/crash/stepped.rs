//! The engine without threads: every operation of a run is cut once.

use std::collections::BTreeMap;
use std::sync::Mutex;

use fanlog_tests::operations::Purpose;
use fanlog_tests::world::Counts;

use crate::cuts::{
    IMAGES, assert_none, chosen, for_each, judge_fall_back, judge_image, purposes, run, tally,
};

const STEPS: u64 = 600;

/// The run itself, uncut: it has to do what the test is about.
#[track_caller]
fn rehearse(seed: u64, wanted: &[Purpose]) -> Vec<Purpose> {
    let mut world =
        run(seed, STEPS, None).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    let purposes = purposes(&world.disk.operations());
    let tally = tally(&purposes);
    world.power_off().unwrap();
    if wanted.is_empty() {
        return purposes;
    }
    let Counts { topology_changes, checkpoints, recycled, rewritten, merged, .. } = world.counts;
    let counts = world.counts;
    assert!(tally[&Purpose::SegmentHeader] > 3, "rolls: {tally:?}");
    assert!(checkpoints >= 3 && topology_changes >= 10 && recycled >= 2, "{counts:?}");
    assert!(rewritten >= 2 && merged >= 2, "{counts:?}");
    assert!(counts.acks_waited > 3 && counts.acks_lazy > 10, "{counts:?}");
    assert!(counts.transactions > 3, "{counts:?}");
    assert!(counts.requeued > 10 && counts.consumers_dropped > 3, "{counts:?}");
    assert!(
        counts.batches > 3 && counts.buffered > 3 && counts.most_unconfirmed >= 3,
        "{counts:?}"
    );
    for purpose in wanted {
        assert!(tally.contains_key(purpose), "seed {seed}: no {purpose:?} among {tally:?}");
    }
    purposes
}

fn cut_everywhere(seed: u64, wanted: &[Purpose]) {
    let purposes = rehearse(seed, wanted);
    let fallen_back: Mutex<BTreeMap<Purpose, usize>> = Mutex::default();
    let failures = for_each(purposes.len() as u64, |cut| {
        if chosen("FANLOG_CUT").is_some_and(|chosen| chosen != cut) {
            return Ok(());
        }
        let purpose = purposes[number_of(cut)];
        let place = format!("seed {seed} cut {cut} ({purpose:?})");
        let mut world =
            run(seed, STEPS, Some(cut)).map_err(|problem| format!("{place}: {problem}"))?;
        if !world.disk.is_cut() {
            return Err(format!("{place}: the run differs from the uncut one"));
        }
        let remains = world.power_off().map_err(|stop| format!("{place}: {stop:?}"))?;
        for (mode, chance) in IMAGES {
            judge_image(&remains, mode, chance)
                .map_err(|problem| format!("{place} image {mode:?} {chance}: {problem}"))?;
        }
        // And the newest checkpoint is damaged on top of it.
        let (mode, chance) = IMAGES[number_of(cut) % IMAGES.len()];
        let fell_back = judge_fall_back(&remains, mode, chance, cut)
            .map_err(|problem| format!("{place} fallen back, {mode:?} {chance}: {problem}"))?;
        if fell_back {
            *fallen_back.lock().unwrap().entry(purpose).or_insert(0) += 1;
        }
        Ok(())
    });
    assert_none(&failures);
    let fallen_back = fallen_back.into_inner().unwrap();
    // A segment is created before there is anything to fall back to.
    for purpose in wanted.iter().filter(|purpose| **purpose != Purpose::SegmentCreate) {
        assert!(fallen_back.contains_key(purpose), "never fell back at {purpose:?}");
    }
}

fn number_of(cut: u64) -> usize {
    usize::try_from(cut).unwrap()
}

#[test]
fn every_operation_may_be_the_last() {
    use Purpose as P;
    let common = [
        P::BatchWrite,
        P::SegmentSync,
        P::SegmentHeader,
        P::FooterWrite,
        P::CheckpointCreate,
        P::CheckpointWrite,
        P::CheckpointSync,
        P::CheckpointRename,
        P::CheckpointRemove,
        P::FreeCreate,
        P::FreeSync,
        P::FreeBlank,
        P::FreeToSegment,
        P::SegmentToFree,
        P::SegmentRemove,
        P::RewriteCreate,
        P::RewriteWrite,
        P::RewriteSync,
        P::RewriteRename,
        P::DirectorySync,
    ];
    if let Some(seed) = chosen("FANLOG_SEED") {
        return cut_everywhere(seed, &[]);
    }
    // One on a disk that reserves written blocks, one where they have to be filled.
    cut_everywhere(7, &common);
    let filled = [&common[..], &[P::FreeZeros, P::SegmentCreate]].concat();
    cut_everywhere(28, &filled);
}
