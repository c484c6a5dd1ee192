//! The engine without threads: every operation of a run is cut once.

use fanlog_tests::operations::Purpose;
use fanlog_tests::world::Counts;

use crate::cuts::{IMAGES, assert_none, chosen, for_each, judge_image, purposes, run, tally};

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
    let Counts { topology_changes, checkpoints, recycled, .. } = world.counts;
    let counts = world.counts;
    assert!(tally[&Purpose::SegmentHeader] > 3, "rolls: {tally:?}");
    assert!(checkpoints >= 3 && topology_changes >= 10 && recycled >= 1, "{counts:?}");
    assert!(counts.acks_waited > 3 && counts.acks_lazy > 10, "{counts:?}");
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
    let failures = for_each(purposes.len() as u64, |cut| {
        if chosen("FANLOG_CUT").is_some_and(|chosen| chosen != cut) {
            return Ok(());
        }
        let purpose = purposes[usize::try_from(cut).unwrap()];
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
        Ok(())
    });
    assert_none(&failures);
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
        P::DirectorySync,
    ];
    if let Some(seed) = chosen("FANLOG_SEED") {
        return cut_everywhere(seed, &[]);
    }
    // One on a disk that reserves written blocks, one where they have to be filled.
    cut_everywhere(1, &common);
    let filled = [&common[..], &[P::FreeZeros, P::SegmentCreate]].concat();
    cut_everywhere(6, &filled);
}
