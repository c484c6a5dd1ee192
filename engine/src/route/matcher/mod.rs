//! Which rules of an exchange match a message. Rules are numbers here: what they lead to is not known.
//!
//! What matching costs does not grow with the number of rules: a look-up for a direct exchange, a walk
//! along the key's words for a topic exchange.

mod topic;

use std::collections::HashMap;

pub(super) use self::topic::Patterns;
use super::ExchangeKind;

/// The rules of one exchange.
#[derive(Debug)]
pub(super) enum Matcher {
    /// All of them match.
    Fanout(Vec<u32>),
    /// By key.
    Direct(HashMap<Box<str>, Vec<u32>>),
    /// By pattern.
    Topic(Patterns),
}

impl Matcher {
    pub(super) fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Fanout => Self::Fanout(Vec::new()),
            ExchangeKind::Direct => Self::Direct(HashMap::new()),
            ExchangeKind::Topic => Self::Topic(Patterns::default()),
        }
    }

    /// Adds a rule that was not there.
    pub(super) fn add(&mut self, key: &str, rule: u32) {
        match self {
            Self::Fanout(rules) => rules.push(rule),
            Self::Direct(keys) => keys.entry(key.into()).or_insert_with(few).push(rule),
            Self::Topic(patterns) => patterns.add(key, rule),
        }
    }

    /// Removes a rule that was added with this key.
    pub(super) fn remove(&mut self, key: &str, rule: u32) {
        match self {
            Self::Fanout(rules) => rules.retain(|&other| other != rule),
            Self::Direct(keys) => {
                let Some(rules) = keys.get_mut(key) else { return };
                rules.retain(|&other| other != rule);
                if rules.is_empty() {
                    keys.remove(key);
                }
            }
            Self::Topic(patterns) => patterns.remove(key, rule),
        }
    }

    /// Appends the rules that match, each once.
    pub(super) fn matches(&self, key: &str, out: &mut Vec<u32>) {
        match self {
            Self::Fanout(rules) => out.extend(rules),
            Self::Direct(keys) => out.extend(keys.get(key).into_iter().flatten()),
            Self::Topic(patterns) => patterns.matches(key, out),
        }
    }
}

/// Most keys have one rule.
fn few() -> Vec<u32> {
    Vec::with_capacity(1)
}
