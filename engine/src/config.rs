//! Settings of a store, each with unit, default and range.

use std::time::Duration;

use crate::{Error, Result, storage::BackendChoice};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a publisher meets when `buffer_bytes_max` are unconfirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WhenFull {
    /// It waits until there is room.
    #[default]
    Block,
    /// It gets [`Error::Full`] (or [`Error::OutOfSpace`]) at once.
    Fail,
}

/// What opening does with a store that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnDamage {
    /// It fails with an error that names file and position, and changes nothing.
    #[default]
    Fail,
    /// It opens what is left. What is missing is told in
    /// [`RecoveryReport::gaps`](crate::RecoveryReport::gaps), all else is delivered. Damaged files
    /// are kept under names that begin with `damaged-`; what could be read of them is in new files.
    ///
    /// Damage within a sealed segment costs what is damaged and nothing else, and is told when it is
    /// read: opening does not look for it.
    Quarantine,
    /// As `Quarantine`, and opening looks for all damage that there is: it reads every byte of the
    /// store, so it takes as long as that does. Afterwards nothing damaged is part of the store. Of a
    /// torn tail that is cut a copy is kept as well.
    Repair,
}

/// How far a confirm reaches. Chosen per message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// Confirmed once synced: survives a power cut.
    #[default]
    Synced,
    /// Confirmed once the kernel has the bytes: survives the death of the process, not a power
    /// cut. Synced within [`Config::buffered_sync_delay_max`].
    Buffered,
    /// Gone once the store is opened again, however it was closed; before, like any other. Confirmed
    /// once the kernel has the bytes, which says that it can be delivered and nothing more. What
    /// `delivery_mode` 1 is to `RabbitMQ`.
    Transient,
}

/// Settings given to [`Engine::open`](crate::Engine::open).
///
/// ```
/// let config = fanlog::Config { segment_bytes_max: 16 << 20, ..fanlog::Config::default() };
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// How bytes reach the disk. Default: probed at open; what was chosen is in
    /// [`Stats::backend`](crate::Stats::backend).
    pub backend: BackendChoice,
    /// Creates the store where the directory has none. Default true.
    pub create: bool,
    /// Size at which a segment is full, in bytes. Default 64 MiB, range 64 KiB to 1 GiB, in whole
    /// 4 KiB blocks.
    pub segment_bytes_max: u64,
    /// How many written segments are kept ready ahead of the log. Default 5, range 1 to 64. There
    /// is always one more than the reserve: the files that stay when the disk is full, so that it
    /// can be drained. That is three, and one for each 28 MiB of `buffer_bytes_max` begun (with
    /// other segments: four ninths of `segment_bytes_max`; fewer with small ones); more where a
    /// checkpoint takes more than a quarter of a segment.
    pub segments_ahead: usize,
    /// How much the store's files may take together, in bytes; past it publishers wait, or are told,
    /// as on a full disk. What was accepted before, and what it takes to get space back, is still
    /// written. Default: no limit but the disk. At least four segments more than the reserve (512
    /// MiB by default). A message or batch may have a quarter of it.
    pub store_bytes_max: Option<u64>,
    /// How much of the disk is left to others, in bytes: likewise. Default 0.
    pub free_bytes_min: u64,
    /// Largest payload of a message, in bytes. Default and maximum 64 MiB.
    pub message_bytes_max: usize,
    /// Largest batch published as one, or transaction with its acks, in bytes with record heads.
    /// Default 64 MiB, range 4 KiB to 80 MiB. A message of `message_bytes_max` that is published
    /// alone always fits, whatever stands here.
    pub transaction_bytes_max: usize,
    /// Recent batches served from memory, in bytes. Default 64 MiB, range 1 MiB to 64 GiB.
    pub window_bytes_max: usize,
    /// Appended and not yet confirmed, in bytes; past it publishers wait. Default 16 MiB, range
    /// 1 MiB to 4 GiB. One message or batch larger than this is taken alone.
    pub buffer_bytes_max: usize,
    /// Memory behind the window that readers may hold on to, in bytes; past it they are handed
    /// copies. Default 64 MiB.
    pub pinned_bytes_max: usize,
    /// Segments mapped into memory at a time, beside those that readers hold. Default 16, range
    /// 1 to 4,096.
    pub mapped_segments_max: usize,
    /// What a publisher meets when buffers are full. Default: it waits.
    pub when_full: WhenFull,
    /// An ack that nobody waits for is written after at most this long. Default 100 ms, range
    /// 1 ms to 10 s.
    pub ack_delay_max: Duration,
    /// A `Buffered` message is synced after at most this long. Default 1 s, range 1 ms to 1 h.
    pub buffered_sync_delay_max: Duration,
    /// A checkpoint is written after this long if anything changed. Default 60 s.
    pub checkpoint_interval: Duration,
    /// Named publishers that are known at a time; past it who was idle the longest is forgotten.
    /// Default 4,096, range 1 to 65,536. Each takes some hundred bytes.
    pub publishers_max: usize,
    /// A named publisher that published nothing for this long is forgotten when the next is declared.
    /// Default 7 days, at least 1 ms.
    pub publisher_age_max: Duration,
    /// A checkpoint is written once the log has grown by this much, or by four times the last
    /// checkpoint's size if that is more. In bytes; default 64 MiB, at least 64 KiB. Opening reads
    /// about as much.
    pub checkpoint_log_bytes: u64,
    /// What opening does with a damaged store. Default: it fails.
    pub on_damage: OnDamage,
    /// Runs the engine without threads of its own: waits drive it, and
    /// [`Engine::step`](crate::Engine::step) does the background's work. For simulations.
    #[doc(hidden)]
    pub stepped: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            create: true,
            segment_bytes_max: 64 * MIB as u64,
            segments_ahead: 5,
            store_bytes_max: None,
            free_bytes_min: 0,
            message_bytes_max: 64 * MIB,
            transaction_bytes_max: 64 * MIB,
            window_bytes_max: 64 * MIB,
            buffer_bytes_max: 16 * MIB,
            pinned_bytes_max: 64 * MIB,
            mapped_segments_max: 16,
            when_full: WhenFull::Block,
            ack_delay_max: Duration::from_millis(100),
            buffered_sync_delay_max: Duration::from_secs(1),
            checkpoint_interval: Duration::from_mins(1),
            publishers_max: 4096,
            publisher_age_max: Duration::from_hours(7 * 24),
            checkpoint_log_bytes: 64 * MIB as u64,
            on_damage: OnDamage::Fail,
            stepped: false,
        }
    }
}

impl Config {
    /// Largest batch, in bytes, of messages or changes that belong together.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.transaction_bytes_max.min(self.store_share())
    }

    /// What one message or batch may have of the store: all of it must fit beside the reserve.
    pub(crate) fn store_share(&self) -> usize {
        let share = self.store_bytes_max.map(|max| usize::try_from(max / 4));
        share.and_then(Result::ok).unwrap_or(usize::MAX)
    }

    /// Checks every range.
    pub(crate) fn validate(&self) -> Result<()> {
        let mib = MIB as u64;
        range("segment_bytes_max", self.segment_bytes_max, 64 * KIB as u64, 1024 * mib)?;
        if !self.segment_bytes_max.is_multiple_of(4096) {
            return Err(Error::Setting {
                setting: "segment_bytes_max",
                found: self.segment_bytes_max.to_string(),
                allowed: "a multiple of 4096".into(),
            });
        }
        range("segments_ahead", self.segments_ahead as u64, 1, 64)?;
        range("message_bytes_max", self.message_bytes_max as u64, 1, 64 * mib)?;
        range("transaction_bytes_max", self.transaction_bytes_max as u64, 4096, 80 * mib)?;
        range("window_bytes_max", self.window_bytes_max as u64, mib, 64 * 1024 * mib)?;
        range("buffer_bytes_max", self.buffer_bytes_max as u64, mib, 4096 * mib)?;
        range("mapped_segments_max", self.mapped_segments_max as u64, 1, 4096)?;
        if let Some(found) = self.store_bytes_max {
            let least = self.segment_bytes_max * (self.reserve_files() as u64 + 4);
            range("store_bytes_max", found, least, u64::MAX)?;
        }
        range("checkpoint_log_bytes", self.checkpoint_log_bytes, 64 * KIB as u64, u64::MAX)?;
        let millis = Duration::from_millis(1);
        time("ack_delay_max", self.ack_delay_max, millis, Duration::from_secs(10))?;
        time(
            "buffered_sync_delay_max",
            self.buffered_sync_delay_max,
            millis,
            Duration::from_hours(1),
        )?;
        range("publishers_max", self.publishers_max as u64, 1, 65_536)?;
        time("publisher_age_max", self.publisher_age_max, millis, Duration::MAX)?;
        time("checkpoint_interval", self.checkpoint_interval, millis, Duration::MAX)
    }
}

fn range(setting: &'static str, found: u64, low: u64, high: u64) -> Result<()> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(Error::Setting { setting, found: found.to_string(), allowed: format!("{low} to {high}") })
}

fn time(setting: &'static str, found: Duration, low: Duration, high: Duration) -> Result<()> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(Error::Setting {
        setting,
        found: format!("{found:?}"),
        allowed: format!("{low:?} to {high:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_ranges() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_value_and_range() {
        let config = Config { segments_ahead: 0, ..Config::default() };
        let text = config.validate().unwrap_err().to_string();
        assert_eq!(text, "setting segments_ahead is 0, allowed is 1 to 64");
        let config = Config { segment_bytes_max: 65_537, ..Config::default() };
        assert!(config.validate().unwrap_err().to_string().contains("multiple of 4096"));
    }
}
