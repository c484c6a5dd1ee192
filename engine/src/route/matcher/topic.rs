//! Topic patterns as a tree of words.
//!
//! Every pattern is a path from the root: a step for each word, for `*` and for `#`. A key is matched
//! by walking all paths at once, word by word. So what it costs depends on how many paths go along
//! with the key, not on how many patterns there are; and however often `#` stands in them, no place of
//! the tree is looked at more than once for a word.
//!
//! T1. A node other than the root has rules or children.

use std::collections::HashMap;

const ROOT: u32 = 0;

#[derive(Debug, Default)]
struct Node {
    words: HashMap<Box<str>, u32>,
    /// 0, the root, stands for none: no step leads to the root.
    star: u32,
    hash: u32,
    rules: Vec<u32>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.star == ROOT && self.hash == ROOT && self.rules.is_empty()
    }
}

/// The patterns of one exchange.
#[derive(Debug)]
pub(in crate::route) struct Patterns {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new() }
    }
}

/// The words of a key or pattern. The empty one has none.
fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').take(if key.is_empty() { 0 } else { usize::MAX })
}

impl Patterns {
    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// Where a step of a pattern leads.
    fn step(&self, from: u32, word: &str) -> Option<u32> {
        let node = self.node(from);
        match word {
            "*" => Some(node.star).filter(|&to| to != ROOT),
            "#" => Some(node.hash).filter(|&to| to != ROOT),
            word => node.words.get(word).copied(),
        }
    }

    fn set_step(&mut self, from: u32, word: &str, to: Option<u32>) {
        let node = self.node_mut(from);
        match (word, to) {
            ("*", to) => node.star = to.unwrap_or(ROOT),
            ("#", to) => node.hash = to.unwrap_or(ROOT),
            (word, Some(to)) => drop(node.words.insert(word.into(), to)),
            (word, None) => drop(node.words.remove(word)),
        }
    }

    pub(super) fn add(&mut self, pattern: &str, rule: u32) {
        let mut at = ROOT;
        for word in words(pattern) {
            at = match self.step(at, word) {
                Some(to) => to,
                None => self.grow(at, word),
            };
        }
        self.node_mut(at).rules.push(rule);
    }

    fn grow(&mut self, from: u32, word: &str) -> u32 {
        let to = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("there are fewer nodes than bytes of memory")
        });
        self.set_step(from, word, Some(to));
        to
    }

    pub(super) fn remove(&mut self, pattern: &str, rule: u32) {
        let mut path = vec![(ROOT, "")];
        for word in words(pattern) {
            let (from, _) = path[path.len() - 1];
            let Some(to) = self.step(from, word) else { return };
            path.push((to, word));
        }
        if let Some(&(last, _)) = path.last() {
            self.node_mut(last).rules.retain(|&other| other != rule);
        }
        while let [.., (parent, _), (node, word)] = *path {
            if !self.node(node).is_empty() {
                return;
            }
            self.set_step(parent, word, None);
            *self.node_mut(node) = Node::default();
            self.free.push(node);
            path.pop();
        }
    }

    /// Appends the rules of all patterns that match the key, each once.
    pub(super) fn matches(&self, key: &str, out: &mut Vec<u32>) {
        // Reached by a word or a `*`: by the last word of the key so far, and no longer then.
        let mut reached = vec![ROOT];
        // Reached by a `#`: it takes every further word, so they stay.
        let mut open = Vec::new();
        self.open_behind(ROOT, &mut open);
        for word in words(key) {
            let mut next = Vec::new();
            for &from in reached.iter().chain(&open) {
                let node = self.node(from);
                next.extend(node.words.get(word));
                next.extend(Some(node.star).filter(|&to| to != ROOT));
            }
            for &node in &next {
                self.open_behind(node, &mut open);
            }
            open.sort_unstable();
            open.dedup();
            reached = next;
        }
        for &node in reached.iter().chain(&open) {
            out.extend(&self.node(node).rules);
        }
    }

    /// A `#` behind a node may stand for no word at all.
    fn open_behind(&self, node: u32, open: &mut Vec<u32>) {
        let mut hash = self.node(node).hash;
        while hash != ROOT {
            open.push(hash);
            hash = self.node(hash).hash;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a pattern means, word by word.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], key) => key.is_empty(),
            (["#", rest @ ..], key) => (0..=key.len()).any(|taken| matches(rest, &key[taken..])),
            (["*", rest @ ..], [_, key @ ..]) => matches(rest, key),
            ([word, rest @ ..], [first, key @ ..]) => word == first && matches(rest, key),
            _ => false,
        }
    }

    #[track_caller]
    fn check(patterns: &[&str], key: &str, expected: &[&str]) {
        let mut tree = Patterns::default();
        for (rule, pattern) in (0..).zip(patterns) {
            tree.add(pattern, rule);
        }
        let mut found = Vec::new();
        tree.matches(key, &mut found);
        let mut found: Vec<&str> = found.iter().map(|&rule| patterns[rule as usize]).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{key:?}");
    }

    #[test]
    fn a_star_is_one_word_and_a_hash_any_number_wherever_it_stands() {
        let patterns = ["a.*.c", "a.#", "#", "#.c", "a.#.c", "*", "a.b.c", "a.*", "#.b.#", "b.#"];
        check(&patterns, "a.b.c", &["#", "#.b.#", "#.c", "a.#", "a.#.c", "a.*.c", "a.b.c"]);
        check(&patterns, "a.c", &["#", "#.c", "a.#", "a.#.c", "a.*"]);
        check(&patterns, "a", &["#", "*", "a.#"]);
        check(&patterns, "b", &["#", "#.b.#", "*", "b.#"]);
    }

    #[test]
    fn the_empty_key_has_no_word_and_between_dots_stand_empty_words() {
        let patterns = ["", "#", "*", "*.*", "a.*", ".", "a.", "#.*"];
        check(&patterns, "", &["", "#"]);
        check(&patterns, "a.", &["#", "#.*", "*.*", "a.", "a.*"]);
        check(&patterns, ".", &["#", "#.*", "*.*", "."]);
    }

    #[test]
    fn a_key_against_many_hashes_is_looked_at_once_for_each_word_and_place() {
        // One after the other, 120 words in all ways between 40 hashes would not end.
        let pattern = ["#.x"; 40].join(".");
        let mut tree = Patterns::default();
        tree.add(&pattern, 7);
        let mut found = Vec::new();
        tree.matches(&["x"; 120].join("."), &mut found);
        assert_eq!(found, [7]);
        tree.matches(&["y"; 120].join("."), &mut found);
        assert_eq!(found, [7]);
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut tree = Patterns::default();
        for round in 0..100 {
            tree.add("a.*.#.b", round);
            tree.add("a.*", round);
            tree.remove("a.*.#.b", round);
            tree.remove("a.*", round);
        }
        assert!(tree.nodes.len() <= 5 && tree.nodes.iter().all(Node::is_empty));
        assert_eq!(tree.free.len(), tree.nodes.len() - 1);
    }

    fn some_words() -> impl Strategy<Value = String> {
        let word = prop_oneof![Just("a"), Just("b"), Just("#"), Just("*"), Just("")];
        prop::collection::vec(word, 0..6).prop_map(|words| words.join("."))
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_plain_matcher_finds(
            patterns in prop::collection::vec(some_words(), 0..30),
            removed in prop::collection::vec(any::<bool>(), 30),
            keys in prop::collection::vec(some_words(), 1..10),
        ) {
            let mut tree = Patterns::default();
            for (rule, pattern) in (0..).zip(&patterns) {
                tree.add(pattern, rule);
            }
            for (rule, pattern) in (0..).zip(&patterns).filter(|&(rule, _)| removed[rule as usize]) {
                tree.remove(pattern, rule);
            }
            for key in &keys {
                let mut found = Vec::new();
                tree.matches(key, &mut found);
                found.sort_unstable();
                let split = |text| words(text).collect::<Vec<_>>();
                let expected: Vec<u32> = (0..)
                    .zip(&patterns)
                    .filter(|&(rule, pattern): &(u32, _)| {
                        !removed[rule as usize] && matches(&split(pattern), &split(key))
                    })
                    .map(|(rule, _)| rule)
                    .collect();
                prop_assert_eq!(found, expected, "{}", key);
            }
        }
    }
}
