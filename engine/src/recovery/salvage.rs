//! A new file from what a damaged segment still holds: same offsets, higher generation, sealed.
//!
//! Messages only: what the control records say is in the checkpoint that lists the new file.

use fanlog_segment_format::{
    LogPosition, Offset,
    batch::{BatchHeader, seal_batch},
    file_name::{FileName, TemporaryOf},
    footer::FooterBuilder,
    header::SegmentHeader,
    layout::{
        BATCH_HEADER_BYTES, BLOCK_BYTES, COMMIT_MARK_BYTES, RECORD_ALIGN, SEGMENT_HEADER_BYTES,
        align_up,
    },
};

use crate::{
    Error, Result,
    error::FileOp,
    log::gather::{Gathered, Known},
    storage::{AlignedBuffer, Purpose, Storage, WriteSync},
};

/// A segment's file, made of what was gathered.
pub(super) struct Salvaged {
    pub(super) header: SegmentHeader,
    pub(super) bytes: Vec<u8>,
    pub(super) log_end: u64,
}

/// Puts the messages of `batches`, which were gathered from `source`, into a file of their own that
/// stands for the offsets up to `end`. `None` if there are no messages.
pub(super) fn rebuild(
    source: &[u8],
    known: &Known,
    batches: &[Gathered],
    end: Offset,
) -> Option<Salvaged> {
    let first = batches.iter().find(|batch| !batch.messages.is_empty())?;
    let mut header = known.header;
    header.generation = header.generation.saturating_add(1);
    // So that the footer is put right behind the batches.
    header.file_bytes = 0;
    header.epoch = header.epoch.max(first.epoch);
    header.first_batch = header.first_batch.min(first.number);
    let mut out = vec![0; SEGMENT_HEADER_BYTES];
    let mut footer = FooterBuilder::new(&header);
    let mut previous = header.previous;
    let mut messages = 0;
    for batch in batches.iter().filter(|batch| !batch.messages.is_empty()) {
        let position = out.len();
        previous = copy_batch(source, &header, batch, previous, &mut out, &mut footer);
        let total = u32_of(out.len() - position);
        footer.batch(u32_of(position), total, messages, batch.number);
        messages += u32_of(batch.messages.len());
        footer.end(out.len() as u64, batch.number, previous);
    }
    footer.cover_to(end);
    let log_end = out.len() as u64;
    header.file_bytes = log_end + footer.encoded_bytes() as u64;
    out.extend_from_slice(&footer.encode());
    out[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
    Some(Salvaged { header, bytes: out, log_end })
}

/// Appends one batch; returns its checksum.
fn copy_batch(
    source: &[u8],
    segment: &SegmentHeader,
    batch: &Gathered,
    previous: u32,
    out: &mut Vec<u8>,
    footer: &mut FooterBuilder,
) -> u32 {
    let start = out.len();
    out.resize(start + BATCH_HEADER_BYTES, 0);
    for message in &batch.messages {
        let position = u32_of(out.len());
        let record = message.position as usize..(message.position + message.length) as usize;
        out.extend_from_slice(&source[record]);
        out.resize(align_up(out.len(), RECORD_ALIGN), 0);
        message.list_at(position, footer);
    }
    let body_bytes = out.len() - start - BATCH_HEADER_BYTES;
    out.resize(start + align_up(out.len() - start + COMMIT_MARK_BYTES, BLOCK_BYTES), 0);
    let header = BatchHeader {
        store: segment.store,
        segment: segment.segment,
        position: start as u64,
        epoch: batch.epoch,
        number: batch.number,
        first_offset: batch.messages[0].offset,
        messages: u32_of(batch.messages.len()),
        controls: 0,
        body_bytes: u32_of(body_bytes),
        durable: LogPosition { segment: segment.segment, position: 0 },
        previous,
        time_us: segment.created_us,
        flags: 0,
    };
    seal_batch(&header, &mut out[start..])
}

/// Writes a salvaged segment under its name, durably but for the name.
pub(super) fn store(storage: &dyn Storage, salvaged: &Salvaged) -> Result<String> {
    let (id, generation) = (salvaged.header.segment, salvaged.header.generation);
    let name = FileName::of_segment(id, generation).to_string();
    let temporary = FileName::Temporary(TemporaryOf::Rewritten(id, generation)).to_string();
    let failed = |op| {
        let path = storage.path(&temporary);
        move |source| Error::io(op, path, source)
    };
    // One that an earlier attempt left half-written.
    match storage.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(FileOp::Remove)(error));
        }
        _ => {}
    }
    let mut aligned = AlignedBuffer::zeroed(salvaged.bytes.len());
    aligned.copy_from_slice(&salvaged.bytes);
    let file = storage.create(&temporary, Purpose::Log).map_err(failed(FileOp::Create))?;
    file.write_all_at(0, &aligned, WriteSync::None).map_err(failed(FileOp::Write))?;
    file.sync().map_err(failed(FileOp::Sync))?;
    storage.rename(&temporary, &name).map_err(failed(FileOp::Rename))?;
    Ok(name)
}

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("a segment is at most 1 GiB, and so is what is copied from it")
}
