//! A checkpoint as bytes.

use super::{
    BaseEntry, Checkpoint, ExchangeBindingEntry, ExchangeEntry, FLAG_CLEAN, FLAG_END, FLAG_ENDED,
    FLAG_EXCHANGE_BINDINGS, FLAG_LEFT, FLAG_SEALED, FLAG_UNCOUNTED, GroupEntry, MemberEntry,
    PartEntry, PublisherEntry, QueueEntry, RouteEntry, SegmentEntry,
};
use crate::checksum::{checksum, seed_file};
use crate::layout::{
    ARGUMENTS_BYTES_MAX, CHECKPOINT_HEAD_BYTES, CHECKPOINT_MAGIC, FORMAT_VERSION, KEY_BYTES_MAX,
    NAME_BYTES_MAX,
};
use crate::number::{u32_of, u64_of};
use crate::wire::{SliceWriter, VecWriter, store_u32};

impl Checkpoint {
    /// Returns the bytes of the file.
    ///
    /// # Panics
    ///
    /// If a name, key or argument is over its limit, or a list has 2^32 entries.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = vec![0; CHECKPOINT_HEAD_BYTES];
        let mut out = VecWriter::new(&mut file);
        self.write_head(&mut out);
        write_list(&mut out, &self.exchanges, write_exchange);
        write_list(&mut out, &self.groups, write_group);
        write_list(&mut out, &self.routes, write_route);
        write_list(&mut out, &self.queues, write_queue);
        write_list(&mut out, &self.segments, write_segment);
        if !self.exchange_bindings.is_empty() {
            write_list(&mut out, &self.exchange_bindings, write_exchange_binding);
        }
        assert!(self.next_publisher > 0 || self.publishers.is_empty(), "no ids, no publishers");
        if self.next_publisher > 0 {
            out.u32(self.next_publisher);
            write_list(&mut out, &self.publishers, write_publisher);
        }
        let length = u64_of(file.len());
        let (head, _) = file.split_at_mut(CHECKPOINT_HEAD_BYTES);
        let mut writer = SliceWriter::new(head);
        writer.bytes(&CHECKPOINT_MAGIC);
        writer.u32(FORMAT_VERSION);
        let bindings = if self.exchange_bindings.is_empty() { 0 } else { FLAG_EXCHANGE_BINDINGS };
        writer.u32(bindings | if self.clean { FLAG_CLEAN } else { 0 });
        writer.bytes(&self.store.0);
        writer.u64(self.number);
        writer.u64(length);
        writer.u64(self.created_us);
        writer.u32(self.epoch.0);
        let crc_at = CHECKPOINT_HEAD_BYTES.saturating_sub(4);
        let (head, rest) = file.split_at(CHECKPOINT_HEAD_BYTES);
        let (covered, _) = head.split_at(crc_at);
        let crc = checksum(seed_file(self.store, self.number), &[covered, rest]);
        store_u32(&mut file, crc_at, crc);
        file
    }

    fn write_head(&self, out: &mut VecWriter<'_>) {
        out.u64(self.head.position.segment.0);
        out.u64(self.head.position.position);
        out.u64(self.head.next_batch.0);
        out.u64(self.head.next_offset.0);
        out.u32(self.head.previous);
        out.u32(self.next_ids.exchange);
        out.u32(self.next_ids.queue);
        out.u32(self.next_ids.group);
        out.u32(self.next_ids.route);
        out.u64(self.next_ids.segment);
    }
}

/// A `u32` count and the entries.
fn write_list<T>(
    out: &mut VecWriter<'_>,
    list: &[T],
    mut write: impl FnMut(&mut VecWriter<'_>, &T),
) {
    out.u32(u32_of(list.len()));
    for entry in list {
        write(out, entry);
    }
}

/// A `u16` length, no larger than `most`, and the bytes.
fn write_short(out: &mut VecWriter<'_>, bytes: &[u8], most: usize) {
    assert!(bytes.len() <= most, "a name or key of {} bytes is over its limit", bytes.len());
    out.u16(u16::try_from(bytes.len()).expect("names and keys are at most 255 bytes"));
    out.bytes(bytes);
}

fn write_exchange(out: &mut VecWriter<'_>, entry: &ExchangeEntry) {
    out.u32(entry.id.0);
    out.u8(entry.kind);
    out.u32(entry.flags);
    write_short(out, entry.name.as_bytes(), NAME_BYTES_MAX);
    out.long_bytes(&entry.arguments, ARGUMENTS_BYTES_MAX);
}

fn write_exchange_binding(out: &mut VecWriter<'_>, entry: &ExchangeBindingEntry) {
    out.u32(entry.source.0);
    out.u32(entry.destination.0);
    write_short(out, &entry.key, KEY_BYTES_MAX);
    out.long_bytes(&entry.arguments, ARGUMENTS_BYTES_MAX);
}

fn write_group(out: &mut VecWriter<'_>, entry: &GroupEntry) {
    out.u32(entry.id.0);
    out.u32(entry.exchange.0);
    out.u8(entry.kind);
    write_short(out, &entry.key, KEY_BYTES_MAX);
    out.long_bytes(&entry.arguments, ARGUMENTS_BYTES_MAX);
}

fn write_route(out: &mut VecWriter<'_>, entry: &RouteEntry) {
    out.u32(entry.id.0);
    out.u64(entry.messages);
    out.u64(entry.bytes);
    write_list(out, &entry.groups, |out, group| out.u32(*group));
}

fn write_queue(out: &mut VecWriter<'_>, entry: &QueueEntry) {
    out.u32(entry.id.0);
    out.u32(entry.group.0);
    out.u32(entry.flags);
    write_short(out, entry.name.as_bytes(), NAME_BYTES_MAX);
    out.long_bytes(&entry.arguments, ARGUMENTS_BYTES_MAX);
    out.u64(entry.applied.0);
    out.u64(entry.floor.0);
    out.u64(entry.acked_messages);
    out.u64(entry.acked_bytes);
    out.u64(entry.mark.0);
    out.u64(entry.left_messages);
    out.u64(entry.left_bytes);
    out.long_bytes(&entry.acks, usize::MAX);
    write_list(out, &entry.members, write_member);
    write_list(out, &entry.bases, write_base);
    write_list(out, &entry.counts, |out, (offset, count)| {
        out.u64(*offset);
        out.u32(*count);
    });
    write_list(out, &entry.parts, write_part);
}

fn write_publisher(out: &mut VecWriter<'_>, entry: &PublisherEntry) {
    out.u32(entry.id.0);
    out.u64(entry.sequence);
    out.u64(entry.time_us);
    write_short(out, entry.name.as_bytes(), NAME_BYTES_MAX);
}

fn write_part(out: &mut VecWriter<'_>, entry: &PartEntry) {
    out.u8(if entry.left { FLAG_LEFT } else { 0 });
    out.u64(entry.first_offset.0);
    out.u64(entry.messages);
    out.u64(entry.bytes);
}

fn write_member(out: &mut VecWriter<'_>, entry: &MemberEntry) {
    out.u8(if entry.to.is_some() { FLAG_ENDED } else { 0 });
    out.u32(entry.group.0);
    out.u64(entry.from.0);
    if let Some(to) = entry.to {
        out.u64(to.0);
    }
}

fn write_base(out: &mut VecWriter<'_>, entry: &BaseEntry) {
    out.u32(entry.route.0);
    out.u64(entry.messages);
    out.u64(entry.bytes);
}

fn write_segment(out: &mut VecWriter<'_>, entry: &SegmentEntry) {
    let end = if entry.end_offset.is_some() { FLAG_END } else { 0 };
    let sealed = if entry.sealed { FLAG_SEALED } else { 0 };
    out.u32(end | sealed | if entry.uncounted { FLAG_UNCOUNTED } else { 0 });
    out.u64(entry.id.0);
    out.u64(entry.covers_to.0);
    out.u32(entry.generation);
    out.u64(entry.first_offset.0);
    out.u64(entry.file_bytes);
    out.u64(entry.outstanding_messages);
    out.u64(entry.outstanding_bytes);
    if let Some(end) = entry.end_offset {
        out.u64(end.0);
    }
}
