//! Checkpoints.

use fanlog_segment_format::{CHECKPOINT_MAGIC, Checkpoint, FORMAT_VERSION, checksum, seed_file};

use crate::STORE;

/// Decodes `bytes`, as they are and with a head that fits.
pub fn run(bytes: &[u8]) {
    decode(bytes);
    let mut fitted = bytes.to_vec();
    if fit(&mut fitted).is_some() {
        decode(&fitted);
    }
}

fn decode(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        let again = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&again).expect("it was just encoded"), checkpoint);
        assert_eq!(again, bytes, "there is one encoding");
    }
}

/// Writes magic, version, store, length and checksum; the rest is the input's.
fn fit(bytes: &mut [u8]) -> Option<()> {
    let length = u64::try_from(bytes.len()).ok()?;
    bytes.get_mut(..8)?.copy_from_slice(&CHECKPOINT_MAGIC);
    bytes.get_mut(8..12)?.copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.get_mut(16..32)?.copy_from_slice(&STORE.0);
    bytes.get_mut(40..48)?.copy_from_slice(&length.to_le_bytes());
    let number = u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?);
    let covered = [bytes.get(..60)?, bytes.get(64..)?];
    let checksum = checksum(seed_file(STORE, number), &covered);
    bytes.get_mut(60..64)?.copy_from_slice(&checksum.to_le_bytes());
    Some(())
}
