//! Which binding groups a message goes to, through however many exchanges.

use std::collections::HashSet;

use fanlog_segment_format::{ExchangeId, GroupId, layout::ROUTE_GROUPS_MAX};

use super::{DEFAULT_EXCHANGE, Tables, not_found};
use crate::{Error, Result, message::within};

/// Where a message goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// The exchange that it was published to.
    pub(crate) exchange: ExchangeId,
    /// The groups whose queues get it; strictly increasing, and none of them is without a queue.
    pub(crate) groups: Vec<GroupId>,
}

impl Tables {
    /// The groups that a message goes to: none if no queue would get it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such exchange; [`Error::TooLarge`] if it would go to more
    /// groups than a route can have.
    pub(crate) fn matched(&self, exchange: &str, key: &str) -> Result<Matched> {
        let entered = self.exchange_id(exchange)?;
        let mut groups = Vec::new();
        self.pass(entered, key, &mut groups);
        groups.sort_unstable();
        groups.dedup();
        within("route", groups.len(), ROUTE_GROUPS_MAX)?;
        Ok(Matched { exchange: entered, groups })
    }

    /// Passes a message through an exchange and all those that it leads to, each once.
    fn pass(&self, entered: ExchangeId, key: &str, groups: &mut Vec<GroupId>) {
        let mut next = vec![entered];
        let mut seen = HashSet::from([entered]);
        let mut led = Vec::new();
        while let Some(at) = next.pop() {
            self.pass_one(at, key, groups, &mut led);
            next.extend(led.drain(..).filter(|&exchange| seen.insert(exchange)));
        }
    }

    fn pass_one(
        &self,
        at: ExchangeId,
        key: &str,
        groups: &mut Vec<GroupId>,
        led: &mut Vec<ExchangeId>,
    ) {
        if at == DEFAULT_EXCHANGE {
            let queue = self.queue_ids.get(key).and_then(|id| self.queues.get(id));
            groups.extend(queue.map(|queue| queue.own));
        } else if let Some(exchange) = self.exchanges.get(&at) {
            exchange.rules.matches(key, groups, led);
        }
    }

    /// The id of an exchange, the default one's too.
    pub(super) fn exchange_id(&self, name: &str) -> Result<ExchangeId> {
        if name.is_empty() {
            return Ok(DEFAULT_EXCHANGE);
        }
        self.exchange_ids.get(name).copied().ok_or_else(|| not_found("exchange", name))
    }
}

/// Says that no queue would get a message.
pub(crate) fn unroutable(exchange: &str, key: &str) -> Error {
    Error::Unroutable { exchange: exchange.to_owned(), routing_key: key.to_owned() }
}
