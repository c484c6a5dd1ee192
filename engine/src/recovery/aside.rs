//! What a repair takes out of a store, and the copies that stay of it.
//!
//! A damaged file gets another name (`harm`); of a torn tail, whose file stays in use, a copy is made
//! here before anything else is written.

use std::path::Path;

use fanlog_segment_format::file_name::FileName;

use super::{Cut, Found, SetAside};
use crate::{
    Config, Error, OnDamage, Result,
    error::FileOp,
    storage::{Access, Purpose, Storage, WriteSync},
};

const PREFIX: &str = "damaged-tail-";
const PIECE_BYTES: usize = 1 << 20;

impl Found {
    /// What is not going to be part of the store any more.
    pub(super) fn what_goes(&self, config: &Config, cuts: &[Cut]) -> Result<Vec<SetAside>> {
        let mut going = Vec::new();
        if self.harm.any() {
            let entries = self
                .storage
                .list()
                .map_err(|source| Error::io(FileOp::List, self.storage.path(""), source))?;
            for entry in entries {
                let serves = self.log.segments().iter().any(|segment| segment.name == entry.name);
                if self.harm.aside.contains(&entry.name) && !serves {
                    let path = self.storage.path(&entry.name);
                    going.push(SetAside { path, position: 0, bytes: entry.bytes, kept_as: None });
                }
            }
        }
        if config.on_damage == OnDamage::Repair {
            going.extend(cuts.iter().map(|cut| {
                let &Cut { ref path, position, bytes, .. } = cut;
                SetAside { path: path.clone(), position, bytes, kept_as: None }
            }));
        }
        going.sort_by(|a, b| (&a.path, a.position).cmp(&(&b.path, b.position)));
        Ok(going)
    }

    /// Notes which names the files got.
    pub(super) fn name_kept(&self, gone: &mut [SetAside]) {
        for gone in gone.iter_mut().filter(|gone| gone.kept_as.is_none()) {
            let target = self.inventory.kept_as(name_of(&gone.path));
            gone.kept_as = target.map(|target| self.storage.path(target));
        }
    }
}

/// Copies the torn tails among `gone` to files of their own, durably, and notes their names.
///
/// A crash may leave a copy that is not whole; the next repair makes another.
pub(super) fn keep_tails(storage: &dyn Storage, gone: &mut [SetAside]) -> Result<()> {
    let mut any = false;
    for tail in gone.iter_mut().filter(|tail| tail.position > 0) {
        let name = copy_tail(storage, tail)?;
        tail.kept_as = Some(storage.path(&name));
        any = true;
    }
    if any {
        storage
            .sync_directory()
            .map_err(|source| Error::io(FileOp::SyncDirectory, storage.path(""), source))?;
    }
    Ok(())
}

/// Copies one; returns the name of the copy.
fn copy_tail(storage: &dyn Storage, tail: &SetAside) -> Result<String> {
    let from = name_of(&tail.path);
    let failed = |op, name: &str| {
        let path = storage.path(name);
        move |source| Error::io(op, path, source)
    };
    let source =
        storage.open(from, Access::Read, Purpose::Plain).map_err(failed(FileOp::Open, from))?;
    let mut number = 1;
    let (name, copy) = loop {
        let name = match number {
            1 => format!("{PREFIX}{from}-{}", tail.position),
            _ => format!("{PREFIX}{from}-{}-{number}", tail.position),
        };
        match storage.create(&name, Purpose::Plain) {
            Ok(copy) => break (name, copy),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(failed(FileOp::Create, &name)(error)),
        }
    };
    let mut piece = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < tail.bytes {
        let left = usize::try_from(tail.bytes - done).unwrap_or(PIECE_BYTES);
        let wanted = left.min(PIECE_BYTES);
        let read = source
            .read_at(tail.position + done, &mut piece[..wanted])
            .map_err(failed(FileOp::Read, from))?;
        if read == 0 {
            break;
        }
        copy.write_all_at(done, &piece[..read], WriteSync::None)
            .map_err(failed(FileOp::Write, &name))?;
        done += read as u64;
    }
    copy.sync().map_err(failed(FileOp::Sync, &name))?;
    Ok(name)
}

/// The name of a file of the store.
fn name_of(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str());
    debug_assert!(name.is_some_and(|name| FileName::parse(name).is_some()), "{}", path.display());
    name.unwrap_or_default()
}
