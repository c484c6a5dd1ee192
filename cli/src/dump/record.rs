//! Records as items: messages and control records.

use fanlog_segment_format::{
    AckBytes, AckItem, Control, DurabilityMode, MessageRecord, PAGE_OFFSETS, Record,
    table::TableRef,
};
use serde_json::{Value, json};

use super::item::Item;
use crate::table::to_json;

/// A record at `position` of its file.
pub(super) fn item_of(record: &Record<'_>, position: u64, whole: bool) -> Item {
    match record {
        Record::Message(message) => of_message(message, position, whole),
        Record::Control(control) => of_control(control, position, whole),
    }
    .inner()
}

fn of_message(message: &MessageRecord<'_>, position: u64, whole: bool) -> Item {
    let mode = match message.mode {
        DurabilityMode::Synced => "synced",
        DurabilityMode::Buffered => "buffered",
        DurabilityMode::Transient => "transient",
    };
    let mut item = Item::new("message", position)
        .with("offset", message.offset.0)
        .with("route", message.route.0)
        .with("exchange", message.exchange.0)
        .with_bytes("key", "key_hex", message.key, true)
        .with("epoch", message.epoch.0)
        .with("time_us", message.time_us)
        .with("mode", mode)
        .with_some("priority", Some(message.priority).filter(|&priority| priority > 0))
        .with_some("due_us", message.due_us)
        .with_some("expiry_us", message.expiry_us)
        .with_some("publisher", message.publisher.map(|(id, sequence)| json!([id, sequence])));
    if let Some(groups) = message.groups {
        item = item.with_list("groups", groups.iter().map(Value::from), whole);
    }
    for (name, hex_name, bytes) in [
        ("properties", "properties_hex", message.properties),
        ("headers", "headers_hex", message.headers),
    ] {
        if !bytes.is_empty() {
            item = item.with_bytes(name, hex_name, bytes, whole);
        }
    }
    item.with("payload_bytes", message.payload.len()).with_bytes(
        "payload",
        "payload_hex",
        message.payload,
        whole,
    )
}

fn of_control(control: &Control<'_>, at: u64, whole: bool) -> Item {
    match *control {
        Control::RouteDefine { route, groups } => Item::new("route define", at)
            .with("route", route.0)
            .with_list("groups", groups.iter().map(Value::from), whole),
        Control::TransientRouteDefine { route, groups } => Item::new("transient route define", at)
            .with("route", route.0)
            .with_list("groups", groups.iter().map(Value::from), whole),
        Control::ExchangeDeclare { exchange, kind, flags, name, arguments } => {
            let item = Item::new("exchange declare", at)
                .with("exchange", exchange.0)
                .with("name", name)
                .with("kind", exchange_kind(kind))
                .with("flags", flags);
            with_arguments(item, arguments, whole)
        }
        Control::ExchangeDelete { exchange } => {
            Item::new("exchange delete", at).with("exchange", exchange.0)
        }
        Control::QueueDeclare { queue, group, flags, from, name, arguments } => {
            let item = Item::new("queue declare", at)
                .with("queue", queue.0)
                .with("name", name)
                .with("group", group.0)
                .with("flags", flags)
                .with("from", from.0);
            with_arguments(item, arguments, whole)
        }
        Control::QueueDelete { queue } => Item::new("queue delete", at).with("queue", queue.0),
        Control::GroupDefine { group, exchange, kind, key, arguments } => {
            let item = Item::new("group define", at)
                .with("group", group.0)
                .with("exchange", exchange.0)
                .with("kind", exchange_kind(kind))
                .with_bytes("key", "key_hex", key, true);
            with_arguments(item, arguments, whole)
        }
        Control::Bind { group, queue, from } => {
            Item::new("bind", at).with("group", group.0).with("queue", queue.0).with("from", from.0)
        }
        Control::Unbind { group, queue, to } => {
            Item::new("unbind", at).with("group", group.0).with("queue", queue.0).with("to", to.0)
        }
        _ => of_queue_change(control, at, whole),
    }
}

fn of_queue_change(control: &Control<'_>, at: u64, whole: bool) -> Item {
    match *control {
        Control::Ack { queue, messages, bytes, acks } => {
            let item = Item::new("ack", at)
                .with("queue", queue.0)
                .with("messages", messages)
                .with("bytes", bytes);
            with_acks(item, "acks", acks, whole)
        }
        Control::DeliveryMark { queue, offset } => {
            Item::new("delivery mark", at).with("queue", queue.0).with("offset", offset.0)
        }
        Control::DeliveryCount { queue, entries } => {
            let entries = entries.iter().map(|(offset, count)| json!([offset.0, count]));
            Item::new("delivery count", at)
                .with("queue", queue.0)
                .with_list("counts", entries, whole)
        }
        Control::Purge { queue, to, messages, bytes, kept } => {
            let item = Item::new("purge", at)
                .with("queue", queue.0)
                .with("to", to.0)
                .with("messages", messages)
                .with("bytes", bytes);
            with_acks(item, "kept", kept, whole)
        }
        Control::Rewind { queue, to, mark, members, segments, brought, passed } => {
            let members = members.iter().map(|row| json!(row));
            let segments = segments.iter().map(|row| json!(row));
            let item = Item::new("rewind", at)
                .with("queue", queue.0)
                .with("to", to.0)
                .with("mark", mark.0)
                .with_list("members", members, whole)
                .with_list("segments", segments, whole);
            with_acks(with_acks(item, "brought", brought, whole), "passed", passed, whole)
        }
        Control::ExchangeBind { source, destination, key, .. } => Item::new("exchange bind", at)
            .with("source", source.0)
            .with("destination", destination.0)
            .with_bytes("key", "key_hex", key, true),
        Control::ExchangeUnbind { source, destination, key, .. } => {
            Item::new("exchange unbind", at)
                .with("source", source.0)
                .with("destination", destination.0)
                .with_bytes("key", "key_hex", key, true)
        }
        Control::Close { next_offset } => Item::new("close", at).with("next_offset", next_offset.0),
        Control::PublisherDeclare { publisher, time_us, name } => {
            Item::new("publisher declare", at)
                .with("publisher", publisher.0)
                .with("name", name)
                .with("time_us", time_us)
        }
        Control::PublisherSequence { publisher, sequence, time_us } => {
            Item::new("publisher sequence", at)
                .with("publisher", publisher.0)
                .with("sequence", sequence)
                .with("time_us", time_us)
        }
        Control::PublisherForget { publisher } => {
            Item::new("publisher forget", at).with("publisher", publisher.0)
        }
        // The others are handled by the caller.
        _ => Item::new("control", at),
    }
}

pub(super) fn with_arguments(item: Item, arguments: &[u8], whole: bool) -> Item {
    if arguments.is_empty() {
        return item;
    }
    match TableRef::new(arguments) {
        Ok(table) => item.with("arguments", to_json(table)),
        Err(_) => item.with_bytes("arguments", "arguments_hex", arguments, whole),
    }
}

/// With the ranges of an ack set; what does not decode is named behind those before it.
pub(super) fn with_acks(item: Item, name: &'static str, acks: AckBytes<'_>, whole: bool) -> Item {
    let mut damage = None;
    let mut pending: Option<(u64, u64)> = None;
    let mut items = acks.items();
    let mut bits: Vec<(u64, u64)> = Vec::new();
    // Runs of neighbouring items are one range.
    let ranges = std::iter::from_fn(|| {
        loop {
            let next = if bits.is_empty() {
                match items.next() {
                    Some(Ok(AckItem::Run { start, end })) => Some((start, end)),
                    Some(Ok(AckItem::Bits { page, words })) => {
                        bits = runs_of(page, &words);
                        bits.reverse();
                        continue;
                    }
                    Some(Err(error)) => {
                        damage = Some(error.to_string());
                        None
                    }
                    None => None,
                }
            } else {
                bits.pop()
            };
            match (pending, next) {
                (Some((start, end)), Some((from, to))) if end == from => {
                    pending = Some((start, to));
                }
                (before, next) => {
                    pending = next;
                    match (before, next) {
                        (None, Some(_)) => {}
                        (before, _) => return before.map(|(start, end)| json!([start, end])),
                    }
                }
            }
        }
    });
    let item = item.with_list(name, ranges, whole);
    item.with_some("damaged", damage)
}

/// The runs of a page's bitmap.
fn runs_of(page: u64, words: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let first = page.saturating_mul(PAGE_OFFSETS);
    for (word, base) in words.iter().zip((first..).step_by(64)) {
        for offset in (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| base + bit) {
            match runs.last_mut() {
                Some((_, end)) if *end == offset => *end = offset + 1,
                _ => runs.push((offset, offset + 1)),
            }
        }
    }
    runs
}

pub(super) fn exchange_kind(code: u8) -> Value {
    match code {
        0 => "default".into(),
        1 => "fanout".into(),
        2 => "direct".into(),
        3 => "topic".into(),
        4 => "headers".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use fanlog_segment_format::{AckEncoder, PAGE_WORDS};

    use super::*;

    #[test]
    fn ranges_of_an_ack_set_are_joined_over_runs_and_bitmaps() {
        let mut bytes = Vec::new();
        let mut encoder = AckEncoder::new(&mut bytes);
        let mut words = [0; PAGE_WORDS];
        words[0] = 0b1011;
        words[63] = 1 << 63;
        encoder.run(1, 3);
        encoder.run(9, 4096);
        encoder.bits(1, &words);
        encoder.run(8192, 8200);
        let item = with_acks(Item::new("x", 0), "acks", AckBytes(&bytes), true);
        let text = format!("{item:?}");
        let expected = [[1, 3], [9, 4098], [4099, 4100], [8191, 8200]];
        assert!(text.contains(&format!("{:?}", json!(expected))), "{text}");
    }
}
