//! What of the histories of exchanges a queue is to get: which exchanges, by which bindings.

use std::sync::Arc;

use fanlog_segment_format::{ExchangeId, GroupId, QueueId, table::TableRef};

use super::{
    Change, ExchangeKind, Tables, bindings::Asked, matcher::Matcher, not_found, refused,
    rules::Rule,
};
use crate::{Result, copies, gate::Gate};

/// A queue, and the exchanges that keep something for it.
#[derive(Debug)]
pub(crate) struct Rewindable {
    pub(crate) queue: QueueId,
    /// Of a queue that refuses what it has no room for.
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) pasts: Vec<Past>,
}

/// What of the history of one exchange is for a queue.
#[derive(Debug)]
pub(crate) struct Past {
    /// The history.
    pub(crate) history: QueueId,
    /// Its own group: in the routes of all that it has.
    pub(crate) group: GroupId,
    kind: ExchangeKind,
    /// By these bindings the queue is to get it.
    wanted: Matcher,
}

impl Past {
    /// Whether a message's key and headers need not be looked at: it is for the queue.
    pub(crate) fn is_all(&self) -> bool {
        self.kind == ExchangeKind::Fanout
    }

    /// Whether a message is for the queue.
    pub(crate) fn matches(&self, key: &[u8], bytes: &[u8]) -> bool {
        let key = String::from_utf8_lossy(key);
        // A headers exchange took only valid ones.
        let headers = match self.kind {
            ExchangeKind::Headers => TableRef::new(bytes).unwrap_or_default(),
            _ => TableRef::default(),
        };
        let mut found = Vec::new();
        for key in [&*key].into_iter().chain(copies::keys_of(bytes)) {
            self.wanted.matches(key, headers, &mut found);
        }
        !found.is_empty()
    }
}

impl Tables {
    /// What a queue gets that is bound from the past.
    ///
    /// # Errors
    ///
    /// As for the change, which is a binding of a queue; [`Error::Refused`](crate::Error::Refused) if
    /// the exchange keeps no history.
    pub(crate) fn past_of_binding(&self, change: &Change<'_>) -> Result<Rewindable> {
        let Change::BindWith { queue, exchange, routing_key: key, arguments } = *change else {
            return Err(refused("bind from the past", "it is no binding of a queue"));
        };
        let found = self.rule(Asked { exchange, key, arguments }, "bind")?;
        let id = self.queue(queue)?;
        let past = self.past(id, found.exchange, Some(&found.rule)).ok_or_else(|| {
            let why = "the exchange keeps no history";
            refused(&format!("bind of queue {queue:?} to exchange {exchange:?} from the past"), why)
        })?;
        Ok(self.rewindable(id, vec![past]))
    }

    /// What a queue gets that is rewound: of each exchange that it is bound to and that keeps any.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) if none
    /// keeps a history.
    pub(crate) fn past_of_queue(&self, name: &str) -> Result<Rewindable> {
        let id = self.queue(name)?;
        let bound = self.queues.get(&id).ok_or_else(|| not_found("queue", name))?;
        let groups = bound.bound.iter().filter_map(|group| self.groups.get(group));
        let mut exchanges: Vec<ExchangeId> = groups.map(|group| group.exchange).collect();
        exchanges.sort_unstable();
        exchanges.dedup();
        let pasts = exchanges.into_iter().filter_map(|exchange| self.past(id, exchange, None));
        let pasts: Vec<Past> = pasts.collect();
        if pasts.is_empty() {
            let why = "no exchange that it is bound to keeps a history";
            return Err(refused(&format!("rewind of queue {name:?}"), why));
        }
        Ok(self.rewindable(id, pasts))
    }

    fn rewindable(&self, queue: QueueId, mut pasts: Vec<Past>) -> Rewindable {
        pasts.sort_by_key(|past| past.group);
        let gate = self.queues.get(&queue).and_then(|queue| queue.gate.clone());
        Rewindable { queue, gate, pasts }
    }

    /// What of the history of an exchange is for a queue, by one rule or by all that it is bound by.
    fn past(&self, id: QueueId, exchange: ExchangeId, by: Option<&Arc<Rule>>) -> Option<Past> {
        let found = self.exchanges.get(&exchange)?;
        let (history, group) = found.history?;
        let bound = self.queues.get(&id)?.bound.iter().filter_map(|group| self.groups.get(group));
        let bound = bound.filter(|group| group.exchange == exchange).map(|group| &group.rule);
        let mut wanted = Matcher::new(found.kind);
        for (at, rule) in (0..).zip(by.map_or_else(|| bound.collect(), |rule| vec![rule])) {
            wanted.add(rule, at);
        }
        Some(Past { history, group, kind: found.kind, wanted })
    }
}
