//! Opening a store after anything: a clean close, a crash, or nothing at all.
//!
//! 1. List the directory.
//! 2. Read the newest checkpoint.
//! 3. Check the segments that it lists.
//! 4. Read the log from there, batch after batch.
//! 5. Where a batch is bad: below the durable position it is damage, and an error; at or past it, a
//!    torn tail, and cut.
//! 6. Sync what was found; raise the epoch with a new checkpoint.
//!
//! Nothing on disk is changed before step 6, so a crash on the way changes nothing.
//!
//! E1. The new epoch is durable before a batch of it is written.
//! E2. What was found is durable before any of it is delivered.

mod aside;
mod choose;
mod create;
mod end;
mod harm;
mod inventory;
mod quarantine;
mod report;
mod salvage;
mod strays;
mod tail;

use std::sync::Arc;

use fanlog_segment_format::{
    DecodeError, Epoch, LogPosition, SegmentId, StoreId,
    batch::BatchHeader,
    checkpoint::Checkpoint,
    file_name::FileName,
    header::SegmentHeader,
    layout::{BLOCK_BYTES, CHECKPOINT_HEAD_BYTES, SEGMENT_HEADER_BYTES},
};

pub(crate) use self::create::FIRST as FIRST_CHECKPOINT;
pub use self::report::{Cut, Gap, RecoveryReport, SetAside};
use self::{
    harm::Harm,
    inventory::Inventory,
    quarantine::{Quarantine, damage_of},
    strays::Stray,
    tail::Tail,
};
use crate::{
    Config, Error, Result,
    append::{ARENA_BYTES, Append, arena::ArenaPool},
    checkpoint::{self, Kept},
    clock::Clock,
    commit::{Pipeline, is_out_of_space},
    config::OnDamage,
    core::{Core, Parts},
    error::{ErrorKind, FileOp},
    keeper::Keeper,
    ledger::Ledger,
    log::{Log, segment::Segment},
    route::{Records, Tables},
    stats::Counters,
    storage::{Access, AlignedBuffer, Purpose, Storage, StorageFile},
    supply::Supply,
};

/// Opens the store, creating it where there is none and `config.create` allows.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    config: Config,
    read_only: bool,
) -> Result<Core> {
    config.validate()?;
    let began = clock.now();
    let mut inventory = Inventory::read(&*storage)?;
    let mut harm = Harm::default();
    inventory.refuse_irregular(&*storage, config.on_damage, &mut harm)?;
    let newest = match choose::choose(&*storage, &inventory, config.on_damage, &mut harm)? {
        Some(checkpoint) => checkpoint,
        None if read_only || !config.create => {
            return Err(Error::NoStore { path: storage.path("") });
        }
        None => create::create(&*storage, &*clock, &mut inventory)?,
    };
    let strays = strays::find(&*storage, newest.store, &newest.segments, &inventory)?;
    let from = From { storage: &storage, newest: &newest, inventory: &inventory, read_only };
    let read = match (from.read_whole(&config, &strays), config.on_damage) {
        (Err(error), OnDamage::Quarantine | OnDamage::Repair)
            if error.kind() == ErrorKind::Corrupt =>
        {
            let read = from.read_damaged(&config, &strays, &mut harm);
            read.inspect_err(|_| harm.undo(&*storage))?
        }
        (read, _) => read?,
    };
    let Read { log, mut ledger, mut tables, mut report, epoch } = read;
    let end = ledger.head.next_offset;
    for queue in ledger.queues() {
        queue.recovered(end);
    }
    tables.next = merge_ids(tables.next, ledger.next_ids());
    tables.recovered();
    delete_transient(&mut tables, &mut ledger, &log).map_err(|source| {
        let name = FileName::Checkpoint(newest.number).to_string();
        Error::decode(storage.path(&name), 0, source)
    })?;
    report.clean =
        newest.clean && report.replayed_batches == 0 && report.cuts.is_empty() && !harm.any();
    report.created = newest.number == create::FIRST && newest.head.next_batch.0 == 0;
    report.checkpoint = newest.number;
    report.end = end;
    let durable = ledger.head.position;
    let previous = ledger.head.previous;
    let epoch = epoch.0.checked_add(1 + harm.epochs).ok_or(Error::Exhausted { what: "epoch" })?;
    let epoch = Epoch(epoch);
    let mut found = Found { storage, clock, newest, inventory, log, ledger, epoch, harm };
    report.set_aside = found.what_goes(&config, &report.cuts)?;
    let (pipeline, supply, kept) = if read_only {
        (None, Supply::default(), Vec::new())
    } else {
        if config.on_damage == OnDamage::Repair {
            aside::keep_tails(&*found.storage, &mut report.set_aside)?;
        }
        found.take_over(&config, durable, previous)?
    };
    found.name_kept(&mut report.set_aside);
    report.epoch = found.epoch.0;
    report.gaps = std::mem::take(&mut found.harm.gaps);
    report.duration = found.clock.now().saturating_sub(began);
    Ok(found.into_core(config, tables, report, pipeline, supply, kept, read_only))
}

/// Deletes what does not survive a restart. The checkpoint that opening writes says so; after a crash
/// before it the next opening does it again.
fn delete_transient(
    tables: &mut Tables,
    ledger: &mut Ledger,
    log: &Log,
) -> Result<(), DecodeError> {
    let mut bytes = Vec::new();
    let at = ledger.head.next_offset;
    tables.delete_transient(&mut Records { bytes: &mut bytes, at });
    ledger.apply_at_opening(&bytes, log)?;
    ledger.settle(log);
    Ok(())
}

/// What recovery begins with.
#[derive(Clone, Copy)]
struct From<'a> {
    storage: &'a Arc<dyn Storage>,
    newest: &'a Checkpoint,
    inventory: &'a Inventory,
    read_only: bool,
}

/// The state that a checkpoint and the log behind it describe.
struct Read {
    log: Log,
    ledger: Ledger,
    tables: Tables,
    report: RecoveryReport,
    /// The highest that was seen.
    epoch: Epoch,
}

impl From<'_> {
    /// Reads a log of which nothing is missing.
    ///
    /// # Errors
    ///
    /// Anything that is damaged. Where that may be quarantined the footers are looked at as well, for a
    /// repair everything.
    fn read_whole(&self, config: &Config, strays: &[Stray]) -> Result<Read> {
        if let Some(stray) = strays.first() {
            return Err(stray.error(&**self.storage));
        }
        let (log, mut ledger, mut tables) = self.begin(config)?;
        let mut tail =
            Tail::new(&**self.storage, self.newest, self.inventory, &log, self.read_only);
        tail.read_all(&mut ledger, &mut tables)?;
        let (report, epoch) = (tail.report(self.inventory), tail.epoch());
        if config.on_damage != OnDamage::Fail {
            for segment in log.segments().iter().filter(|segment| segment.is_sealed()) {
                let reader = log.reader(segment)?;
                let damage = reader.and_then(|reader| damage_of(&reader, config.on_damage));
                if let Some(error) = damage {
                    return Err(error);
                }
            }
        }
        settle(&mut ledger, &mut tables, &log, false);
        Ok(Read { log, ledger, tables, report, epoch })
    }

    /// Reads what is left of a damaged log.
    fn read_damaged(&self, config: &Config, strays: &[Stray], harm: &mut Harm) -> Result<Read> {
        let (log, mut ledger, mut tables) = self.begin(config)?;
        for stray in strays {
            let next = ledger.head.next_offset;
            harm.note(&stray.error(&**self.storage), next, next);
            harm.set_aside(&stray.name);
        }
        let tail = Tail::new(&**self.storage, self.newest, self.inventory, &log, self.read_only);
        let mut quarantine = Quarantine::new(tail, harm, config.on_damage);
        quarantine.read_all(&mut ledger, &mut tables)?;
        let tail = quarantine.tail;
        let (report, epoch) = (tail.report(self.inventory), tail.epoch());
        ledger.skip_ids(harm.ids);
        settle(&mut ledger, &mut tables, &log, true);
        Ok(Read { log, ledger, tables, report, epoch })
    }

    fn begin(&self, config: &Config) -> Result<(Log, Ledger, Tables)> {
        let log = Log::new(
            Arc::clone(self.storage),
            self.newest.store,
            config.window_bytes_max,
            config.mapped_segments_max,
        );
        let bad = |source| bad_checkpoint(&**self.storage, self.newest.number, source);
        let tables = Tables::from_checkpoint(self.newest).map_err(bad)?;
        let ledger = Ledger::from_checkpoint(self.newest, &log).map_err(bad)?;
        Ok((log, ledger, tables))
    }
}

/// Takes out what does not survive the opening of a store.
fn end_transient(ledger: &mut Ledger, tables: &mut Tables) {
    for queue in ledger.end_transient() {
        tables.forget_queue(queue);
    }
}

/// Makes the state fit the log that was found.
fn settle(ledger: &mut Ledger, tables: &mut Tables, log: &Log, damaged: bool) {
    let end = ledger.head.next_offset;
    log.set_visible(end);
    ledger.clip(end);
    end_transient(ledger, tables);
    ledger.settle(log);
    ledger.recovered(log, damaged);
}

/// A store that was read and understood, not changed yet.
struct Found {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    newest: Checkpoint,
    inventory: Inventory,
    log: Log,
    ledger: Ledger,
    epoch: Epoch,
    harm: Harm,
}

impl Found {
    /// Makes durable what was found, raises the epoch, and gets ready to append.
    fn take_over(
        &mut self,
        config: &Config,
        durable: LogPosition,
        previous: u32,
    ) -> Result<(Option<Pipeline>, Supply, Vec<Kept>)> {
        for segment in self.log.segments().iter().filter(|segment| !segment.is_sealed()) {
            let path = || self.storage.path(&segment.name);
            if let Some(file) = segment.file() {
                file.sync().map_err(|source| Error::io(FileOp::Sync, path(), source))?;
            }
        }
        // Names that a crash left undone are settled before anything relies on them.
        self.storage
            .sync_directory()
            .map_err(|source| Error::io(FileOp::SyncDirectory, self.storage.path(""), source))?;
        // One of them may have the name that the next checkpoint is written under.
        self.inventory.remove_temporary(&*self.storage)?;
        if self.harm.any() {
            self.inventory.set_aside(&*self.storage, &mut self.harm)?;
        }
        let active = match self.log.segments().last().filter(|last| last.end_offset().is_none()) {
            Some(active) => Arc::clone(active),
            None => self.first_segment(config)?,
        };
        let mut older = Kept { number: self.newest.number, bytes: 0 };
        let mut newest = self.write_checkpoint(self.next_checkpoint())?;
        if self.harm.segments {
            // The one from before lists files that are no longer to be there.
            let again = self.write_checkpoint(newest.number + 1)?;
            older = std::mem::replace(&mut newest, again);
        }
        let supply = self.inventory.clean_up(
            &*self.storage,
            &[older.number, newest.number],
            &self.log.segments(),
            config.segment_bytes_max,
        )?;
        let file = match active.file() {
            Some(file) => file,
            None => open_segment(&*self.storage, &active.name, Access::Write)?,
        };
        let durable = if durable.segment == active.id() { durable } else { active.end_position() };
        let pipeline = Pipeline::new(active, file, previous, durable, self.clock.now());
        Ok((Some(pipeline), supply, vec![older, newest]))
    }

    /// Creates the segment that is appended to, where there is none: in a new store, or behind
    /// damage.
    fn first_segment(&mut self, config: &Config) -> Result<Arc<Segment>> {
        let head = self.ledger.head;
        let next = checkpoint::next_segment(&checkpoint::entries(&self.log, &[]));
        let mut id = SegmentId(self.newest.next_ids.segment.max(next));
        if self.harm.any() {
            let named = self.inventory.segments.keys().next_back();
            id = id.max(SegmentId(named.map_or(0, |&(id, _)| id.0 + 1)));
        }
        let header = SegmentHeader {
            store: self.newest.store,
            segment: id,
            covers_to: id,
            generation: 0,
            epoch: self.epoch,
            first_offset: head.next_offset,
            first_batch: head.next_batch,
            previous: head.previous,
            file_bytes: config.segment_bytes_max,
            created_us: self.clock.wall_us(),
        };
        self.check_unused(id)?;
        let file = create::segment(&*self.storage, &header)?;
        let segment = Arc::new(Segment::open(header, file));
        self.log.add_segment(Arc::clone(&segment));
        self.ledger.head.position = segment.end_position();
        Ok(segment)
    }

    /// A file that is in the way of a new segment must never have been appended to.
    fn check_unused(&self, id: SegmentId) -> Result<()> {
        let position = SEGMENT_HEADER_BYTES as u64;
        let enough = position + BLOCK_BYTES as u64;
        if self.inventory.segments.get(&(id, 0)).is_none_or(|&bytes| bytes < enough) {
            return Ok(());
        }
        let name = FileName::Segment(id).to_string();
        let path = || self.storage.path(&name);
        let file = open_segment(&*self.storage, &name, Access::Read)?;
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        file.read_exact_at(position, &mut block)
            .map_err(|source| Error::io(FileOp::Read, path(), source))?;
        if BatchHeader::decode(&block, self.newest.store, id, position).is_ok() {
            let problem = "batches stand in a segment that does not follow the log".to_owned();
            return Err(Error::Damaged { path: path(), position, problem });
        }
        Ok(())
    }

    /// Writes the checkpoint; on a full disk prepared files, which nothing needs yet, make room for it.
    fn store_checkpoint(&mut self, number: u64, bytes: &[u8]) -> Result<()> {
        loop {
            match checkpoint::store(&*self.storage, number, bytes) {
                Err(error) if is_out_of_space(&error) => {
                    if !self.inventory.give_up_one(&*self.storage)? {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// A number that no checkpoint had: one that is missing may have had the next.
    fn next_checkpoint(&self) -> u64 {
        let highest = self.inventory.highest_checkpoint().max(self.newest.number);
        highest + 1 + u64::from(self.harm.epochs)
    }

    /// A checkpoint that raises the epoch and vouches for the recovered end (E1, E2).
    fn write_checkpoint(&mut self, number: u64) -> Result<Kept> {
        let mut checkpoint = checkpoint::blank(self.newest.store, number, self.epoch);
        checkpoint.created_us = self.clock.wall_us();
        let counts = self.ledger.capture(&mut checkpoint);
        checkpoint.segments = checkpoint::entries(&self.log, &counts);
        checkpoint.next_ids.segment = checkpoint::next_segment(&checkpoint.segments);
        let bytes = checkpoint.encode();
        self.store_checkpoint(number, &bytes)?;
        Ok(Kept { number, bytes: bytes.len() as u64 })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of an open store, put together once")]
    fn into_core(
        self,
        config: Config,
        tables: Tables,
        recovery: RecoveryReport,
        pipeline: Option<Pipeline>,
        supply: Supply,
        kept: Vec<Kept>,
        read_only: bool,
    ) -> Core {
        let stats = Counters::default();
        stats.durable(self.ledger.head.next_offset);
        // What is in flight and in the window comes out of the pool, and goes back to it.
        let kept_bytes = config.window_bytes_max + config.buffer_bytes_max;
        let ready = if read_only { 0 } else { config.buffer_bytes_max.min(4 * ARENA_BYTES) };
        let pool = ArenaPool::new(ARENA_BYTES, kept_bytes, ready);
        let head = self.ledger.head;
        let append = Append::new(
            pool,
            config.buffer_bytes_max,
            config.when_full,
            head.next_batch,
            head.next_offset,
        );
        let keeper = Keeper::new(kept, self.clock.now());
        Core::new(Parts {
            store: self.newest.store,
            epoch: self.epoch,
            storage: self.storage,
            clock: self.clock,
            config,
            read_only,
            recovery,
            tables,
            append,
            pipeline,
            ledger: self.ledger,
            log: self.log,
            supply,
            keeper,
            stats,
        })
    }
}

fn merge_ids(
    a: fanlog_segment_format::checkpoint::NextIds,
    b: fanlog_segment_format::checkpoint::NextIds,
) -> fanlog_segment_format::checkpoint::NextIds {
    fanlog_segment_format::checkpoint::NextIds {
        exchange: a.exchange.max(b.exchange).max(1),
        queue: a.queue.max(b.queue),
        group: a.group.max(b.group),
        route: a.route.max(b.route),
        segment: a.segment.max(b.segment),
    }
}

fn bad_checkpoint(
    storage: &dyn Storage,
    number: u64,
    source: fanlog_segment_format::DecodeError,
) -> Error {
    Error::decode(storage.path(&FileName::Checkpoint(number).to_string()), 0, source)
}

/// Reads and checks a checkpoint file.
pub(crate) fn read_checkpoint(storage: &dyn Storage, number: u64) -> Result<Checkpoint> {
    let name = FileName::Checkpoint(number).to_string();
    let bytes = read_checkpoint_file(storage, number, &name)?;
    let checkpoint =
        Checkpoint::decode(&bytes).map_err(|source| bad_checkpoint(storage, number, source))?;
    if checkpoint.number != number {
        return Err(Error::Damaged {
            path: storage.path(&name),
            position: 0,
            problem: format!("it is checkpoint {}, under another name", checkpoint.number),
        });
    }
    Ok(checkpoint)
}

/// The bytes of a checkpoint's file, if it is as long as its head says: only then it is read.
fn read_checkpoint_file(storage: &dyn Storage, number: u64, name: &str) -> Result<Vec<u8>> {
    let failed = |op| {
        let path = storage.path(name);
        move |source| Error::io(op, path, source)
    };
    let file = storage.open(name, Access::Read, Purpose::Plain).map_err(failed(FileOp::Open))?;
    let length = file.bytes().map_err(failed(FileOp::Read))?;
    let mut head = [0; CHECKPOINT_HEAD_BYTES];
    let mut read = 0;
    while read < head.len() {
        match file.read_at(read as u64, &mut head[read..]).map_err(failed(FileOp::Read))? {
            0 => break,
            more => read += more,
        }
    }
    if let Some(stated) = Checkpoint::stated_length(&head[..read])
        && stated != length
    {
        let path = storage.path(name);
        let problem = format!("it has {length} bytes, its head says {stated}");
        return Err(Error::Damaged { path, position: 40, problem });
    }
    let is_own = Checkpoint::stated_length(&head).is_some()
        || Checkpoint::stated_length_but_for_version(&head) == Some(length);
    if read == head.len() && !is_own {
        // No checkpoint, or of a newer version: the head says which.
        let source = Checkpoint::decode(&head).expect_err("it states no length");
        return Err(bad_checkpoint(storage, number, source));
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 20];
    while bytes.len() < length {
        let wanted = piece.len().min(length - bytes.len());
        let read =
            file.read_at(bytes.len() as u64, &mut piece[..wanted]).map_err(failed(FileOp::Read))?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..read]);
    }
    Ok(bytes)
}

/// Opens a segment's file.
pub(crate) fn open_segment(
    storage: &dyn Storage,
    name: &str,
    access: Access,
) -> Result<Arc<dyn StorageFile>> {
    storage
        .open(name, access, Purpose::Log)
        .map_err(|source| Error::io(FileOp::Open, storage.path(name), source))
}

/// Reads the first block of a segment's file.
pub(crate) fn read_block(
    storage: &dyn Storage,
    name: &str,
    file: &dyn StorageFile,
) -> Result<AlignedBuffer> {
    let mut block = AlignedBuffer::zeroed(SEGMENT_HEADER_BYTES);
    file.read_exact_at(0, &mut block)
        .map_err(|source| Error::io(FileOp::Read, storage.path(name), source))?;
    Ok(block)
}

/// A store id that no other store has: drawn from the system's own randomness.
pub(crate) fn new_store_id(clock: &dyn Clock) -> StoreId {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let draw = |salt: u64| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(salt ^ clock.wall_us());
        hasher.finish()
    };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&draw(1).to_le_bytes());
    id[8..].copy_from_slice(&draw(2).to_le_bytes());
    StoreId(id)
}
