//! The `--size A-B` of torture messages.

/// Largest size that can be asked for; the engine has its own, lower limit.
const SIZE_MAX: usize = 1 << 30;

/// Sizes from `least` to `most`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeRange {
    least: usize,
    most: usize,
}

impl SizeRange {
    /// Parses `A-B`; the message of an error is meant for the user.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once('-').ok_or("expected A-B, as in 100-4000")?;
        let parse = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
        let (least, most) = (parse(least)?, parse(most)?);
        if least > most {
            return Err(format!("{least} is more than {most}"));
        }
        if most > SIZE_MAX {
            return Err(format!("{most} is more than {SIZE_MAX}"));
        }
        Ok(Self { least, most })
    }

    /// Size of message `number`: `A + (i * 7919) mod (B - A + 1)`.
    pub(super) fn of(self, number: u64) -> usize {
        let span = (self.most - self.least + 1) as u128;
        let above = u128::from(number) * 7919 % span;
        self.least + usize::try_from(above).expect("less than the span, which is a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_in_the_range_and_follow_the_formula() {
        let range = SizeRange::parse("100-4000").unwrap();
        assert_eq!(range.of(0), 100);
        assert_eq!(range.of(1), 100 + 7919 % 3901);
        assert_eq!(range.of(1_000_003), 100 + 7_919_023_757 % 3901);
        assert!((0..10_000).all(|number| (100..=4000).contains(&range.of(number))));
        assert!((100..=4000).contains(&range.of(u64::MAX)));
        assert_eq!(SizeRange::parse("7-7").unwrap().of(123), 7);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "5", "5-", "-5", "9-8", "1-2-3", "a-b", "0-99999999999"] {
            assert!(SizeRange::parse(text).is_err(), "{text}");
        }
    }
}
