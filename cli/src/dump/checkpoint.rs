//! A checkpoint as items: what it says of itself, then each of its entries.

use fanlog_segment_format::{AckBytes, Checkpoint, QueueEntry, SegmentEntry};
use serde_json::{Value, json};

use super::{
    item::Item,
    record::{exchange_kind, with_acks, with_arguments},
};

/// The checkpoint's items, one at a time.
pub(super) fn items(checkpoint: &Checkpoint, whole: bool) -> impl Iterator<Item = Item> {
    let exchanges = checkpoint.exchanges.iter().map(move |entry| {
        let item = Item::new("exchange", 0)
            .with("id", entry.id.0)
            .with("name", entry.name.as_str())
            .with("kind", exchange_kind(entry.kind))
            .with("flags", entry.flags);
        with_arguments(item, &entry.arguments, whole)
    });
    let groups = checkpoint.groups.iter().map(move |entry| {
        let item = Item::new("group", 0)
            .with("id", entry.id.0)
            .with("exchange", entry.exchange.0)
            .with("kind", exchange_kind(entry.kind))
            .with_bytes("key", "key_hex", &entry.key, true);
        with_arguments(item, &entry.arguments, whole)
    });
    let routes = checkpoint.routes.iter().map(move |entry| {
        Item::new("route", 0)
            .with("id", entry.id.0)
            .with("messages", entry.messages)
            .with("bytes", entry.bytes)
            .with_list("groups", entry.groups.iter().map(|&group| group.into()), whole)
    });
    let queues = checkpoint.queues.iter().map(move |entry| of_queue(entry, whole));
    let segments = checkpoint.segments.iter().map(of_segment);
    let publishers = checkpoint.publishers.iter().map(|entry| {
        Item::new("publisher", 0)
            .with("id", entry.id.0)
            .with("name", entry.name.as_str())
            .with("sequence", entry.sequence)
            .with("time_us", entry.time_us)
    });
    let entries = exchanges.chain(groups).chain(routes).chain(queues).chain(segments);
    let entries = entries.chain(publishers);
    std::iter::once(head(checkpoint)).chain(entries.map(Item::inner))
}

fn head(checkpoint: &Checkpoint) -> Item {
    let Checkpoint { head, next_ids, .. } = checkpoint;
    Item::new("checkpoint", 0)
        .with("number", checkpoint.number)
        .with("store", checkpoint.store.to_string())
        .with("epoch", checkpoint.epoch.0)
        .with("clean", checkpoint.clean)
        .with("created_us", checkpoint.created_us)
        .with("head", head.position.to_string())
        .with("next_batch", head.next_batch.0)
        .with("next_offset", head.next_offset.0)
        .with("previous", format!("{:08x}", head.previous))
        .with("next_exchange", next_ids.exchange)
        .with("next_queue", next_ids.queue)
        .with("next_group", next_ids.group)
        .with("next_route", next_ids.route)
        .with("next_segment", next_ids.segment)
        .with("exchanges", checkpoint.exchanges.len())
        .with("groups", checkpoint.groups.len())
        .with("routes", checkpoint.routes.len())
        .with("queues", checkpoint.queues.len())
        .with("segments", checkpoint.segments.len())
}

fn of_queue(entry: &QueueEntry, whole: bool) -> Item {
    let members = entry.members.iter().map(|member| {
        let to = member.to.map_or(Value::Null, |to| to.0.into());
        json!({ "group": member.group.0, "from": member.from.0, "to": to })
    });
    let bases = entry.bases.iter().map(
        |base| json!({ "route": base.route.0, "messages": base.messages, "bytes": base.bytes }),
    );
    let counts = entry.counts.iter().map(|&(offset, count)| json!([offset, count]));
    let parts = entry.parts.iter().map(|part| {
        let amount = if part.left { "left" } else { "acked" };
        json!({
            "first_offset": part.first_offset.0,
            "amount": amount,
            "messages": part.messages,
            "bytes": part.bytes,
        })
    });
    let item = Item::new("queue", 0)
        .with("id", entry.id.0)
        .with("name", entry.name.as_str())
        .with("group", entry.group.0)
        .with("flags", entry.flags)
        .with("applied", entry.applied.0)
        .with("floor", entry.floor.0)
        .with("acked_messages", entry.acked_messages)
        .with("acked_bytes", entry.acked_bytes)
        .with("mark", entry.mark.0)
        .with("left_messages", entry.left_messages)
        .with("left_bytes", entry.left_bytes)
        .with_list("members", members, whole)
        .with_list("bases", bases, whole)
        .with_list("counts", counts, whole)
        .with_list("parts", parts, whole);
    let item = with_acks(item, "acks", AckBytes(&entry.acks), whole);
    with_arguments(item, &entry.arguments, whole)
}

fn of_segment(entry: &SegmentEntry) -> Item {
    Item::new("segment", 0)
        .with("id", entry.id.0)
        .with("covers_to", entry.covers_to.0)
        .with("generation", entry.generation)
        .with("first_offset", entry.first_offset.0)
        .with_some("end_offset", entry.end_offset.map(|end| end.0))
        .with("file_bytes", entry.file_bytes)
        .with("sealed", entry.sealed)
        .with("outstanding_messages", entry.outstanding_messages)
        .with("outstanding_bytes", entry.outstanding_bytes)
        .with_some("uncounted", entry.uncounted.then_some(true))
}
