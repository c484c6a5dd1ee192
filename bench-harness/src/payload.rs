//! Payloads that can be recomputed from their number, by publisher, platform and judge alike.
//!
//! A stream of *results* of a computation: [`STAGES`] results in a row form a trace, each computed
//! from the one before. A payload is 48 bytes of fields, then bytes that are pseudo-random in the
//! number (they do not compress, and none is zero by design). In one trace of [`TRACES_PER_FAULT`]
//! a stage goes wrong: its value leaves the allowed range, and so do all that are computed from it.

/// Results in a trace.
pub const STAGES: u64 = 8;
/// One trace in so many has a wrong result.
pub const TRACES_PER_FAULT: u64 = 500;
/// Smallest payload: the fields.
pub const BYTES_MIN: usize = 48;
/// Stands for "no parent" in the first stage.
pub const NO_PARENT: u64 = u64::MAX;
/// A right result lies in this range.
pub const VALUES_ALLOWED: std::ops::Range<i64> = 0..100_000;
/// How far a wrong stage is off.
const FAULT: i64 = 1_000_000;

/// The fields at the start of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Which payload of the stream: 0, 1, 2, ...
    pub number: u64,
    /// Which trace it belongs to.
    pub trace: u64,
    /// Which step of the trace, below [`STAGES`].
    pub stage: u64,
    /// The computed value.
    pub value: i64,
    /// Number of the result that it was computed from, or [`NO_PARENT`].
    pub parent: u64,
    /// Length of the payload, in bytes.
    pub bytes: u64,
}

impl Fields {
    /// The fields of payload `number` with `bytes` bytes.
    pub fn of(number: u64, bytes: usize) -> Fields {
        let (trace, stage) = (number / STAGES, number % STAGES);
        let mut value = first_value(trace);
        for step in 1..=stage {
            value += step_of(trace, step);
        }
        if let Some((source, fault)) = fault_of(trace)
            && stage >= source
        {
            value += fault;
        }
        let parent = if stage == 0 { NO_PARENT } else { number - 1 };
        Fields { number, trace, stage, value, parent, bytes: bytes as u64 }
    }

    /// The fields of `payload`, if it is long enough to have any. They may be anything.
    pub fn parse(payload: &[u8]) -> Option<Fields> {
        let (words, _) = payload.get(..BYTES_MIN)?.as_chunks::<8>();
        let [number, trace, stage, value, parent, bytes] =
            *<&[[u8; 8]; 6]>::try_from(words).ok()?;
        Some(Fields {
            number: u64::from_le_bytes(number),
            trace: u64::from_le_bytes(trace),
            stage: u64::from_le_bytes(stage),
            value: i64::from_le_bytes(value),
            parent: u64::from_le_bytes(parent),
            bytes: u64::from_le_bytes(bytes),
        })
    }

    fn words(&self) -> [[u8; 8]; 6] {
        [
            self.number.to_le_bytes(),
            self.trace.to_le_bytes(),
            self.stage.to_le_bytes(),
            self.value.to_le_bytes(),
            self.parent.to_le_bytes(),
            self.bytes.to_le_bytes(),
        ]
    }
}

/// What stage `step` of `trace` adds to the value before it, when all is well.
pub fn step_of(trace: u64, step: u64) -> i64 {
    small(mix(trace.wrapping_mul(STAGES).wrapping_add(step)), 100)
}

/// Value of the first stage of `trace`, when all is well.
pub fn first_value(trace: u64) -> i64 {
    1_000 + small(mix(trace), 90_000)
}

/// Stage at which `trace` goes wrong and by how much, for the traces in which one was planted.
pub fn fault_of(trace: u64) -> Option<(u64, i64)> {
    if trace % TRACES_PER_FAULT != TRACES_PER_FAULT / 2 {
        return None;
    }
    let seed = mix(trace ^ 0xfa);
    Some((seed % STAGES, if seed & 0x100 == 0 { FAULT } else { -FAULT }))
}

/// Number of the payload at which the trace of `number` went wrong, if that result is wrong.
pub fn source_of(number: u64) -> Option<u64> {
    let (source, _) = fault_of(number / STAGES)?;
    let planted = number / STAGES * STAGES + source;
    (number >= planted).then_some(planted)
}

/// Writes payload `number` over all of `payload`, which has at least [`BYTES_MIN`] bytes.
pub fn fill(number: u64, payload: &mut [u8]) {
    let bytes = payload.len();
    let (head, body) = payload.split_at_mut(BYTES_MIN);
    let (head, _) = head.as_chunks_mut::<8>();
    head.copy_from_slice(&Fields::of(number, bytes).words());
    let mut noise = Noise::of(number);
    let (words, rest) = body.as_chunks_mut::<8>();
    for word in words {
        *word = noise.next();
    }
    let last = noise.next();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// Whether `payload` is payload `number`, bit for bit.
pub fn matches(number: u64, payload: &[u8]) -> bool {
    let Some((head, body)) = payload.split_at_checked(BYTES_MIN) else { return false };
    if head != Fields::of(number, payload.len()).words().as_flattened() {
        return false;
    }
    let mut noise = Noise::of(number);
    let (words, rest) = body.as_chunks::<8>();
    // One comparison at the end lets the compiler keep the loop free of branches.
    let mut wrong = 0;
    for word in words {
        wrong |= u64::from_le_bytes(*word) ^ u64::from_le_bytes(noise.next());
    }
    wrong == 0 && rest == &noise.next()[..rest.len()]
}

/// Scrambles a number: the finisher of the splitmix64 generator.
pub fn mix(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn small(word: u64, below: i64) -> i64 {
    i64::try_from(word >> 1).unwrap_or(0) % below
}

/// Pseudo-random words from a number.
struct Noise(u64);

impl Noise {
    fn of(number: u64) -> Noise {
        Noise(mix(!number))
    }

    fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = self.0;
        ((word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_recognised_by_its_number_alone() {
        for bytes in [BYTES_MIN, 64, 100, 1024, 1029] {
            let mut payload = vec![0; bytes];
            fill(77, &mut payload);
            assert!(matches(77, &payload));
            assert!(!matches(78, &payload));
            assert_eq!(Fields::parse(&payload), Some(Fields::of(77, bytes)));
            let last = payload.len() - 1;
            payload[last] ^= 1;
            assert!(!matches(77, &payload));
            assert!(!matches(77, &payload[..last]));
        }
        assert_eq!(Fields::parse(&[0; BYTES_MIN - 1]), None);
    }

    #[test]
    fn wrong_results_are_those_out_of_range() {
        let wrong = (0..100_000)
            .filter(|&number| !VALUES_ALLOWED.contains(&Fields::of(number, 64).value))
            .collect::<Vec<_>>();
        let planted = (0..100_000).filter(|&number| source_of(number).is_some());
        assert!(planted.eq(wrong.iter().copied()));
        assert!(wrong.len() > 20);
    }
}
