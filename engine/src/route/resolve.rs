//! Which binding groups a message goes to, through however many exchanges.

use std::collections::HashSet;

use fanlog_segment_format::{
    ExchangeId, GroupId, QueueId, layout::ROUTE_GROUPS_MAX, table::TableRef,
};

use super::{DEFAULT_EXCHANGE, ExchangeKind, Tables, not_found, refused};
use crate::{Error, Result, copies, message::within};

/// Where a message goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// The exchange that it was published to.
    pub(crate) exchange: ExchangeId,
    /// The groups whose queues get it; strictly increasing, and none of them is without a queue.
    pub(crate) groups: Vec<GroupId>,
    /// Its headers were looked at, or have keys: another message with its key may go elsewhere.
    pub(crate) by_headers: bool,
}

/// A message on its way through exchanges.
struct Passing<'a> {
    /// Its own, and those that its sender chose beside it.
    key: &'a str,
    more: Vec<&'a str>,
    headers: &'a [u8],
    /// Headers that were looked at.
    table: Option<TableRef<'a>>,
    groups: Vec<GroupId>,
    /// Exchanges that it is led to by the one that it is at.
    led: Vec<ExchangeId>,
}

impl Tables {
    /// The groups that a message goes to: none if no queue would get it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such exchange; [`Error::Headers`] if it comes to a headers
    /// exchange and has no valid headers; [`Error::TooLarge`] if it would go to more groups than a
    /// route can have.
    pub(crate) fn matched(&self, exchange: &str, key: &str, headers: &[u8]) -> Result<Matched> {
        let entered = self.exchange_id(exchange)?;
        let (groups, led) = (Vec::new(), Vec::new());
        let more = copies::keys_of(headers);
        let mut passing = Passing { key, more, headers, table: None, groups, led };
        self.pass(entered, &mut passing)?;
        let Passing { mut groups, table, more, .. } = passing;
        groups.sort_unstable();
        groups.dedup();
        within("route", groups.len(), ROUTE_GROUPS_MAX)?;
        Ok(Matched { exchange: entered, groups, by_headers: table.is_some() || !more.is_empty() })
    }

    /// Checks that messages may be published to an exchange from outside.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it is internal, [`Error::NotFound`].
    pub(crate) fn check_open(&self, exchange: &str) -> Result<()> {
        let found = self.exchanges.get(&self.exchange_id(exchange)?);
        if found.is_some_and(|found| found.options().internal) {
            let why = "it is internal: only other exchanges lead to it";
            return Err(refused(&format!("publish to exchange {exchange:?}"), why));
        }
        Ok(())
    }

    /// The same without some queues: where a group has one of them the others' own groups stand for
    /// it.
    pub(crate) fn without(&self, matched: Matched, queues: &[QueueId]) -> Result<Matched> {
        let own = |id: &QueueId| self.queues.get(id).map(|queue| queue.own);
        let gone: HashSet<GroupId> = queues.iter().filter_map(own).collect();
        let mut groups = Vec::with_capacity(matched.groups.len());
        for group in matched.groups {
            match self.groups.get(&group) {
                Some(found) if queues.iter().any(|queue| found.members.contains(queue)) => {
                    let members = found.members.iter().filter(|&id| !queues.contains(id));
                    groups.extend(members.filter_map(own));
                }
                _ if gone.contains(&group) => {}
                _ => groups.push(group),
            }
        }
        groups.sort_unstable();
        groups.dedup();
        within("route", groups.len(), ROUTE_GROUPS_MAX)?;
        Ok(Matched { groups, ..matched })
    }

    /// Passes a message through an exchange and all those that it leads to, each once.
    fn pass(&self, entered: ExchangeId, passing: &mut Passing<'_>) -> Result<()> {
        let mut next = vec![entered];
        let mut seen = HashSet::from([entered]);
        while let Some(at) = next.pop() {
            self.pass_one(at, passing)?;
            next.extend(passing.led.drain(..).filter(|&exchange| seen.insert(exchange)));
        }
        Ok(())
    }

    fn pass_one(&self, at: ExchangeId, passing: &mut Passing<'_>) -> Result<()> {
        let groups = passing.groups.len();
        if at == DEFAULT_EXCHANGE {
            for key in [passing.key].iter().chain(&passing.more) {
                let queue = self.queue_ids.get(*key).and_then(|id| self.queues.get(id));
                passing.groups.extend(queue.map(|queue| queue.own));
            }
            return Ok(());
        }
        let Some(exchange) = self.exchanges.get(&at) else { return Ok(()) };
        let headers = match exchange.kind {
            ExchangeKind::Headers => passing.table()?,
            _ => TableRef::default(),
        };
        let Passing { key, more, groups: found, led, .. } = passing;
        for key in [*key].iter().chain(&*more) {
            exchange.rules.matches(key, headers, found, led);
        }
        if passing.groups.len() == groups
            && passing.led.is_empty()
            && let Some(alternate) = &exchange.options().alternate
        {
            passing.led.extend(self.exchange_id(alternate));
        }
        passing.groups.extend(exchange.history.map(|(_, group)| group));
        Ok(())
    }

    /// The id of an exchange, the default one's too.
    pub(super) fn exchange_id(&self, name: &str) -> Result<ExchangeId> {
        if name.is_empty() {
            return Ok(DEFAULT_EXCHANGE);
        }
        self.exchange_ids.get(name).copied().ok_or_else(|| not_found("exchange", name))
    }
}

impl<'a> Passing<'a> {
    fn table(&mut self) -> Result<TableRef<'a>> {
        if let Some(table) = self.table {
            return Ok(table);
        }
        let table = TableRef::new(self.headers).map_err(|source| Error::Headers { source })?;
        self.table = Some(table);
        Ok(table)
    }
}

/// Says that no queue would get a message.
pub(crate) fn unroutable(exchange: &str, key: &str) -> Error {
    Error::Unroutable { exchange: exchange.to_owned(), routing_key: key.to_owned() }
}
