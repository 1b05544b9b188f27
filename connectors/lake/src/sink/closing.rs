//! What a [`Partition`](super::partition::Partition) has finished reading: stretches of offsets, in order, that wait
//! to be named by an entry.

use lakeferry_api::{ConnectError, Result};

use super::commit::Stretch;
use super::writer::OpenFile;

/// A stretch of offsets that waits to be named by an entry.
pub(super) enum Ended {
    /// A file that takes no more rows, the `n`-th that the writer began since it last read the chain's end.
    File { file: Box<OpenFile>, n: u32 },
    /// Offsets without records that no file answers for, both inclusive.
    Gap { from: i64, to: i64 },
}

impl Ended {
    /// True where nothing has to reach the store before an entry may name it.
    pub(super) fn is_stored(&self) -> bool {
        match self {
            Self::File { file, .. } => file.stored().is_some(),
            Self::Gap { .. } => true,
        }
    }

    /// Memory that comes back when it is stored; see [`OpenFile::leaving_bytes`].
    pub(super) fn leaving_bytes(&self, part_bytes: usize) -> u64 {
        match self {
            Self::File { file, .. } => file.leaving_bytes(part_bytes),
            Self::Gap { .. } => 0,
        }
    }

    /// What the entry says of it.
    ///
    /// # Errors
    /// `Fatal` where it is not stored yet: an entry without it would leave out its records.
    pub(super) fn into_stretch(self) -> Result<Stretch> {
        match self {
            Self::File { file, .. } => {
                let contents = file.contents().clone();
                let (path, tail) = file.stored().ok_or_else(|| {
                    let first = contents.first_offset;
                    ConnectError::fatal(format!(
                        "the file from offset {first} on is not stored yet; please report this"
                    ))
                })?;
                Ok(Stretch::File { contents, path: path.clone(), tail: tail.clone() })
            }
            Self::Gap { from, to } => Ok(Stretch::Gap { from, to }),
        }
    }
}
