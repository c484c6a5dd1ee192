//! Which checkpoint recovery begins with.
//!
//! Two are kept at all times, unless the store is so new that it has only the first: one is removed
//! only after the next has its name. So a single one says that another is missing, and opening sees
//! it even where that was the newest.

use fanlog_segment_format::{
    StoreId, checkpoint::Checkpoint, file_name::FileName, layout::CHECKPOINT_MAGIC,
};

use super::{create, harm::Harm, inventory::Inventory, read_checkpoint, strays};
use crate::{
    Error, Result,
    config::OnDamage,
    error::{ErrorKind, FileOp},
    storage::{Access, Purpose, Storage},
};

/// Segments whose headers are looked at to find out whose store it is.
const SEGMENTS_ASKED: usize = 5;

/// Reads the checkpoint to begin with; `None` if there is none.
///
/// # Errors
///
/// What is wrong with the newest; where damage may be quarantined only if none is of use.
pub(super) fn choose(
    storage: &dyn Storage,
    inventory: &Inventory,
    on_damage: OnDamage,
    harm: &mut Harm,
) -> Result<Option<Checkpoint>> {
    let mut numbers = inventory.checkpoints.iter().rev().copied();
    let Some(newest) = numbers.next() else { return none(storage, inventory) };
    let older = numbers.next();
    let problem = match check(storage, inventory, newest, older) {
        Ok(checkpoint) => {
            if on_damage == OnDamage::Repair {
                look_at_older(storage, inventory, &checkpoint, harm)?;
            }
            return Ok(Some(checkpoint));
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => error,
        Err(error) => return Err(error),
    };
    if on_damage == OnDamage::Fail {
        return Err(problem);
    }
    for number in inventory.checkpoints.iter().rev().copied() {
        match read_own(storage, inventory, number) {
            Ok(checkpoint) => {
                harm.note(&problem, checkpoint.head.next_offset, checkpoint.head.next_offset);
                harm.epochs = 1;
                return Ok(Some(checkpoint));
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                harm.set_aside(&FileName::Checkpoint(number).to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Err(problem)
}

/// Notes which checkpoints before the newest are damaged: nothing needs them, so it costs nothing.
fn look_at_older(
    storage: &dyn Storage,
    inventory: &Inventory,
    newest: &Checkpoint,
    harm: &mut Harm,
) -> Result<()> {
    let older = inventory.checkpoints.iter().copied().filter(|&number| number < newest.number);
    for number in older {
        match read_own(storage, inventory, number) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                harm.note(&error, newest.head.next_offset, newest.head.next_offset);
                harm.set_aside(&FileName::Checkpoint(number).to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn none(storage: &dyn Storage, inventory: &Inventory) -> Result<Option<Checkpoint>> {
    match inventory.segments.keys().next() {
        None => Ok(None),
        Some(&(id, generation)) => Err(Error::Damaged {
            path: storage.path(&FileName::of_segment(id, generation).to_string()),
            position: 0,
            problem: "there is a segment but no checkpoint".into(),
        }),
    }
}

/// The newest checkpoint, if it is valid and has the one before beside it.
fn check(
    storage: &dyn Storage,
    inventory: &Inventory,
    newest: u64,
    older: Option<u64>,
) -> Result<Checkpoint> {
    let checkpoint = read_own(storage, inventory, newest)?;
    if older.is_none() && newest != create::FIRST {
        return Err(Error::Damaged {
            path: storage.path(&FileName::Checkpoint(newest).to_string()),
            position: 0,
            problem:
                "it is the only checkpoint, expected were two: the one before it is missing, or \
                      the one after it"
                    .to_owned(),
        });
    }
    Ok(checkpoint)
}

/// A checkpoint that is valid and of the store that the segments are of.
fn read_own(storage: &dyn Storage, inventory: &Inventory, number: u64) -> Result<Checkpoint> {
    let checkpoint = read_checkpoint(storage, number)?;
    match owner(storage, inventory)? {
        Some(owner) if owner != checkpoint.store => Err(Error::Damaged {
            path: storage.path(&FileName::Checkpoint(number).to_string()),
            position: 16,
            problem: "it belongs to another store than the segments".to_owned(),
        }),
        _ => Ok(checkpoint),
    }
}

/// The store that most of the files say they are of: a stranger among them does not decide.
fn owner(storage: &dyn Storage, inventory: &Inventory) -> Result<Option<StoreId>> {
    let mut found: Vec<StoreId> = Vec::new();
    for &number in inventory.checkpoints.iter().rev().take(2) {
        found.extend(store_of(storage, number)?);
    }
    // A few are enough, and a store may have many.
    for &(id, generation) in inventory.segments.keys().take(SEGMENTS_ASKED) {
        let header = strays::header_of(storage, inventory, id, generation)?;
        found.extend(header.map(|header| header.store));
    }
    let votes = |store: &StoreId| found.iter().filter(|&other| other == store).count();
    // Of equals the first: that of the newest checkpoint.
    let owner = found.iter().rev().max_by_key(|&store| votes(store));
    Ok(owner.copied())
}

/// The store that the head of a checkpoint states, if it is one.
fn store_of(storage: &dyn Storage, number: u64) -> Result<Option<StoreId>> {
    let name = FileName::Checkpoint(number).to_string();
    let failed = |op| {
        let path = storage.path(&name);
        move |source| Error::io(op, path, source)
    };
    let file = storage.open(&name, Access::Read, Purpose::Plain).map_err(failed(FileOp::Open))?;
    let mut head = [0; 32];
    let read = file.read_at(0, &mut head).map_err(failed(FileOp::Read))?;
    let is_one = read == head.len() && head.starts_with(&CHECKPOINT_MAGIC);
    let store = head[16..].try_into().expect("16 bytes are left");
    Ok(is_one.then_some(StoreId(store)))
}
