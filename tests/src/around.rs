//! Compares a store that was opened around damage with the model.
//!
//! A1. What is shown is right: its bytes, its queue, its offset, its order, once.
//! A2. What is not shown, and is not acked, is told: its offset is in a gap or said to be damaged, or
//!     a gap says that control records are missing, too.
//! A3. What nobody acked is not called acked; what was acked durably comes again only where control
//!     records are missing.
//! A4. Depths are what can be delivered.

use std::collections::{BTreeMap, BTreeSet};

use fanlog::{ConsumerOptions, Engine, Message};
use std::time::Duration;

use crate::model::{Acked, Fate, Model, QueueId};

/// What the queues show: for each the offsets, and whether they are acked.
pub type Shown = BTreeMap<String, Vec<(u64, bool)>>;

/// What a comparison saw.
#[derive(Debug, Clone, Default)]
pub struct Around {
    /// What is there.
    pub shown: Shown,
    /// Messages that were to be there and are not.
    pub missing: u64,
}

/// Compares (A1 to A4).
///
/// # Errors
///
/// What is wrong, in words.
pub fn compare(engine: &Engine, model: &Model) -> Result<Around, String> {
    let gaps = &engine.recovery().gaps;
    let controls = gaps.iter().any(|gap| gap.controls);
    let mut around = Around::default();
    for view in engine.topology().queues {
        let Some(&queue) = model.topology.queues.get(&view.name) else {
            if controls {
                continue;
            }
            return Err(format!("queue {} should not be there", view.name));
        };
        let problem = |text: String| format!("queue {}: {text}", view.name);
        let (shown, damaged) = browse(engine, model, &view.name, queue).map_err(problem)?;
        let left = shown.values().filter(|(_, acked)| !acked).count() as u64;
        if view.messages != left {
            return Err(problem(format!("it says {}, {left} are shown", view.messages)));
        }
        for (&id, entry) in &model.queues[queue].entries {
            let Fate::Confirmed(offset) = model.sent[id].fate else { continue };
            let told = controls
                || damaged.contains(&offset)
                || gaps.iter().any(|gap| gap.from.0 <= offset && offset < gap.to.0);
            match (shown.get(&offset), entry.acked) {
                (None, Acked::No) if told || model.queues[queue].lax => around.missing += 1,
                (None, Acked::No) => {
                    return Err(problem(format!("offset {offset} is gone without a word")));
                }
                (Some((_, true)), Acked::No) => {
                    return Err(problem(format!("offset {offset} is acked by nobody")));
                }
                (Some((_, false)), Acked::Durable) if !controls => {
                    return Err(problem(format!("offset {offset} is back, though acked")));
                }
                _ => {}
            }
        }
        let list = shown.into_iter().map(|(offset, (_, acked))| (offset, acked)).collect();
        around.shown.insert(view.name.clone(), list);
    }
    for name in model.topology.queues.keys() {
        if !around.shown.contains_key(name) && !controls {
            return Err(format!("queue {name} is gone"));
        }
    }
    let report = engine.check(&mut |_| {}).map_err(|error| format!("check: {error}"))?;
    let miscounted = |text: &str| text.contains("should hold") || text.contains("outstanding");
    match report.problems.into_iter().find(|problem| miscounted(&problem.text)) {
        Some(problem) => Err(problem.text),
        None => Ok(around),
    }
}

type Found = (BTreeMap<u64, (Option<usize>, bool)>, BTreeSet<u64>);

/// What a queue shows by offset, and the offsets that are damaged.
fn browse(engine: &Engine, model: &Model, name: &str, queue: QueueId) -> Result<Found, String> {
    let mut shown = BTreeMap::new();
    let mut damaged = BTreeSet::new();
    for message in engine.browse(name).map_err(|error| error.to_string())? {
        let message = message.map_err(|error| error.to_string())?;
        let offset = message.offset.0;
        if shown.last_key_value().is_some_and(|(last, _)| *last >= offset) {
            return Err(format!("offset {offset} out of order"));
        }
        if message.damage.is_some() {
            damaged.insert(offset);
            shown.insert(offset, (None, message.acked));
            continue;
        }
        let id = model.recognise_in(name, &message.payload)?;
        let fate = model.sent[id].fate;
        if matches!(fate, Fate::Confirmed(confirmed) if confirmed != offset) {
            return Err(format!("message {id} is at offset {offset}, its fate was {fate:?}"));
        }
        if !model.queues[queue].lax && !model.queues[queue].entries.contains_key(&id) {
            return Err(format!("message {id} at offset {offset} is not for it, {fate:?}"));
        }
        shown.insert(offset, (Some(id), message.acked));
    }
    Ok((shown, damaged))
}

/// Takes and acks everything, and publishes again: the store is in working order.
///
/// # Errors
///
/// What is not in order.
pub fn use_up(engine: &Engine, model: &Model, shown: &Shown) -> Result<(), String> {
    let confirmed = model.sent.iter().filter_map(|sent| match sent.fate {
        Fate::Confirmed(offset) => Some(offset),
        Fate::Pending | Fate::Lost => None,
    });
    let highest = confirmed.max();
    for (name, list) in shown {
        let text = |error: fanlog::Error| format!("queue {name}: {error}");
        let consumer = engine.consume(name, ConsumerOptions::prefetch(0)).map_err(text)?;
        let mut wanted = list.iter().filter(|(_, acked)| !acked).map(|(offset, _)| *offset);
        while let Some(delivery) = consumer.recv_timeout(Duration::ZERO).map_err(text)? {
            let offset = delivery.offset().0;
            if wanted.next() != Some(offset) {
                return Err(format!("queue {name}: offset {offset} was not to come now"));
            }
            if delivery.damage().is_none() {
                model.recognise(delivery.payload())?;
            }
            delivery.ack().map_err(text)?;
        }
        if let Some(offset) = wanted.next() {
            return Err(format!("queue {name}: offset {offset} does not come"));
        }
        drop(consumer);
        let new = Message::new("", name, b"published after damage");
        let confirm = engine.publisher().publish_confirmed(&new).map_err(text)?;
        if highest.is_some_and(|highest| confirm.first_offset.0 <= highest) {
            return Err(format!("offset {} is given a second time", confirm.first_offset));
        }
        let depth = engine.queue(name).map_err(text)?.messages;
        if depth != 1 {
            return Err(format!("queue {name}: {depth} messages are left, expected was 1"));
        }
    }
    Ok(())
}
