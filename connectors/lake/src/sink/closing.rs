//! What a [`Partition`](super::partition::Partition) has finished reading: stretches of offsets, in order, that wait
//! to be named by an entry.

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

    /// What the entry says of it; `None` where it is not stored yet.
    pub(super) fn into_stretch(self) -> Option<Stretch> {
        match self {
            Self::File { file, .. } => {
                let (path, tail) = file.stored()?;
                Some(Stretch::File { contents: file.contents().clone(), path: path.clone(), tail: tail.clone() })
            }
            Self::Gap { from, to } => Some(Stretch::Gap { from, to }),
        }
    }
}
