//! Durations on the command line: `250ms`, `1.5s`, `2m`, `1h`; a bare number is in seconds.

use std::time::Duration;

/// Parses `text`; the message of an error is meant for the user.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit \"{unit}\": use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number such as 1.5s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, milliseconds: Option<u64>) {
        assert_eq!(parse(text).ok(), milliseconds.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn units_are_understood_and_nonsense_is_refused() {
        check("250ms", Some(250));
        check("1.5s", Some(1500));
        check("3", Some(3000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("0", Some(0));
        check("", None);
        check("s", None);
        check("1.2.3s", None);
        check("5 s", None);
        check("-1s", None);
        check("999999999999999999999999999999999h", None);
    }
}
