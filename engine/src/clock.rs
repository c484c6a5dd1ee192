//! Time: the only source of it in the engine.
//!
//! [`Clock::now`] only grows and measures waits; [`Clock::wall_us`] is the date, which may jump, and
//! is written into records. Nothing is decided by comparing the two.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the engine learns what time it is.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the time since some fixed start. Never goes back.
    fn now(&self) -> Duration;

    /// Returns the date, in microseconds since the start of 1970 (UTC).
    ///
    /// Cheap enough to be read once per message, and therefore coarse: on Linux it moves in steps
    /// of up to 4 ms (10 ms on some kernels). It goes wherever the system's date goes, also back.
    fn wall_us(&self) -> u64;
}

/// The time of this machine.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Makes a clock whose [`now`](Clock::now) starts at zero here.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[cfg(target_os = "linux")]
    fn wall_us(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        // A date before 1970 is shown as its start.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
    }

    #[cfg(not(target_os = "linux"))]
    fn wall_us(&self) -> u64 {
        use std::time::SystemTime;
        // A date before 1970 is shown as its start.
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since_1970.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until it is told otherwise, for tests and simulation.
///
/// [`now`](Clock::now) starts at zero, [`wall_us`](Clock::wall_us) at
/// [`WALL_US_START`](Self::WALL_US_START).
#[derive(Debug)]
pub struct ManualClock {
    now_ns: AtomicU64,
    wall_us: AtomicU64,
}

impl ManualClock {
    /// The date at which every manual clock starts: 1 January 2025, in microseconds since 1970.
    pub const WALL_US_START: u64 = 1_735_689_600_000_000;

    /// Makes a clock that stands at its start.
    pub fn new() -> Self {
        Self { now_ns: AtomicU64::new(0), wall_us: AtomicU64::new(Self::WALL_US_START) }
    }

    /// Moves time and date on by `by`. The date moves by whole microseconds.
    ///
    /// # Panics
    ///
    /// If time passes 584 years.
    pub fn advance(&self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).expect("less than 584 years");
        let before = self.now_ns.fetch_add(by_ns, Ordering::SeqCst);
        let after = before.checked_add(by_ns).expect("less than 584 years");
        self.wall_us.fetch_add(after / 1000 - before / 1000, Ordering::SeqCst);
    }

    /// Sets the date, forward or back; [`now`](Clock::now) is not touched.
    pub fn set_wall_us(&self, wall_us: u64) {
        self.wall_us.store(wall_us, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::SeqCst))
    }

    fn wall_us(&self) -> u64 {
        self.wall_us.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn system_time_never_goes_back() {
        let clock = SystemClock::new();
        let times: Vec<Duration> = (0..100).map(|_| clock.now()).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn the_coarse_date_is_the_date() {
        let exact = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let coarse = Duration::from_micros(SystemClock::new().wall_us());
        assert!(exact.abs_diff(coarse) < Duration::from_mins(1), "{exact:?} {coarse:?}");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new();
        assert_eq!((clock.now(), clock.wall_us()), (Duration::ZERO, ManualClock::WALL_US_START));
        clock.advance(Duration::from_millis(3));
        assert_eq!(clock.now(), Duration::from_millis(3));
        assert_eq!(clock.wall_us(), ManualClock::WALL_US_START + 3000);
        clock.set_wall_us(5);
        assert_eq!((clock.now(), clock.wall_us()), (Duration::from_millis(3), 5));
    }

    #[test]
    fn small_steps_add_up_in_the_date() {
        let clock = ManualClock::new();
        for _ in 0..10 {
            clock.advance(Duration::from_nanos(300));
        }
        assert_eq!(clock.now(), Duration::from_micros(3));
        assert_eq!(clock.wall_us(), ManualClock::WALL_US_START + 3);
    }
}
