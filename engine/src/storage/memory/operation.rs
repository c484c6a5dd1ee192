//! What is remembered of each mutating call.

/// A mutating call to a [`MemoryStorage`](super::MemoryStorage).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// Its place among all of them: 0, 1, 2, ... without gaps.
    pub number: u64,
    /// Which call.
    pub kind: OperationKind,
    /// The file's name at that time; for a rename the old name; empty for a sync of the directory.
    pub name: String,
    /// For a rename, the new name.
    pub renamed_to: Option<String>,
    /// Where a write starts, in bytes; else 0.
    pub position: u64,
    /// How many bytes are written, or the size that is allocated; else 0.
    pub bytes: u64,
}

/// Which mutating call an [`Operation`] was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// [`write_at`](crate::storage::StorageFile::write_at) without a sync.
    Write,
    /// [`write_at`](crate::storage::StorageFile::write_at), durable on return.
    WriteData,
    /// [`sync`](crate::storage::StorageFile::sync) of a file.
    Sync,
    /// [`create`](crate::storage::Storage::create), or the first
    /// [`lock`](crate::storage::Storage::lock) of a name, which creates its file, or
    /// [`link`](crate::storage::Storage::link).
    Create,
    /// [`rename`](crate::storage::Storage::rename).
    Rename,
    /// [`remove`](crate::storage::Storage::remove).
    Remove,
    /// [`sync_directory`](crate::storage::Storage::sync_directory).
    SyncDirectory,
    /// [`allocate`](crate::storage::StorageFile::allocate).
    Allocate,
}
