//! The state of a disk in memory, and each call's effect on it.
//!
//! Owns names, inodes, open handles, locks, the operation log and the power switch. An inode stays
//! until nothing names it, no crash may bring its name back, and no handle is open.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;

use super::super::{Entry, WriteSync};
use super::crash::{CrashMode, Random};
use super::inode::Inode;
use super::names::Names;
use super::operation::{Operation, OperationKind};
use super::pages::Pages;

/// A file can't be larger, as in most file systems: 2^63 - 1 bytes.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

#[derive(Debug, Default)]
pub(super) struct Disk {
    names: Names,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Open handles per inode.
    handles: BTreeMap<u64, u64>,
    locks: BTreeMap<String, Lock>,
    capacity: Option<u64>,
    operations: Vec<Operation>,
    cut_at: Option<u64>,
    off: bool,
}

#[derive(Debug)]
enum Lock {
    Exclusive,
    Shared(u64),
}

/// How a mutating call takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// It goes off during this call.
    Failing,
}

/// Operations, power and copies.
impl Disk {
    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(super) fn cut_at(&mut self, number: u64) {
        self.cut_at = Some(number);
    }

    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    /// This disk, unless its power is off.
    pub(super) fn powered(&mut self) -> io::Result<&mut Self> {
        if self.off { Err(machine_is_off()) } else { Ok(self) }
    }

    pub(super) fn crash_image(&self, seed: u64, mode: CrashMode) -> Self {
        let mut random = Random::new(seed);
        let names = self.names.after_crash(mode, &mut random);
        let mut inodes = BTreeMap::new();
        for (name, number) in &names {
            let left = self.inode(*number).after_crash(mode, &mut random);
            inodes.insert(*number, Inode::settled(name, left));
        }
        Self {
            names: Names::settled(names),
            inodes,
            next_inode: self.next_inode,
            capacity: self.capacity,
            ..Self::default()
        }
    }

    pub(super) fn deep_copy(&self) -> Self {
        let mut copy = Self {
            names: self.names.clone(),
            inodes: self.inodes.clone(),
            next_inode: self.next_inode,
            handles: BTreeMap::new(),
            locks: BTreeMap::new(),
            capacity: self.capacity,
            operations: self.operations.clone(),
            cut_at: self.cut_at,
            off: self.off,
        };
        copy.collect();
        copy
    }

    /// Carries out one mutating call, numbered and labelled.
    fn operate<T>(
        &mut self,
        label: Operation,
        call: impl FnOnce(&mut Self, Power) -> io::Result<T>,
    ) -> io::Result<T> {
        let number = self.powered()?.operations.len() as u64;
        self.operations.push(Operation { number, ..label });
        if self.cut_at.is_some_and(|cut| number >= cut) {
            // Whatever it would have answered, nobody hears it.
            drop(call(self, Power::Failing));
            self.off = true;
            return Err(machine_is_off());
        }
        call(self, Power::On)
    }
}

/// Names and locks.
impl Disk {
    pub(super) fn find(&self, name: &str) -> io::Result<u64> {
        self.names.present().get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn list(&self) -> Vec<Entry> {
        let entry = |(name, inode): (&String, &u64)| Entry {
            name: name.clone(),
            bytes: self.inode(*inode).bytes(),
            is_file: true,
        };
        self.names.present().iter().map(entry).collect()
    }

    /// Creates a file and counts a handle to it.
    pub(super) fn create(&mut self, name: &str) -> io::Result<u64> {
        let inode = self.add_file(name)?;
        self.open_handle(inode);
        Ok(inode)
    }

    /// Counts a handle to the file `name`.
    pub(super) fn open(&mut self, name: &str) -> io::Result<u64> {
        let inode = self.find(name)?;
        self.open_handle(inode);
        Ok(inode)
    }

    pub(super) fn close(&mut self, inode: u64) {
        let count = self.handles.get_mut(&inode).expect("a handle is closed once");
        *count -= 1;
        if *count == 0 {
            self.handles.remove(&inode);
            self.collect();
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut label = label(OperationKind::Rename, from, 0, 0);
        label.renamed_to = Some(to.to_owned());
        self.operate(label, |disk, _| {
            let inode = disk.find(from)?;
            disk.names.rename(from, to);
            to.clone_into(&mut disk.inode_mut(inode).name);
            disk.collect();
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.operate(label(OperationKind::Remove, name, 0, 0), |disk, _| {
            disk.find(name)?;
            disk.names.remove(name);
            disk.collect();
            Ok(())
        })
    }

    /// Gives a file a further name.
    pub(super) fn link(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.operate(label(OperationKind::Create, to, 0, 0), |disk, _| {
            let inode = disk.find(name)?;
            if disk.find(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            disk.names.create(to, inode);
            Ok(())
        })
    }

    /// How many names the file has.
    pub(super) fn links(&self, name: &str) -> io::Result<u64> {
        let inode = self.find(name)?;
        Ok(self.names.present().values().filter(|&&other| other == inode).count() as u64)
    }

    pub(super) fn sync_directory(&mut self) -> io::Result<()> {
        self.operate(label(OperationKind::SyncDirectory, "", 0, 0), |disk, power| {
            if power == Power::On {
                disk.names.sync();
                disk.collect();
            }
            Ok(())
        })
    }

    /// Takes a lock, creating its file if needed; false if it is held.
    pub(super) fn lock_exclusive(&mut self, name: &str) -> io::Result<bool> {
        if self.powered()?.find(name).is_err() {
            self.add_file(name)?;
        }
        if self.locks.contains_key(name) {
            return Ok(false);
        }
        self.locks.insert(name.to_owned(), Lock::Exclusive);
        Ok(true)
    }

    /// Takes a lock beside other readers; false if a writer holds it.
    pub(super) fn lock_shared(&mut self, name: &str) -> bool {
        match self.locks.entry(name.to_owned()).or_insert(Lock::Shared(0)) {
            Lock::Exclusive => false,
            Lock::Shared(count) => {
                *count += 1;
                true
            }
        }
    }

    /// Gives back one lock.
    pub(super) fn unlock(&mut self, name: &str) {
        match self.locks.get_mut(name) {
            Some(Lock::Shared(count)) if *count > 1 => *count -= 1,
            _ => {
                self.locks.remove(name);
            }
        }
    }

    fn add_file(&mut self, name: &str) -> io::Result<u64> {
        self.operate(label(OperationKind::Create, name, 0, 0), |disk, _| {
            if disk.find(name).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = disk.add_inode(Inode::new(name));
            disk.names.create(name, inode);
            Ok(inode)
        })
    }

    fn add_inode(&mut self, inode: Inode) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, inode);
        number
    }

    fn open_handle(&mut self, inode: u64) {
        *self.handles.entry(inode).or_default() += 1;
    }

    /// Forgets inodes that nothing can reach any more.
    fn collect(&mut self) {
        let named = self.names.inodes();
        self.inodes.retain(|number, _| named.contains(number) || self.handles.contains_key(number));
    }
}

/// Bytes and space.
impl Disk {
    pub(super) fn inode(&self, number: u64) -> &Inode {
        self.inodes.get(&number).expect("named or open inodes stay")
    }

    pub(super) fn inode_mut(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).expect("named or open inodes stay")
    }

    pub(super) fn write(
        &mut self,
        inode: u64,
        position: u64,
        bytes: &[u8],
        sync: WriteSync,
    ) -> io::Result<usize> {
        let kind = match sync {
            WriteSync::None => OperationKind::Write,
            WriteSync::Data => OperationKind::WriteData,
        };
        let label = label(kind, &self.inode(inode).name, position, bytes.len() as u64);
        self.operate(label, |disk, power| {
            if bytes.is_empty() {
                return Ok(0);
            }
            let end = position.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
            disk.check_room(inode, end)?;
            match (sync, power) {
                (WriteSync::Data, Power::On) => {
                    disk.inode_mut(inode).write_durably(position, bytes);
                }
                _ => disk.inode_mut(inode).write(position, bytes),
            }
            Ok(bytes.len())
        })
    }

    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        let label = label(OperationKind::Sync, &self.inode(inode).name, 0, 0);
        self.operate(label, |disk, power| {
            if power == Power::On {
                disk.inode_mut(inode).sync();
            }
            Ok(())
        })
    }

    pub(super) fn allocate(&mut self, inode: u64, bytes: u64) -> io::Result<()> {
        let label = label(OperationKind::Allocate, &self.inode(inode).name, 0, bytes);
        self.operate(label, |disk, _| {
            disk.check_room(inode, bytes)?;
            disk.inode_mut(inode).grow(bytes);
            Ok(())
        })
    }

    pub(super) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity = bytes;
    }

    /// What is left of the capacity, if there is one.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn used_bytes(&self) -> u64 {
        let mut used: BTreeMap<u64, u64> = BTreeMap::new();
        for number in self.names.present().values().chain(self.handles.keys()) {
            used.insert(*number, self.inode(*number).bytes());
        }
        used.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    fn check_room(&self, inode: u64, bytes: u64) -> io::Result<()> {
        if bytes > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        let more = bytes.saturating_sub(self.inode(inode).bytes());
        if more > 0 && self.free_bytes().is_some_and(|free| more > free) {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }
}

/// Damage at rest. No operations, whether there is power or not.
impl Disk {
    /// The file `name`, with all that was written to it durable.
    pub(super) fn settled(&mut self, name: &str) -> io::Result<&mut Inode> {
        let number = self.find(name)?;
        let inode = self.inode_mut(number);
        inode.sync();
        Ok(inode)
    }

    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) {
        let mut contents = Pages::default();
        contents.write(0, bytes);
        let inode = self.add_inode(Inode::settled(name, contents));
        self.names.create(name, inode);
        self.names.sync();
        self.collect();
    }

    pub(super) fn take_away(&mut self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.names.remove(name);
        self.names.sync();
        self.collect();
        Ok(())
    }
}

fn label(kind: OperationKind, name: &str, position: u64, bytes: u64) -> Operation {
    Operation { number: 0, kind, name: name.to_owned(), renamed_to: None, position, bytes }
}

fn machine_is_off() -> io::Error {
    io::Error::other("the machine is off")
}
