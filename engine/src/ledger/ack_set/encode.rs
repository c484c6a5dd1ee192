//! Writes runs of offsets as items of the stored form, per page whichever form is shorter.
//!
//! In: maximal runs, increasing. Out: the same bytes for the same set, however it came to be.

use fanlog_segment_format::AckEncoder;

use super::page::{Bitmap, PAGE};
use super::stretch::{page_of, page_start, position_in};

/// Bytes of a stored bitmap: tag, gap and words.
const BITMAP_BYTES: usize = 1 + 1 + PAGE / 8;
/// Most pieces of a page that can be shorter than a bitmap: a run takes 3 bytes at the least.
const PIECES_MAX: usize = BITMAP_BYTES / 3;

/// Appends the runs to `out`.
pub(super) fn encode_runs(runs: impl Iterator<Item = (u64, u64)>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    runs.for_each(|(start, end)| writer.run(start, end));
    writer.finish();
}

/// Gathers the pieces of one page at a time, then decides.
struct Writer<'a> {
    encoder: AckEncoder<'a>,
    /// A run that what follows may still extend.
    open: Option<(u64, u64)>,
    page: u64,
    /// The page's pieces; all of them, while they are shorter than a bitmap.
    pieces: [(u64, u64); PIECES_MAX],
    pieces_len: usize,
    /// What the pieces would take as runs.
    run_bytes: usize,
    /// All of the page's pieces, once a bitmap is shorter.
    bitmap: Option<Box<Bitmap>>,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            encoder: AckEncoder::new(out),
            open: None,
            page: 0,
            pieces: [(0, 0); PIECES_MAX],
            pieces_len: 0,
            run_bytes: 0,
            bitmap: None,
        }
    }

    fn run(&mut self, start: u64, end: u64) {
        let page_end = page_start(page_of(start)).saturating_add(PAGE as u64);
        if end <= page_end {
            return self.piece(start, end);
        }
        self.piece(start, page_end);
        let tail = page_start(page_of(end));
        if page_end < tail {
            self.finish_page();
            self.join(page_end, tail);
        }
        if tail < end {
            self.piece(tail, end);
        }
    }

    /// Takes a run, or the part of one, that lies in one page.
    fn piece(&mut self, start: u64, end: u64) {
        let page = page_of(start);
        if page != self.page {
            self.finish_page();
            self.page = page;
        }
        let before = match self.pieces_len {
            0 => page_start(page),
            len => self.pieces[len - 1].1,
        };
        if self.bitmap.is_none() {
            self.run_bytes += 1 + varint_bytes(start - before) + varint_bytes(end - start);
            if self.run_bytes <= BITMAP_BYTES {
                self.pieces[self.pieces_len] = (start, end);
                self.pieces_len += 1;
                return;
            }
        }
        let pieces = &self.pieces[..self.pieces_len];
        let positions =
            |&(start, end): &(u64, u64)| (position_in(page, start), position_in(page, end));
        let bitmap =
            self.bitmap.get_or_insert_with(|| Bitmap::of_runs(pieces.iter().map(positions)));
        bitmap.insert(position_in(page, start), position_in(page, end));
    }

    fn finish_page(&mut self) {
        if let Some(bitmap) = self.bitmap.take() {
            self.close();
            self.encoder.bits(self.page, bitmap.words());
        } else {
            for at in 0..self.pieces_len {
                let (start, end) = self.pieces[at];
                self.join(start, end);
            }
        }
        (self.pieces_len, self.run_bytes) = (0, 0);
    }

    /// Extends the open run or opens the next one.
    fn join(&mut self, start: u64, end: u64) {
        match &mut self.open {
            Some((_, open_end)) if *open_end == start => *open_end = end,
            _ => {
                self.close();
                self.open = Some((start, end));
            }
        }
    }

    fn close(&mut self) {
        if let Some((start, end)) = self.open.take() {
            self.encoder.run(start, end);
        }
    }

    fn finish(mut self) {
        self.finish_page();
        self.close();
    }
}

/// Bytes that a number takes in LEB128.
fn varint_bytes(value: u64) -> usize {
    1 + (value | 1).ilog2() as usize / 7
}
