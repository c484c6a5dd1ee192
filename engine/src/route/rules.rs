//! The rules of one exchange: what its bindings match, and to whom they lead.
//!
//! Bindings with the same key and the same arguments share a rule. Its queues are a binding group,
//! which exists as long as there is one.

use std::{collections::HashMap, sync::Arc};

use fanlog_segment_format::{
    ExchangeId, GroupId,
    table::{Table, TableRef},
};

use super::{ExchangeKind, matcher::Matcher};

/// What tells the bindings of one exchange to one destination apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) key: Box<str>,
    /// In order of their keys, each once.
    pub(super) arguments: Table,
}

impl Rule {
    /// A rule with these arguments, in whichever order they are given.
    pub(super) fn new(key: &str, arguments: &Table) -> Self {
        let mut sorted: Vec<_> = arguments.iter().collect();
        // Of several with one key the first counts: the sort is stable.
        sorted.sort_by_key(|(key, _)| *key);
        sorted.dedup_by_key(|(key, _)| *key);
        let mut arguments = Table::new();
        for (key, value) in sorted {
            arguments.push(key, value);
        }
        Self { key: key.into(), arguments }
    }
}

/// A rule and to whom it leads.
#[derive(Debug)]
struct Bound {
    rule: Arc<Rule>,
    group: Option<GroupId>,
    exchanges: Vec<ExchangeId>,
}

/// The rules of one exchange that lead to anything.
#[derive(Debug)]
pub(super) struct Rules {
    matcher: Matcher,
    by_rule: HashMap<Arc<Rule>, u32>,
    bound: Vec<Option<Bound>>,
    free: Vec<u32>,
}

impl Rules {
    pub(super) fn new(kind: ExchangeKind) -> Self {
        let matcher = Matcher::new(kind);
        Self { matcher, by_rule: HashMap::new(), bound: Vec::new(), free: Vec::new() }
    }

    fn get(&self, rule: &Rule) -> Option<&Bound> {
        self.bound.get(*self.by_rule.get(rule)? as usize)?.as_ref()
    }

    /// Whether nothing is bound.
    pub(super) fn is_empty(&self) -> bool {
        self.by_rule.is_empty()
    }

    /// The group of the queues that are bound by a rule.
    pub(super) fn group(&self, rule: &Rule) -> Option<GroupId> {
        self.get(rule)?.group
    }

    /// Every rule with its group and exchanges.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<Rule>, Option<GroupId>, &[ExchangeId])> {
        let bound = self.bound.iter().flatten();
        bound.map(|bound| (&bound.rule, bound.group, &*bound.exchanges))
    }

    /// Says whose group the queues bound by a rule are, or that there are none.
    pub(super) fn set_group(&mut self, rule: &Arc<Rule>, group: Option<GroupId>) {
        self.change(rule, |bound| bound.group = group);
    }

    /// Leads a rule to an exchange as well.
    pub(super) fn link(&mut self, rule: &Arc<Rule>, exchange: ExchangeId) {
        self.change(rule, |bound| bound.exchanges.push(exchange));
    }

    /// Undoes `link`.
    pub(super) fn unlink(&mut self, rule: &Arc<Rule>, exchange: ExchangeId) {
        self.change(rule, |bound| bound.exchanges.retain(|&other| other != exchange));
    }

    fn change(&mut self, rule: &Arc<Rule>, change: impl FnOnce(&mut Bound)) {
        let at = self.by_rule.get(rule).copied().unwrap_or_else(|| self.add(rule));
        let Some(bound) = &mut self.bound[at as usize] else { return };
        change(bound);
        if bound.group.is_none() && bound.exchanges.is_empty() {
            self.by_rule.remove(rule);
            self.matcher.remove(rule, at);
            self.bound[at as usize] = None;
            self.free.push(at);
        }
    }

    fn add(&mut self, rule: &Arc<Rule>) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.bound.push(None);
            u32::try_from(self.bound.len() - 1).expect("there are fewer rules than group ids")
        });
        self.bound[at as usize] =
            Some(Bound { rule: Arc::clone(rule), group: None, exchanges: Vec::new() });
        self.by_rule.insert(Arc::clone(rule), at);
        self.matcher.add(rule, at);
        at
    }

    /// The groups and exchanges that a message goes to.
    pub(super) fn matches(
        &self,
        key: &str,
        headers: TableRef<'_>,
        groups: &mut Vec<GroupId>,
        exchanges: &mut Vec<ExchangeId>,
    ) {
        let mut rules = Vec::new();
        self.matcher.matches(key, headers, &mut rules);
        for bound in rules.iter().filter_map(|&at| self.bound[at as usize].as_ref()) {
            groups.extend(bound.group);
            exchanges.extend(&bound.exchanges);
        }
    }
}
