//! What an operation on the disk was for.

use std::collections::BTreeMap;

use fanlog::storage::{Operation, OperationKind};

/// Purposes of the operations that a store makes, as tests count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is named by what it is")]
pub enum Purpose {
    LockCreate,
    BatchWrite,
    SegmentSync,
    SegmentHeader,
    SegmentZeros,
    SegmentCreate,
    FooterWrite,
    CheckpointCreate,
    CheckpointWrite,
    CheckpointSync,
    CheckpointRename,
    CheckpointRemove,
    FreeCreate,
    FreeZeros,
    FreeSync,
    FreeBlank,
    FreeToSegment,
    SegmentToFree,
    SegmentRemove,
    FreeRemove,
    TemporaryRemove,
    RewriteCreate,
    RewriteWrite,
    RewriteSync,
    RewriteRename,
    RewriteRemove,
    DirectorySync,
}

const SEGMENT_HEADER: u64 = 4096;

/// Says what each operation of a run was for. Sizes of segments are learnt on the way.
#[derive(Debug, Default)]
pub struct Classifier {
    sizes: BTreeMap<String, u64>,
}

impl Classifier {
    /// The purpose of the next operation of a run, in order.
    ///
    /// `segment_bytes` is what a segment has that was not seen when it was made.
    pub fn purpose(&mut self, operation: &Operation, segment_bytes: u64) -> Purpose {
        use OperationKind as Kind;
        let name = operation.name.as_str();
        match operation.kind {
            Kind::SyncDirectory => return Purpose::DirectorySync,
            Kind::Allocate => {
                self.sizes.insert(name.to_owned(), operation.bytes);
            }
            Kind::Rename => {
                if let (Some(bytes), Some(to)) = (self.sizes.remove(name), &operation.renamed_to) {
                    self.sizes.insert(to.clone(), bytes);
                }
            }
            _ => {}
        }
        if name.starts_with("free-") {
            free(operation)
        } else if extension(name) == "seg" {
            let bytes = self.sizes.get(name).copied().unwrap_or(segment_bytes);
            segment(operation, bytes)
        } else if name.ends_with(".seg.tmp") {
            match operation.kind {
                Kind::Create | Kind::Allocate => Purpose::RewriteCreate,
                Kind::Sync => Purpose::RewriteSync,
                Kind::Rename => Purpose::RewriteRename,
                Kind::Remove => Purpose::RewriteRemove,
                _ => Purpose::RewriteWrite,
            }
        } else if extension(name) == "tmp" {
            match operation.kind {
                Kind::Create => Purpose::CheckpointCreate,
                Kind::Sync => Purpose::CheckpointSync,
                Kind::Rename => Purpose::CheckpointRename,
                Kind::Remove => Purpose::TemporaryRemove,
                _ => Purpose::CheckpointWrite,
            }
        } else if extension(name) == "ckpt" {
            Purpose::CheckpointRemove
        } else {
            Purpose::LockCreate
        }
    }
}

/// What stands behind the last dot of a file's name.
pub fn extension(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

fn free(operation: &Operation) -> Purpose {
    use OperationKind as Kind;
    match operation.kind {
        Kind::Create | Kind::Allocate => Purpose::FreeCreate,
        Kind::WriteData => Purpose::FreeBlank,
        Kind::Sync => Purpose::FreeSync,
        Kind::Rename => Purpose::FreeToSegment,
        Kind::Remove => Purpose::FreeRemove,
        _ => Purpose::FreeZeros,
    }
}

fn segment(operation: &Operation, bytes: u64) -> Purpose {
    use OperationKind as Kind;
    match operation.kind {
        Kind::Create | Kind::Allocate => Purpose::SegmentCreate,
        Kind::Sync => Purpose::SegmentSync,
        Kind::Rename => Purpose::SegmentToFree,
        Kind::Remove => Purpose::SegmentRemove,
        Kind::Write if operation.position == 0 => Purpose::SegmentZeros,
        _ if operation.position < SEGMENT_HEADER => Purpose::SegmentHeader,
        _ if operation.position + operation.bytes == bytes => Purpose::FooterWrite,
        _ => Purpose::BatchWrite,
    }
}
