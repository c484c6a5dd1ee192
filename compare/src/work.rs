//! The workloads: what is done, which figures come of it, and which way they are good.

use crate::peer::Kind;

/// Messages per publish where consumers take part.
pub(crate) const FANOUT_BATCH: usize = 64;
/// Messages per publish where a backlog is made.
pub(crate) const FILL_BATCH: usize = 1_000;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Durable publishes of so many messages, one after the other.
    Publish(usize),
    /// So many messages unconfirmed at a time.
    Stream(usize),
    /// Publishes of 64; then each of so many consumers takes and acks all, and one call makes the
    /// acks of all durable.
    Fanout(usize),
    /// The same, but each consumer makes its acks durable before the next one begins.
    FanoutAlone(usize),
    /// Opening after a kill, with a backlog.
    Recover,
    /// What a backlog for so many consumers takes on the disk, and what is left of it.
    Disk(usize),
}

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// More is better: compared.
    Higher,
    /// Less is better: compared.
    Lower,
    /// Shown and not compared.
    Shown,
}

/// A figure of a workload, as a probe reports it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// Name in reports, with its unit.
    pub(crate) name: &'static str,
    /// Head of its column.
    pub(crate) head: &'static str,
    /// Which way it is good.
    pub(crate) better: Better,
}

/// What a figure of a workload is related to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw {
    /// Synced writes of 4 KiB.
    Small,
    /// Synced writes of 64 KiB.
    Middle,
    /// Synced writes of 1 MiB, in order.
    Sequential,
}

/// All of them, by the names that options take.
pub(crate) const ALL: &[(&str, Work)] = &[
    ("publish-1", Work::Publish(1)),
    ("publish-64", Work::Publish(64)),
    ("publish-1000", Work::Publish(1_000)),
    ("publish-stream", Work::Stream(1_000)),
    ("fanout-1", Work::Fanout(1)),
    ("fanout-10", Work::Fanout(10)),
    ("fanout-100", Work::Fanout(100)),
    ("fanout-10-alone", Work::FanoutAlone(10)),
    ("recover", Work::Recover),
    ("disk-1", Work::Disk(1)),
    ("disk-10", Work::Disk(10)),
];

const PUBLISHED: Figure = figure("published_per_s", "published/s", Better::Higher);
const DELIVERED: Figure = figure("delivered_per_s", "delivered/s", Better::Shown);
const P50: Figure = figure("call_p50_us", "call p50 us", Better::Shown);
const P99: Figure = figure("call_p99_us", "p99 us", Better::Shown);
const WRITTEN: Figure = figure("written_per_payload_byte", "written / payload", Better::Shown);
const OPEN: Figure = figure("open_ms", "open ms", Better::Shown);
const FIRST: Figure = figure("first_message_ms", "first message ms", Better::Lower);
const MEMORY: Figure = figure("anonymous_mib", "memory MiB", Better::Shown);
const EMPTY: Figure = figure("empty_mib", "empty MiB", Better::Shown);
const BACKLOG: Figure = figure("backlog_mib", "backlog MiB", Better::Lower);
const BACKLOG_PART: Figure = figure("backlog_per_payload_byte", "/ payload", Better::Shown);
const CONSUMED: Figure = figure("consumed_mib", "consumed MiB", Better::Lower);

const fn figure(name: &'static str, head: &'static str, better: Better) -> Figure {
    Figure { name, head, better }
}

impl Work {
    /// The figures that a probe reports.
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Work::Publish(_) => &[PUBLISHED, P50, P99, WRITTEN],
            Work::Stream(_) => &[PUBLISHED, WRITTEN],
            Work::Fanout(_) | Work::FanoutAlone(_) => &[PUBLISHED, DELIVERED, WRITTEN],
            Work::Recover => &[OPEN, FIRST, MEMORY],
            Work::Disk(_) => &[EMPTY, BACKLOG, BACKLOG_PART, CONSUMED],
        }
    }

    /// What the first figure is related to.
    pub(crate) fn raw(self) -> Option<Raw> {
        match self {
            Work::Publish(1) => Some(Raw::Small),
            Work::Publish(batch) if batch < FILL_BATCH => Some(Raw::Middle),
            Work::Publish(_) | Work::Stream(_) => Some(Raw::Sequential),
            Work::Fanout(_) | Work::FanoutAlone(_) => Some(Raw::Middle),
            Work::Recover | Work::Disk(_) => None,
        }
    }

    /// Messages per call.
    pub(crate) fn batch(self) -> usize {
        match self {
            Work::Publish(batch) | Work::Stream(batch) => batch,
            Work::Fanout(_) | Work::FanoutAlone(_) => FANOUT_BATCH,
            Work::Recover | Work::Disk(_) => FILL_BATCH,
        }
    }

    /// Consumers of the store.
    pub(crate) fn consumers(self) -> usize {
        match self {
            Work::Publish(_) | Work::Stream(_) | Work::Recover => 1,
            Work::Fanout(consumers) | Work::FanoutAlone(consumers) | Work::Disk(consumers) => {
                consumers
            }
        }
    }

    /// Rounds to take of those that are asked for: what is counted needs one.
    pub(crate) fn rounds(self, asked: u32) -> u32 {
        if matches!(self, Work::Disk(_)) { 1 } else { asked }
    }

    /// Whether the peer takes part.
    pub(crate) fn takes(self, kind: &Kind) -> bool {
        let stored = matches!(self, Work::Recover | Work::Disk(_));
        self.batch() <= kind.batch_max && (stored || !kind.variant)
    }

    /// What stands above the table.
    pub(crate) fn title(self, name: &str) -> String {
        let what = match self {
            Work::Publish(1) => "durable publishes, one at a time".to_owned(),
            Work::Publish(batch) => format!("durable publishes of {batch} messages"),
            Work::Stream(window) => format!("{window} messages unconfirmed at a time"),
            Work::Fanout(consumers) => {
                format!("publishes of {FANOUT_BATCH}, {consumers} consumers, acks synced together")
            }
            Work::FanoutAlone(consumers) => {
                format!("publishes of {FANOUT_BATCH}, {consumers} consumers, each syncs its acks")
            }
            Work::Recover => "opening with a backlog, after a kill".to_owned(),
            Work::Disk(1) => {
                "disk for a backlog, and after it is consumed, one consumer".to_owned()
            }
            Work::Disk(consumers) => format!("the same with {consumers} consumers"),
        };
        format!("{name}: {what}")
    }
}

/// Those whose names begin as one of `asked`; an error for one that none begins with.
pub(crate) fn select(asked: &[String]) -> anyhow::Result<Vec<(&'static str, Work)>> {
    let unknown = asked.iter().find(|name| !ALL.iter().any(|(full, _)| matches(name, full)));
    anyhow::ensure!(
        unknown.is_none(),
        "there is no workload {}: there are {}",
        unknown.map_or("", String::as_str),
        ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    );
    let chosen = ALL.iter().filter(|(full, _)| asked.iter().any(|name| matches(name, full)));
    Ok(chosen.copied().collect())
}

/// A name means itself, or all that go on behind it with a hyphen and are not meant by another.
fn matches(name: &str, full: &str) -> bool {
    let exact = ALL.iter().any(|(other, _)| *other == name);
    full == name || !exact && full.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asked: &[&str]) -> Vec<&'static str> {
        let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
        let selected = select(&asked).unwrap_or_default();
        selected.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_name_means_itself_or_all_that_it_begins() {
        assert_eq!(names(&["publish-1"]), ["publish-1"]);
        assert_eq!(names(&["fanout-10"]), ["fanout-10"]);
        assert_eq!(names(&["recover", "disk"]), ["recover", "disk-1", "disk-10"]);
        assert_eq!(names(&["publish"]).len(), 4);
        assert!(select(&["pub".to_owned()]).is_err());
    }
}
