//! Where in a history to begin, on the command line: `earliest`, `latest`, an offset, a date
//! (`2026-11-23T01:30:00Z`, `2026-11-23`), or so long ago (`90m`).

use std::time::{Duration, SystemTime};

use fanlog::{
    Offset, StartAt,
    clock::{Clock, SystemClock},
};

use crate::duration;

/// What there is, for a person to read.
const EXPECTED: &str = "expected earliest, latest, an offset, a date such as 2026-11-23T01:30:00Z, or a time ago \
     such as 90m";

/// Parses where to begin; the message of an error is meant for the user.
pub(crate) fn parse(text: &str) -> Result<StartAt, String> {
    parse_at(text, Duration::from_micros(SystemClock::new().wall_us()))
}

/// The same, `now` being the time since 1970.
fn parse_at(text: &str, now: Duration) -> Result<StartAt, String> {
    match text {
        "earliest" => return Ok(StartAt::Earliest),
        "latest" => return Ok(StartAt::Latest),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(StartAt::Offset(Offset(offset)));
    }
    // A duration without a unit is an offset.
    let ago = duration::parse(text).ok().filter(|_| text.ends_with(|c: char| c.is_alphabetic()));
    let since_1970 = ago.map(|ago| now.saturating_sub(ago)).or_else(|| date(text));
    let time = since_1970.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time));
    time.map(StartAt::Time).ok_or_else(|| EXPECTED.to_owned())
}

/// A date in UTC, from 1970 to 9999, with its time of day or without, as time since 1970.
fn date(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time.strip_suffix('Z')?, ':', [2, 2, 2])?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month.checked_sub(1)?).ok()?;
    let possible = year >= 1970 && (1..=*months.get(month)?).contains(&day);
    if !possible || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let days = (year - 1970) * 365 + leap_days + months[..month].iter().sum::<u64>() + day - 1;
    Some(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// Three numbers of so many digits each.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let parts: Vec<&str> = text.split(between).collect();
    let parts: [&str; 3] = parts.try_into().ok()?;
    let mut found = [0; 3];
    for ((part, digits), found) in parts.into_iter().zip(digits).zip(&mut found) {
        let only_digits = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *found = part.parse().ok().filter(|_| only_digits)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<StartAt>) {
        assert_eq!(parse_at(text, Duration::from_secs(10_000)).ok(), expected, "{text}");
    }

    fn time(seconds: u64) -> StartAt {
        StartAt::Time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn offsets_dates_and_times_ago_are_told_apart_and_nonsense_is_refused() {
        check("earliest", Some(StartAt::Earliest));
        check("latest", Some(StartAt::Latest));
        check("120000", Some(StartAt::Offset(Offset(120_000))));
        check("90m", Some(time(10_000 - 5400)));
        check("10s", Some(time(9990)));
        check("24h", Some(time(0)));
        check("1970-01-01", Some(time(0)));
        check("1970-01-02T00:00:01Z", Some(time(86_401)));
        check("2000-03-01T00:00:00Z", Some(time(951_868_800)));
        check("2024-02-29T12:00:00Z", Some(time(1_709_208_000)));
        check("2026-11-23T01:30:00Z", Some(time(1_795_397_400)));
        check("2100-03-01", Some(time(4_107_542_400)));
        for wrong in [
            "",
            "soon",
            "-1",
            "1.5",
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "1969-12-31",
            "2026-1-1",
            "2026-11-23T24:00:00Z",
            "2026-11-23T01:30:00",
            "2026-11-23T01:30Z",
            "+026-11-23",
        ] {
            check(wrong, None);
        }
    }
}
