//! Why bytes do not decode: which structure, at which byte, what was expected and found.

/// Bytes that are not a valid structure of this format.
///
/// Positions count from the start of the slice that was given to the decoder; [`shifted`] turns
/// them into positions of the file. The name of the file is for the caller to add.
///
/// [`shifted`]: DecodeError::shifted
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written in another version of the format. This is not damage.
    #[error("format version {found} is not supported, only {supported}")]
    UnsupportedVersion {
        /// The version that the file states.
        found: u32,
        /// The version that this crate reads.
        supported: u32,
    },
    /// A record of a kind that this version does not know.
    #[error("record at byte {position} is of kind {kind}, which this version does not know")]
    UnsupportedRecord {
        /// Where the record starts.
        position: u64,
        /// Its kind.
        kind: u8,
    },
    /// The structure does not start with its magic number.
    #[error("{structure} at byte {position}: expected magic {}, found {}",
        expected.escape_ascii(), found.escape_ascii())]
    BadMagic {
        /// Which structure was expected.
        structure: &'static str,
        /// Where it should start.
        position: u64,
        /// Its magic number.
        expected: [u8; 8],
        /// What stands there.
        found: [u8; 8],
    },
    /// The bytes are not those that were written, or not in their place.
    #[error("{structure} at byte {position}: checksum {found:08x} stored, {expected:08x} computed")]
    Checksum {
        /// Which structure.
        structure: &'static str,
        /// Where it starts.
        position: u64,
        /// The checksum of the bytes that are there.
        expected: u32,
        /// The checksum that is stored with them.
        found: u32,
    },
    /// A length that cannot be.
    #[error("{structure} at byte {position}: length {found}, expected {least} to {most}")]
    Length {
        /// Which structure.
        structure: &'static str,
        /// Where the length, or what should have that length, stands.
        position: u64,
        /// The smallest valid length.
        least: u64,
        /// The largest valid length.
        most: u64,
        /// The length that was found.
        found: u64,
    },
    /// A field whose value breaks a rule of the format.
    #[error("{structure}: {field} at byte {position} is {found}, expected {expected}")]
    Field {
        /// Which structure.
        structure: &'static str,
        /// Where the field stands.
        position: u64,
        /// Its name in FORMAT.md.
        field: &'static str,
        /// What it should have been, in words.
        expected: &'static str,
        /// Its value.
        found: u64,
    },
    /// A field that should repeat a known value, and does not: valid bytes in a wrong place.
    #[error("{structure}: {field} at byte {position} is {found}, expected {expected}")]
    Mismatch {
        /// Which structure.
        structure: &'static str,
        /// Where the field stands.
        position: u64,
        /// Its name in FORMAT.md.
        field: &'static str,
        /// The value that belongs there.
        expected: u64,
        /// Its value.
        found: u64,
    },
    /// The slice ends within the structure.
    #[error("{structure} at byte {position} needs {needed} bytes, only {found} are left")]
    Truncated {
        /// Which structure.
        structure: &'static str,
        /// Where the bytes should start.
        position: u64,
        /// How many are needed from there.
        needed: u64,
        /// How many there are.
        found: u64,
    },
}

impl DecodeError {
    /// All of a structure is as this version has it, but for the bytes that state the version.
    pub(crate) fn of_damaged_version(structure: &'static str, found: u32) -> Self {
        let (field, expected) = ("version", "1, which all else is of");
        Self::Field { structure, position: 8, field, expected, found: found.into() }
    }

    /// Returns the name of the structure that did not decode.
    pub fn structure(&self) -> &'static str {
        match self {
            Self::UnsupportedVersion { .. } => "file",
            Self::UnsupportedRecord { .. } => "record",
            Self::BadMagic { structure, .. }
            | Self::Checksum { structure, .. }
            | Self::Length { structure, .. }
            | Self::Field { structure, .. }
            | Self::Mismatch { structure, .. }
            | Self::Truncated { structure, .. } => structure,
        }
    }

    /// Returns the byte at which it was found, counted as the variants' `position`.
    pub fn position(&self) -> u64 {
        match *self {
            // The version stands behind the magic number, in every file that has one.
            Self::UnsupportedVersion { .. } => 8,
            Self::UnsupportedRecord { position, .. }
            | Self::BadMagic { position, .. }
            | Self::Checksum { position, .. }
            | Self::Length { position, .. }
            | Self::Field { position, .. }
            | Self::Mismatch { position, .. }
            | Self::Truncated { position, .. } => position,
        }
    }

    /// Tells whether newer software wrote the bytes, so that nothing here is damaged.
    pub fn is_version(&self) -> bool {
        matches!(self, Self::UnsupportedVersion { .. } | Self::UnsupportedRecord { .. })
    }

    /// Returns the same error with `by` added to its position.
    ///
    /// For a slice that was cut out of a file or of another structure at byte `by`.
    pub fn shifted(mut self, by: u64) -> Self {
        match &mut self {
            Self::UnsupportedVersion { .. } => {}
            Self::UnsupportedRecord { position, .. }
            | Self::BadMagic { position, .. }
            | Self::Checksum { position, .. }
            | Self::Length { position, .. }
            | Self::Field { position, .. }
            | Self::Mismatch { position, .. }
            | Self::Truncated { position, .. } => *position = position.saturating_add(by),
        }
        self
    }
}
