//! Looks at an open store from outside: topology, queues, segments, statistics.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use fanlog_segment_format::Offset;

use crate::{
    Error, ExchangeOptions, QueueOptions, Result, Stats, Table,
    core::Core,
    deliver::{Dispatch, Reader},
    keeper,
    log::{Sought, segment::Segment, view::View},
    pins,
    queue::Queue,
    route::ExchangeKind,
};

/// Exchanges, queues and bindings of a store, each in the order of names.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TopologyView {
    /// Exchanges, without the default one, but with the predeclared ones: `amq.direct`,
    /// `amq.fanout`, `amq.headers`, `amq.match`, `amq.topic`.
    pub exchanges: Vec<ExchangeView>,
    /// Queues.
    pub queues: Vec<QueueView>,
    /// Bindings made by name.
    pub bindings: Vec<BindingView>,
    /// Bindings of exchanges to exchanges.
    pub exchange_bindings: Vec<ExchangeBindingView>,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeView {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// How else it is.
    pub options: ExchangeOptions,
}

/// A queue as it is at a moment. Taken in the time that its routes and consumers take, whatever its
/// depth.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// What it was declared with.
    pub options: QueueOptions,
    /// Messages in it, ready and unacked; an ack counts once it is written.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Of the messages, those that no consumer has; `delayed` ones are among them.
    pub ready: u64,
    /// Their payload bytes.
    pub ready_bytes: u64,
    /// Of the messages, those that the queue has come to and passed by because they are not due
    /// yet. It comes to messages as far as consumers want any: without one it is 0.
    pub delayed: u64,
    /// Of the messages, those in somebody's hands or inbox.
    pub unacked: u64,
    /// Their payload bytes.
    pub unacked_bytes: u64,
    /// Consumers subscribed.
    pub consumers: usize,
    /// The tag of the one that gets everything, if the queue has a single active consumer.
    pub active_consumer: Option<String>,
    /// Since when the oldest message is in it that is not acked, by the clock of this machine.
    /// `None` if there is none, if its bytes are damaged, and in [`Engine::topology`]: it is read
    /// from the log, which takes one look at it, and more only if the queue is a sparse one.
    ///
    /// [`Engine::topology`]: crate::Engine::topology
    pub oldest_age: Option<Duration>,
    /// Every offset below it is durably acked.
    pub ack_floor: Offset,
    /// Memory of its ack state, in bytes.
    pub heap_bytes: usize,
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BindingView {
    /// The queue.
    pub queue: String,
    /// The exchange.
    pub exchange: String,
    /// The key; `""` for a fanout exchange.
    pub routing_key: String,
    /// Its arguments, in order of their names.
    pub arguments: Table,
}

/// A binding of an exchange to an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeBindingView {
    /// Where messages go.
    pub destination: String,
    /// Where they come from.
    pub source: String,
    /// The key; `""` if the source is a fanout exchange.
    pub routing_key: String,
    /// Its arguments, in order of their names.
    pub arguments: Table,
}

/// A segment of the log.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its file.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// How often it was rewritten.
    pub generation: u32,
    /// `"active"`, `"full"` (no footer yet) or `"sealed"`.
    pub state: &'static str,
    /// Its first offset.
    pub first_offset: Offset,
    /// One past its last offset.
    pub end_offset: Offset,
    /// Size of the file, in bytes.
    pub file_bytes: u64,
    /// Bytes of payload in it that some queue has not acked.
    pub live_bytes: u64,
    /// Bytes of payload in it.
    pub payload_bytes: u64,
    /// Why rewriting leaves it as it is, if something in it is damaged.
    pub problem: Option<String>,
}

/// The queue of that name.
pub(crate) fn queue(core: &Core, name: &str) -> Result<Arc<Queue>> {
    let tables = core.tables.read().unwrap_or_else(PoisonError::into_inner);
    let id = tables.queue(name)?;
    drop(tables);
    let not_found = || Error::NotFound { what: "queue", name: name.to_owned() };
    core.ledger().queue(id).ok_or_else(not_found)
}

pub(crate) fn queue_view(core: &Core, queue: &Queue) -> QueueView {
    let (sent, depth) = core.ledger().sent_and_depth(queue);
    let dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let (unacked, delayed, consumers) = dispatch
        .get()
        .map(|dispatch| (dispatch.unacked(), dispatch.delayed(), dispatch.consumers()))
        .unwrap_or_default();
    let single = dispatch.get().filter(|_| queue.options().single_active_consumer);
    let active_consumer = single.and_then(Dispatch::active);
    drop(dispatch);
    // What is settled and not in the log yet, as by a transaction that is on its way, comes to nobody.
    let ready = sent.less(queue.settled()).less(unacked);
    let state = queue.ledger();
    QueueView {
        name: queue.name.to_string(),
        options: queue.options().clone(),
        messages: depth.messages,
        bytes: depth.bytes,
        ready: ready.messages,
        ready_bytes: if ready.messages == 0 { 0 } else { ready.bytes },
        unacked: unacked.messages,
        unacked_bytes: unacked.bytes,
        delayed,
        consumers,
        active_consumer,
        oldest_age: None,
        ack_floor: state.floor(),
        heap_bytes: state.heap_bytes() + queue.unwritten_heap_bytes(),
    }
}

/// The same, with the age of its oldest message.
pub(crate) fn queue_view_with_age(core: &Core, queue: &Queue) -> QueueView {
    let mut view = queue_view(core, queue);
    if view.messages > 0 {
        let oldest = Reader::of_all(queue).peek(core, queue).ok().flatten();
        view.oldest_age = oldest.and_then(|oldest| pins::age_of(core, oldest));
    }
    view
}

pub(crate) fn topology(core: &Core) -> TopologyView {
    let tables = core.tables.read().unwrap_or_else(PoisonError::into_inner);
    let exchanges = tables.list_exchanges();
    let queues = tables.list_queues();
    let bindings = tables.list_bindings();
    let exchange_bindings = tables.list_exchange_bindings();
    drop(tables);
    let queues = queues.into_iter().filter_map(|(_, id)| core.ledger().queue(id));
    TopologyView {
        exchanges: exchanges
            .into_iter()
            .map(|(name, kind, options)| ExchangeView { name: name.to_string(), kind, options })
            .collect(),
        queues: queues.map(|queue| queue_view(core, &queue)).collect(),
        bindings: bindings
            .into_iter()
            .map(|binding| BindingView {
                queue: binding.destination.to_string(),
                exchange: binding.exchange.to_string(),
                routing_key: binding.routing_key,
                arguments: binding.arguments,
            })
            .collect(),
        exchange_bindings: exchange_bindings
            .into_iter()
            .map(|binding| ExchangeBindingView {
                destination: binding.destination.to_string(),
                source: binding.exchange.to_string(),
                routing_key: binding.routing_key,
                arguments: binding.arguments,
            })
            .collect(),
    }
}

pub(crate) fn segments(core: &Core) -> Vec<SegmentInfo> {
    core.log.segments().iter().map(|segment| segment_info(core, segment)).collect()
}

/// What a segment is by now, in a word.
pub(crate) fn state_of(segment: &Segment) -> &'static str {
    match (segment.end_offset(), segment.is_sealed()) {
        (None, _) => "active",
        (_, false) => "full",
        (_, true) => "sealed",
    }
}

fn segment_info(core: &Core, segment: &Arc<Segment>) -> SegmentInfo {
    let state = state_of(segment);
    let end = segment.end_offset().unwrap_or_else(|| core.log.visible());
    let (mut live_bytes, mut payload_bytes) = (0, 0);
    let mut from = segment.first_offset();
    while from < end {
        let Ok(Sought::View(view)) = core.log.seek(from, &|_| true) else { break };
        let (live, all) = view_bytes(core, &view, from);
        live_bytes += live;
        payload_bytes += all;
        from = view.end_offset().max(from.next());
    }
    SegmentInfo {
        path: core.storage.path(&segment.name),
        number: segment.id().0,
        generation: segment.header.generation,
        state,
        first_offset: segment.first_offset(),
        end_offset: end,
        file_bytes: segment.header.file_bytes,
        live_bytes,
        payload_bytes,
        problem: core.keeper.rewriter.problem_of(segment),
    }
}

/// Payload bytes of a view, at or past `from`, that some queue has not acked, and all of them.
fn view_bytes(core: &Core, view: &View, from: Offset) -> (u64, u64) {
    let (mut live, mut all) = (0, 0);
    for at in 0..view.routes() {
        let route = view.route(at);
        let groups = core.log.route_groups(route.route).unwrap_or_else(|| Arc::from([]));
        let holders = core.ledger().holders_of(&groups);
        let mut takers = Vec::new();
        for queue in &holders {
            let state = queue.ledger();
            let ranges = state.ranges(&groups);
            if !ranges.is_empty() && state.floor() < view.end_offset() {
                takers.push((queue, ranges));
            }
        }
        for nth in view.route_lower_bound(at, from)..route.messages {
            let number = view.route_message(at, nth);
            let offset = view.offset_of(number);
            let bytes = view.payload_bytes(number);
            all += bytes;
            let wanted = takers.iter().any(|(queue, ranges)| {
                ranges.iter().any(|&(from, to)| from <= offset && offset < to)
                    && !queue.ledger().acks.contains(offset.0)
            });
            live += if wanted { bytes } else { 0 };
        }
    }
    (live, all)
}

pub(crate) fn stats(core: &Core) -> Stats {
    let segments = core.log.segments();
    let mut stats = core.stats.snapshot(core.storage.backend());
    stats.segments = segments.len() as u64;
    stats.segments_ready = core.supply.ready();
    stats.segments_left_alone = core.keeper.rewriter.left_alone();
    stats.deleted_but_held_bytes = keeper::held_bytes(core);
    stats.window_bytes = core.log.window_bytes() as u64;
    stats.pinned_bytes = core.pinned_bytes() as u64;
    let appender = core.append.lock();
    let (published, unconfirmed) = (appender.published(), appender.unconfirmed());
    drop(appender);
    stats.published_messages = published.messages;
    stats.published_bytes = published.payload_bytes;
    stats.unconfirmed_bytes = unconfirmed as u64;
    stats.mapped_bytes = core.log.mapped_bytes();
    stats.index_bytes = segments.iter().map(|segment| segment.index_bytes() as u64).sum();
    if let Some(oldest) = core.keeper.oldest.get(core) {
        stats.oldest_unacked_age = oldest.age(core);
        stats.oldest_unacked_pinned_bytes = oldest.file_bytes;
    }
    stats.poisoned = core.is_poisoned();
    stats.end_offset = core.log.visible();
    stats
}

/// Before a clean close: nothing more is handed out, and what was not is not flagged when the store
/// is opened again.
pub(crate) fn end_leases(core: &Core) {
    let queues: Vec<Arc<Queue>> = core.ledger().queues().cloned().collect();
    for queue in queues {
        let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let (handed_out, counts) = dispatch.get_mut().map(Dispatch::stop).unwrap_or_default();
        let handed_out = handed_out.max(queue.recovered_mark());
        drop(dispatch);
        if !counts.is_empty() {
            queue.want_counts(&core.dirty, counts);
        }
        if handed_out < queue.mark() {
            queue.want_lease(&core.dirty, handed_out);
        }
    }
}
