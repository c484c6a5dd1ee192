//! The bytes of one version of a file: 4 KiB pages, shared between versions until written.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE_BYTES: usize = 4096;

/// A sparse run of bytes. A page that is not there is all zeros; no page reaches past the end with
/// anything but zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    bytes: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
}

impl Pages {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Cuts, or extends with zeros.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let (last, kept) = place(bytes);
            drop(self.pages.split_off(&(last + u64::from(kept > 0))));
            if let Some(page) = self.pages.get_mut(&last) {
                Arc::make_mut(page)[kept..].fill(0);
            }
        }
        self.bytes = bytes;
    }

    /// Writes all of `bytes`, extending as needed. The caller has checked that the end is in `u64`.
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        let (mut number, mut start) = place(position);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - start));
            let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[start..start + now.len()].copy_from_slice(now);
            (number, start, rest) = (number + 1, 0, later);
        }
        if !bytes.is_empty() {
            self.bytes = self.bytes.max(position + bytes.len() as u64);
        }
    }

    /// Reads at `position`; returns how many bytes, fewer than asked for only at the end.
    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) -> usize {
        let there = usize::try_from(self.bytes.saturating_sub(position)).unwrap_or(usize::MAX);
        let length = buffer.len().min(there);
        let (mut number, mut start) = place(position);
        let mut rest = &mut buffer[..length];
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE_BYTES - start));
            match self.pages.get(&number) {
                Some(page) => now.copy_from_slice(&page[start..start + now.len()]),
                None => now.fill(0),
            }
            (number, start, rest) = (number + 1, 0, later);
        }
        length
    }
}

/// The page of a position, and where in it.
fn place(position: u64) -> (u64, usize) {
    let within = usize::try_from(position % PAGE_BYTES as u64).expect("less than a page");
    (position / PAGE_BYTES as u64, within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pages: &Pages) -> Vec<u8> {
        let mut bytes = vec![0xee; usize::try_from(pages.bytes()).unwrap()];
        assert_eq!(pages.read(0, &mut bytes), bytes.len());
        bytes
    }

    #[test]
    fn pages_hold_what_a_vector_would() {
        let mut pages = Pages::default();
        let mut model: Vec<u8> = Vec::new();
        for (byte, (position, length)) in
            (1..).zip([(0, 10), (4090, 20), (4096, 4096), (20_000, 1), (8191, 5000), (5, 0)])
        {
            pages.write(position as u64, &vec![byte; length]);
            model.resize(model.len().max(position + length), 0);
            model[position..position + length].fill(byte);
            assert_eq!(all(&pages), model);
        }
        for bytes in [19_999, 8192, 8193, 12_288, 4100, 4096, 9000, 1, 0, 5000] {
            pages.set_bytes(bytes as u64);
            model.resize(bytes, 0);
            assert_eq!(all(&pages), model, "{bytes}");
        }
    }

    #[test]
    fn a_read_ends_where_the_bytes_end() {
        let mut pages = Pages::default();
        pages.write(0, &[1; 100]);
        assert_eq!(pages.read(90, &mut [0; 20]), 10);
        assert_eq!(pages.read(100, &mut [0; 20]), 0);
        assert_eq!(pages.read(u64::MAX, &mut [0; 20]), 0);
    }

    #[test]
    fn writing_a_copy_leaves_the_original() {
        let mut pages = Pages::default();
        pages.write(0, &[1; 5000]);
        let before = pages.clone();
        pages.write(4500, &[2; 10]);
        assert_eq!(all(&before), [1; 5000]);
    }
}
