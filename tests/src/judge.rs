//! Compares an opened store with the model, and settles in the model what a crash left open.
//!
//! J1. What is confirmed and not acked is there: right bytes, right offset, right order, once.
//! J2. Nothing is there that was never published, refused, or durably acked.
//! J3. What is in doubt is there or not, but a publisher's messages end at one place: no hole.
//! J4. Exchanges, queues and bindings are the confirmed ones, perhaps with the change under way.
//! J5. Depths are what browsing counts, and the engine's own check finds nothing.
//! J6. A transaction in doubt took place as a whole, messages and acks, or not at all.
//! J7. A message that left its queue by itself, or was rejected, is a dead letter; one that is in its
//!     queue is none.

use std::collections::{BTreeMap, BTreeSet};

use fanlog::{Engine, ExchangeKind};

use crate::model::{
    Acked, Fate, Id, LETTERS, Model, QueueId, Topology, binding_arguments, exchange_options,
    queue_options,
};

/// How much has to be there beside what was confirmed as synced.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// All that was confirmed, `Buffered` or not: the disk lost nothing.
    pub everything: bool,
    /// All below this offset: the engine said that it survives a power cut.
    pub durable: u64,
}

/// What a comparison saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Messages that are to be delivered.
    pub messages: u64,
    /// Messages in doubt that turned out to be stored.
    pub doubtful_kept: u64,
    /// Messages in doubt, or `Buffered`, that turned out to be lost.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Findings {
    /// Offset of each message that is stored.
    present: BTreeMap<Id, u64>,
    absent: BTreeSet<Id>,
}

/// Compares; on success the model says what the store holds now, without any doubt.
///
/// # Errors
///
/// What is wrong, in words.
pub fn compare(engine: &Engine, model: &mut Model, bounds: Bounds) -> Result<Seen, String> {
    settle_topology(engine, model)?;
    let end = engine.recovery().end.0;
    see_letters(engine, model)?;
    let mut findings = Findings::default();
    let mut seen = Seen::default();
    let queues: Vec<(String, QueueId)> =
        model.topology.queues.iter().map(|(name, id)| (name.clone(), *id)).collect();
    for (name, queue) in &queues {
        seen.messages += compare_queue(engine, model, name, *queue, end, &mut findings)
            .map_err(|problem| format!("queue {name}: {problem}"))?;
    }
    settle_transactions(model, &findings)?;
    settle_fates(model, &findings, bounds, end, &mut seen)?;
    model.rejected.clear();
    let report = engine.check(&mut |_| {}).map_err(|error| format!("check: {error}"))?;
    // Of what was misread when it was counted only the bytes may be wrong: messages were compared.
    let counts = |text: &str| model.misread && text.contains("should hold");
    if let Some(problem) = report.problems.iter().find(|problem| !counts(&problem.text)) {
        let (path, position) = (problem.path.display(), problem.position);
        return Err(format!(
            "check found {} problems, the first: {path} at {position}: {}",
            report.problems.len(),
            problem.text
        ));
    }
    if report.uncounted > 0 {
        return Err(format!("{} segments are not counted", report.uncounted));
    }
    Ok(seen)
}

fn settle_topology(engine: &Engine, model: &mut Model) -> Result<(), String> {
    let view = engine.topology();
    // Those that are always there are in no model.
    let exchanges = view.exchanges.iter().filter(|found| !found.name.starts_with("amq."));
    let exchanges: BTreeMap<String, ExchangeKind> =
        exchanges.map(|found| (found.name.clone(), found.kind)).collect();
    if let Some(other) =
        view.queues.iter().find(|found| found.options != queue_options(&found.name))
    {
        return Err(format!("a queue was not declared like this: {other:?}"));
    }
    let mut exchange_kinds = view.exchanges.iter();
    if let Some(other) = exchange_kinds.find(|found| found.options != exchange_options(&found.name))
    {
        return Err(format!("an exchange was not declared like this: {other:?}"));
    }
    if let Some(other) = view.bindings.iter().find(|found| {
        found.arguments != binding_arguments(exchanges[&found.exchange], &found.routing_key)
    }) {
        return Err(format!("a binding was not made like this: {other:?}"));
    }
    let queues: BTreeSet<&str> = view.queues.iter().map(|found| found.name.as_str()).collect();
    let bindings: BTreeSet<(String, String, String)> = view
        .bindings
        .iter()
        .map(|found| (found.queue.clone(), found.exchange.clone(), found.routing_key.clone()))
        .collect();
    let exchange_bindings: BTreeSet<(String, String, String)> = view
        .exchange_bindings
        .iter()
        .map(|found| (found.destination.clone(), found.source.clone(), found.routing_key.clone()))
        .collect();
    let same = |wanted: &Topology| {
        wanted.exchanges == exchanges
            && wanted.exchange_bindings == exchange_bindings
            && wanted.bindings == bindings
            && wanted.queues.keys().map(String::as_str).eq(queues.iter().copied())
    };
    let doubtful = model.doubtful.take();
    if same(&model.topology) {
        return Ok(());
    }
    match doubtful {
        Some(next) if same(&next) => {
            model.topology = next;
            Ok(())
        }
        other => Err(format!(
            "exchanges {exchanges:?}, queues {queues:?}, bindings {bindings:?}, of exchanges {exchange_bindings:?}; expected were {:?}{}",
            model.topology,
            other.map(|next| format!(" or {next:?}")).unwrap_or_default(),
        )),
    }
}

/// Takes note of all dead letters, before the queue is looked at that they left (J7).
fn see_letters(engine: &Engine, model: &mut Model) -> Result<(), String> {
    if !model.topology.queues.contains_key(LETTERS) {
        return Ok(());
    }
    for message in engine.browse(LETTERS).map_err(|error| error.to_string())? {
        let message = message.map_err(|error| error.to_string())?;
        let letter = model.recognise_in(LETTERS, &message.payload)?;
        model.seen_letter(letter, message.offset.0)?;
    }
    Ok(())
}

/// Compares one queue; returns how many messages it holds.
fn compare_queue(
    engine: &Engine,
    model: &mut Model,
    name: &str,
    queue: QueueId,
    end: u64,
    findings: &mut Findings,
) -> Result<u64, String> {
    let found = browse(engine, model, name, findings)?;
    if model.queues[queue].lax {
        // Order and bytes were looked at; what it had to get is not known.
        return Ok(found.len() as u64);
    }
    let unacked = found.iter().filter(|(_, acked)| !**acked).map(|(id, _)| *id).collect();
    model.settle_bring(queue, &unacked)?;
    if let Some(id) = found.keys().find(|id| !model.queues[queue].entries.contains_key(id)) {
        return Err(format!("message {id} was never stored for it, or was refused"));
    }
    let fates: Vec<Fate> = model.sent.iter().map(|sent| sent.fate).collect();
    for (id, entry) in &mut model.queues[queue].entries {
        let stored = matches!(fates[*id], Fate::Confirmed(offset) if offset < end);
        let mortal = model.sent[*id].letter.is_some() && stored;
        let may_have_left = match entry.acked {
            Acked::No => model.sent[*id].may_be_over,
            Acked::Asked => model.rejected.contains(id),
            Acked::Durable => false,
        };
        match (found.get(id), entry.acked) {
            (None | Some(true), _) if mortal && may_have_left => {
                return Err(format!("message {id} left its queue and is no dead letter"));
            }
            (Some(false), Acked::Durable) => {
                return Err(format!("message {id} is back, though durably acked"));
            }
            (Some(true), Acked::No) => {
                return Err(format!("message {id} is acked, though by nobody"));
            }
            (Some(false), Acked::No | Acked::Asked) => entry.acked = Acked::No,
            (Some(true), Acked::Asked | Acked::Durable) => entry.acked = Acked::Durable,
            (None, Acked::No) => {
                findings.absent.insert(*id);
            }
            (None, Acked::Asked | Acked::Durable) => {
                if stored {
                    entry.acked = Acked::Durable;
                } else {
                    findings.absent.insert(*id);
                }
            }
        }
        entry.in_hands = false;
    }
    let left: Vec<Id> = found.iter().filter(|(_, acked)| !**acked).map(|(id, _)| *id).collect();
    let bytes: u64 = left.iter().map(|id| model.sent[*id].bytes as u64).sum();
    let view = engine.queue(name).map_err(|error| error.to_string())?;
    let same_bytes = view.bytes == bytes || model.misread;
    if view.messages != left.len() as u64 || !same_bytes {
        return Err(format!(
            "it says {} messages of {} bytes, browsing found {} of {bytes}",
            view.messages,
            view.bytes,
            left.len(),
        ));
    }
    if let Some(id) = left.iter().find(|id| findings.present[id] < view.ack_floor.0) {
        return Err(format!("message {id} is below the ack floor and not acked"));
    }
    Ok(view.messages)
}

/// Every message that the queue shows: whether it is acked, by number.
fn browse(
    engine: &Engine,
    model: &Model,
    name: &str,
    findings: &mut Findings,
) -> Result<BTreeMap<Id, bool>, String> {
    let mut found = BTreeMap::new();
    let mut last: BTreeMap<usize, Id> = BTreeMap::new();
    let mut offset = None;
    for message in engine.browse(name).map_err(|error| error.to_string())? {
        let message = message.map_err(|error| error.to_string())?;
        if let Some(damage) = message.damage {
            return Err(format!("offset {} is damaged: {damage:?}", message.offset));
        }
        let id = model.recognise_in(name, &message.payload)?;
        let here = message.offset.0;
        if offset.replace(here).is_some_and(|before| before >= here) {
            return Err(format!("offset {here} out of order"));
        }
        if model.sent[id].key.as_bytes() != message.routing_key {
            return Err(format!("message {id} has another routing key"));
        }
        if matches!(model.sent[id].fate, Fate::Confirmed(offset) if offset != here) {
            let fate = model.sent[id].fate;
            return Err(format!("message {id} is at offset {here}, its fate was {fate:?}"));
        }
        if findings.present.insert(id, here).is_some_and(|other| other != here) {
            return Err(format!("message {id} is at offset {here} and at another"));
        }
        if found.insert(id, message.acked).is_some() {
            return Err(format!("message {id} is there twice"));
        }
        let publisher = model.sent[id].publisher;
        if last.insert(publisher, id).is_some_and(|before| before > id) {
            return Err(format!("message {id} comes after a later one of its publisher"));
        }
    }
    Ok(found)
}

/// Of each transaction in doubt all took place, or nothing (J6).
fn settle_transactions(model: &mut Model, findings: &Findings) -> Result<(), String> {
    for doubt in std::mem::take(&mut model.transactions) {
        let stored = doubt.messages.iter().filter_map(|id| {
            let there = findings.present.contains_key(id);
            (there || findings.absent.contains(id)).then_some(there)
        });
        let queues = &model.topology.queues;
        let acked = doubt.acks.iter().filter_map(|(queue, id)| {
            let kept = queues.values().any(|kept| kept == queue) && !model.queues[*queue].lax;
            let entry = model.queues[*queue].entries.get(id).filter(|_| kept)?;
            (!findings.absent.contains(id)).then_some(entry.acked == Acked::Durable)
        });
        let outcomes: BTreeSet<bool> = stored.chain(acked).collect();
        if outcomes.len() > 1 {
            return Err(format!("of a transaction there is some and not all: {doubt:?}"));
        }
    }
    Ok(())
}

/// Decides what became of each message, and whether that may be (J1, J3).
fn settle_fates(
    model: &mut Model,
    findings: &Findings,
    bounds: Bounds,
    end: u64,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut lost_of: BTreeMap<usize, Id> = BTreeMap::new();
    for &id in &findings.absent {
        if findings.present.contains_key(&id) {
            return Err(format!("message {id} is in one of its queues and not in another"));
        }
        let sent = &model.sent[id];
        if let Fate::Confirmed(offset) = sent.fate {
            let must =
                bounds.everything || !sent.buffered || offset < bounds.durable || offset < end;
            if must {
                return Err(format!(
                    "message {id}, confirmed at offset {offset}, is lost ({bounds:?}, the log ends at {end})"
                ));
            }
        }
        lost_of.entry(sent.publisher).or_insert(id);
    }
    for (&id, &offset) in &findings.present {
        let publisher = model.sent[id].publisher;
        if let Some(lost) = lost_of.get(&publisher).filter(|lost| **lost < id) {
            return Err(format!("message {id} is there, {lost} before it is lost: a hole"));
        }
        if offset >= end {
            return Err(format!("message {id} is at offset {offset}, past the end {end}"));
        }
        if model.sent[id].fate == Fate::Lost {
            return Err(format!("message {id} is there and was never accepted"));
        }
        seen.doubtful_kept += u64::from(model.sent[id].fate == Fate::Pending);
        model.sent[id].fate = Fate::Confirmed(offset);
    }
    for id in 0..model.sent.len() {
        let unseen = model.sent[id].fate == Fate::Pending && !findings.present.contains_key(&id);
        if unseen || findings.absent.contains(&id) {
            seen.lost += 1;
            model.lost(id);
        }
    }
    Ok(())
}
