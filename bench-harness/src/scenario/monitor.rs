//! The monitor platform: checks each result against rules, and raises an alert where one breaks.

use super::{frames::Frame, platform::Platform};
use crate::payload::{Fields, NO_PARENT, STAGES, VALUES_ALLOWED};

/// A rule: its name, and whether a result keeps it.
type Rule = (&'static str, fn(&Fields) -> bool);

/// The rules. Only the two on values are broken by the wrong results of the stream.
const RULES: [Rule; 5] = [
    ("value is not negative", |result| result.value >= VALUES_ALLOWED.start),
    ("value is below its limit", |result| result.value < VALUES_ALLOWED.end),
    ("stage exists", |result| result.stage < STAGES),
    ("first stage has no parent, others have one", |result| {
        (result.stage == 0) == (result.parent == NO_PARENT)
    }),
    ("parent came before", |result| result.parent == NO_PARENT || result.parent < result.number),
];

/// The platform. It holds no state: an alert is reported before the result is acked.
pub(crate) struct Monitor;

impl Platform for Monitor {
    fn work(&self, results: &[Fields], alerts: &mut Frame) -> anyhow::Result<()> {
        for result in results {
            if RULES.iter().any(|(_, keeps)| !keeps(result)) {
                alerts.put_number(result.number);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{payload, scenario::frames::Kind};

    #[test]
    fn alerts_are_raised_on_wrong_results_alone() {
        let results: Vec<Fields> = (0..20_000).map(|number| Fields::of(number, 64)).collect();
        let mut alerts = Frame::new(Kind::Alerts);
        Monitor.work(&results, &mut alerts).unwrap();
        let planted = (0..20_000).filter(|&number| payload::source_of(number).is_some());
        assert!(alerts.numbers().eq(planted));
    }
}
