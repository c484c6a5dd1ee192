//! Rules over a message's headers.

use std::{collections::BTreeMap, sync::Arc};

use fanlog_segment_format::table::{Table, TableRef, Value};

use crate::{Error, Result, route::rules::Rule};

const MATCH: &str = "x-match";

/// How a rule is meant: what its argument `x-match` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meaning {
    /// One that is found is enough; else all have to be.
    any: bool,
    /// Arguments whose name begins with `x-` count like the others.
    with_x: bool,
}

impl Meaning {
    fn of(arguments: &Table) -> Option<Self> {
        let (any, with_x) = match arguments.get(MATCH) {
            None => (false, false),
            Some(value) => match value.as_text()? {
                "all" => (false, false),
                "any" => (true, false),
                "all-with-x" => (false, true),
                "any-with-x" => (true, true),
                _ => return None,
            },
        };
        Some(Self { any, with_x })
    }
}

/// Checks the arguments of a binding to a headers exchange.
///
/// # Errors
///
/// [`Error::Argument`] if `x-match` is none of the four.
pub(in crate::route) fn check(arguments: &Table) -> Result<()> {
    if Meaning::of(arguments).is_some() {
        return Ok(());
    }
    let found = arguments.get(MATCH).unwrap_or_default();
    Err(Error::Argument {
        argument: MATCH.to_owned(),
        found: found.as_text().map_or_else(|| format!("{found:?}"), str::to_owned),
        allowed: "all, any, all-with-x or any-with-x".to_owned(),
    })
}

/// The rules of one exchange. Each is looked at for each message.
#[derive(Debug, Default)]
pub(in crate::route) struct HeaderRules {
    rules: BTreeMap<u32, (Meaning, Arc<Rule>)>,
}

impl HeaderRules {
    pub(super) fn add(&mut self, rule: &Arc<Rule>, at: u32) {
        // Checked when it was bound; one that was stored otherwise matches nothing.
        let meaning = Meaning::of(&rule.arguments).unwrap_or(Meaning { any: true, with_x: false });
        self.rules.insert(at, (meaning, Arc::clone(rule)));
    }

    pub(super) fn remove(&mut self, at: u32) {
        self.rules.remove(&at);
    }

    pub(super) fn matches(&self, headers: TableRef<'_>, out: &mut Vec<u32>) {
        let matching = self
            .rules
            .iter()
            .filter(|(_, (meaning, rule))| matches(*meaning, rule.arguments.as_ref(), headers));
        out.extend(matching.map(|(at, _)| at));
    }
}

fn matches(meaning: Meaning, wanted: TableRef<'_>, headers: TableRef<'_>) -> bool {
    let mut counting = wanted
        .iter()
        .filter(|(key, _)| *key != MATCH && (meaning.with_x || !key.starts_with("x-")));
    let found = |(key, wanted): (&str, Value<'_>)| {
        headers.get(key).is_some_and(|found| same(wanted, found))
    };
    if meaning.any { counting.any(found) } else { counting.all(found) }
}

/// Whether a header is what is wanted: whole numbers are of one type whatever their size, and so are
/// fractions; no value means that the header has to be there.
fn same(wanted: Value<'_>, found: Value<'_>) -> bool {
    if wanted == Value::Void {
        return true;
    }
    if let (Some(wanted), Some(found)) = (wanted.as_integer(), found.as_integer()) {
        return wanted == found;
    }
    if let (Some(wanted), Some(found)) = (fraction(wanted), fraction(found)) {
        return wanted.to_bits() == found.to_bits();
    }
    wanted == found
}

fn fraction(value: Value<'_>) -> Option<f64> {
    match value {
        Value::F32(value) => Some(value.into()),
        Value::F64(value) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(binding: &Table, headers: &Table, expected: bool) {
        let meaning = Meaning::of(binding).unwrap();
        assert_eq!(matches(meaning, binding.as_ref(), headers.as_ref()), expected);
    }

    fn with(x_match: &str) -> Table {
        Table::new().with(MATCH, x_match)
    }

    #[test]
    fn all_and_any_mean_what_they_say_and_all_is_the_default() {
        let headers = Table::new().with("a", 1).with("b", "x");
        for all in [Table::new(), with("all")] {
            check(&all, &headers, true);
            check(&all.clone().with("a", 1).with("b", "x"), &headers, true);
            check(&all.with("a", 1).with("c", "x"), &headers, false);
        }
        check(&with("any"), &headers, false);
        check(&with("any").with("a", 1).with("c", "x"), &headers, true);
        check(&with("any").with("a", 2).with("c", "x"), &headers, false);
    }

    #[test]
    fn names_with_x_count_only_where_that_is_asked_for() {
        let headers = Table::new().with("x-a", 1);
        check(&with("all").with("x-a", 2), &headers, true);
        check(&with("all-with-x").with("x-a", 2), &headers, false);
        check(&with("all-with-x").with("x-a", 1), &headers, true);
        check(&with("any").with("x-a", 1), &headers, false);
        check(&with("any-with-x").with("x-a", 1), &headers, true);
    }

    #[test]
    fn type_and_value_have_to_be_the_same_and_no_value_is_any() {
        let headers = Table::new().with("n", 1_i64).with("t", "1").with("f", 1.0).with("b", true);
        check(&Table::new().with("n", 1_i32).with("f", Value::F32(1.0)), &headers, true);
        check(&Table::new().with("n", "1"), &headers, false);
        check(&Table::new().with("t", 1), &headers, false);
        check(&Table::new().with("f", 1), &headers, false);
        check(&Table::new().with("b", true).with("t", Value::Void), &headers, true);
        check(&Table::new().with("none", Value::Void), &headers, false);
    }

    #[test]
    fn an_x_match_that_is_none_of_the_four_is_named() {
        for wrong in [with("some"), Table::new().with(MATCH, 1)] {
            let error = super::check(&wrong).unwrap_err();
            assert!(matches!(&error, Error::Argument { argument, .. } if argument == MATCH));
        }
    }
}
