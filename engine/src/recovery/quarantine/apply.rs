//! Applies what is left of a damaged log to the ledger.

use std::sync::Arc;

use fanlog_segment_format::{
    DecodeError, Offset, SegmentId,
    control::Control,
    record::{DurabilityMode, MessageRecord, RecordHead},
};

use super::{Candidate, Gap, Quarantine};
use crate::{
    Error, Result,
    ledger::Ledger,
    log::{Sought, batch::index_batch, gather::Gathered, index::BatchIndex},
    recovery::end_transient,
    route::{DEFAULT_EXCHANGE, Tables},
};

impl Quarantine<'_> {
    /// Applies a batch to the ledger, if the checkpoint does not have it. Returns its indexes: one,
    /// or of a damaged one a piece for each run of offsets.
    pub(super) fn apply(
        &mut self,
        bytes: &[u8],
        candidate: &Candidate,
        batch: &Gathered,
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) -> Result<Vec<(Arc<BatchIndex>, u32)>> {
        let path = self.tail.storage.path(&candidate.name);
        let bad = |source: DecodeError| Error::decode(path.clone(), batch.position, source);
        let start = usize::try_from(batch.position).unwrap_or(usize::MAX);
        let end = (start + batch.total_bytes as usize).min(bytes.len());
        let slice = &bytes[start..end];
        let indexes = match (&batch.header, batch.checksum) {
            (Some(header), Some(_)) => {
                vec![index_batch(slice, header, &mut self.tail.builder).map_err(bad)?]
            }
            _ => self.index_pieces(slice, candidate.header.segment, batch),
        };
        let indexes: Vec<_> =
            indexes.into_iter().map(|(index, checksum)| (Arc::new(index), checksum)).collect();
        if batch.number < self.tail.checkpoint.head.next_batch {
            return Ok(indexes);
        }
        self.tail.replayed_batches += 1;
        if self.applied < batch.epoch {
            // The store was opened in between.
            end_transient(ledger, tables);
            self.applied = batch.epoch;
        }
        for (index, checksum) in &indexes {
            for &position in &*index.controls {
                let (control, _) = Control::decode(&slice[position as usize..]).map_err(bad)?;
                tables.replay(&control).map_err(bad)?;
            }
            self.find_routes(index, slice, ledger, tables);
            ledger.skip_to(index.number, index.first_offset);
            ledger.apply(index, slice, *checksum, self.tail.log).map_err(bad)?;
        }
        Ok(indexes)
    }

    /// Defines routes whose definitions are lost: a message says where it was published, and the
    /// topology at this place of the log says whose it is then.
    pub(super) fn find_routes(
        &mut self,
        index: &BatchIndex,
        slice: &[u8],
        ledger: &mut Ledger,
        tables: &mut Tables,
    ) {
        for (at, count) in (0..).zip(index.routes()) {
            if self.tail.log.route_groups(count.route).is_some() {
                continue;
            }
            ledger.use_route(count.route);
            let start = index.position_of(index.route_message(at, 0)) as usize;
            let Ok((message, _)) = MessageRecord::decode(&slice[start..]) else { continue };
            if message.mode == DurabilityMode::Transient {
                ledger.define_transient(count.route, Arc::from([]), self.tail.log);
                continue;
            }
            let exchange = match message.exchange {
                DEFAULT_EXCHANGE => Some(Arc::from("")),
                other => tables.exchange_name(other),
            };
            let key = std::str::from_utf8(message.key).ok();
            let (Some(exchange), Some(key)) = (exchange, key) else { continue };
            let Ok(matched) = tables.matched(&exchange, key, message.headers) else { continue };
            if !matched.groups.is_empty() {
                let groups: Vec<u32> = matched.groups.iter().map(|group| group.0).collect();
                tables.recover_route(count.route, &groups);
                ledger.define_route(count.route, matched.groups.into(), self.tail.log);
            }
        }
    }

    /// Notes messages that nothing says whose they are.
    pub(super) fn note_unrouted(&mut self) {
        let mut at = Offset(0);
        let unrouted = |route| self.tail.log.route_groups(route).is_none();
        while let Ok(Sought::View(view)) = self.tail.log.seek(at, &unrouted) {
            let mut offsets = Vec::new();
            for route in (0..view.routes()).filter(|&route| unrouted(view.route(route).route)) {
                let numbers = view.route_lower_bound(route, at)..view.route(route).messages;
                offsets.extend(numbers.map(|nth| view.offset_of(view.route_message(route, nth))));
            }
            offsets.sort_unstable();
            for run in offsets.chunk_by(|a, b| a.next() == *b) {
                self.harm.gaps.push(Gap {
                    path: self.tail.storage.path(""),
                    position: 0,
                    from: run[0],
                    to: run[run.len() - 1].next(),
                    controls: false,
                    reason: "the record that says whose they are is lost".to_owned(),
                    kept_as: None,
                });
            }
            at = view.end_offset().max(at.next());
        }
    }

    /// Indexes of the runs of offsets that are left of a damaged batch.
    pub(super) fn index_pieces(
        &mut self,
        slice: &[u8],
        segment: SegmentId,
        batch: &Gathered,
    ) -> Vec<(BatchIndex, u32)> {
        let mut pieces = Vec::new();
        let builder = &mut self.tail.builder;
        let start = u32::try_from(batch.position).unwrap_or(u32::MAX);
        for &control in &batch.controls {
            builder.control(control - start);
        }
        let mut first = batch.first_offset();
        let mut next = first;
        for message in &batch.messages {
            if message.offset != next {
                let total = batch.total_bytes;
                pieces
                    .push((builder.build(batch.number, segment, batch.position, total, first), 0));
                first = message.offset;
            }
            next = message.offset.next();
            let at = message.position - start;
            if let Ok(head) = RecordHead::peek(&slice[at as usize..]) {
                builder.message(at, &head, message.time_us());
            }
        }
        let total = batch.total_bytes;
        pieces.push((builder.build(batch.number, segment, batch.position, total, first), 0));
        pieces
    }
}
