//! Which rules of an exchange match a message. Rules are numbers here: what they lead to is not known.
//!
//! What matching costs does not grow with the number of rules: a look-up for a direct exchange, a walk
//! along the key's words for a topic exchange. Of a headers exchange each rule is looked at.

pub(super) mod headers;
mod topic;

use std::{collections::HashMap, sync::Arc};

use fanlog_segment_format::table::TableRef;

use self::{headers::HeaderRules, topic::Patterns};
use super::{ExchangeKind, rules::Rule};

/// The rules of one exchange.
#[derive(Debug)]
pub(super) enum Matcher {
    /// All of them match.
    Fanout(Vec<u32>),
    /// By key.
    Direct(HashMap<Box<str>, Vec<u32>>),
    /// By pattern.
    Topic(Patterns),
    /// By headers.
    Headers(HeaderRules),
}

impl Matcher {
    pub(super) fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Fanout => Self::Fanout(Vec::new()),
            ExchangeKind::Direct => Self::Direct(HashMap::new()),
            ExchangeKind::Topic => Self::Topic(Patterns::default()),
            ExchangeKind::Headers => Self::Headers(HeaderRules::default()),
        }
    }

    /// Adds a rule that was not there.
    pub(super) fn add(&mut self, rule: &Arc<Rule>, at: u32) {
        match self {
            Self::Fanout(rules) => rules.push(at),
            Self::Direct(keys) => keys.entry(rule.key.clone()).or_insert_with(few).push(at),
            Self::Topic(patterns) => patterns.add(&rule.key, at),
            Self::Headers(rules) => rules.add(rule, at),
        }
    }

    /// Removes a rule that was added.
    pub(super) fn remove(&mut self, rule: &Rule, at: u32) {
        match self {
            Self::Fanout(rules) => rules.retain(|&other| other != at),
            Self::Direct(keys) => {
                let Some(rules) = keys.get_mut(&rule.key) else { return };
                rules.retain(|&other| other != at);
                if rules.is_empty() {
                    keys.remove(&rule.key);
                }
            }
            Self::Topic(patterns) => patterns.remove(&rule.key, at),
            Self::Headers(rules) => rules.remove(at),
        }
    }

    /// Appends the rules that match, each once. Headers are needed by a headers exchange alone.
    pub(super) fn matches(&self, key: &str, headers: TableRef<'_>, out: &mut Vec<u32>) {
        match self {
            Self::Fanout(rules) => out.extend(rules),
            Self::Direct(keys) => out.extend(keys.get(key).into_iter().flatten()),
            Self::Topic(patterns) => patterns.matches(key, out),
            Self::Headers(rules) => rules.matches(headers, out),
        }
    }
}

/// Most keys have one rule.
fn few() -> Vec<u32> {
    Vec::with_capacity(1)
}
