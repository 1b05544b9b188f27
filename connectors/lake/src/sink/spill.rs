//! Where encoded bytes wait that are too few for an upload part while memory runs short: one file for all tasks of the
//! worker, in `lakeferry.spill.dir`.
//!
//! Invariants: it never holds more than `lakeferry.spill.bytes`; what is read is what was written, or an error; it has
//! no name once it is open, so nothing of it outlives the process. Nothing is synced: after a crash the records are
//! still in Kafka. All calls block: they belong on the pool.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use lakeferry_api::error::Context as _;
use lakeferry_api::{ConnectError, Kind, Result};

/// Space is given out and taken back in slots of this size.
const SLOT_BYTES: usize = 64 * 1024;

/// The worker's spill files, by folder: tasks that come and go share them.
static OPENED: Mutex<Vec<(PathBuf, Weak<Space>)>> = Mutex::new(Vec::new());

/// Room on disk. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Spill {
    space: Arc<Space>,
}

/// Bytes on disk; their room is free again when this is dropped.
pub(crate) struct Spilled {
    space: Arc<Space>,
    slots: Vec<u64>,
    len: usize,
    checksum: u32,
}

struct Space {
    file: File,
    slots: Mutex<Slots>,
}

struct Slots {
    freed: Vec<u64>,
    /// The first slot that was never used.
    fresh: u64,
    limit: u64,
}

impl Spill {
    /// Room for `limit_bytes` in a file of its own in `dir`; whoever opens `dir` later in this process shares
    /// the first one's.
    ///
    /// # Errors
    /// `Config` where no file can be made there.
    pub(crate) fn open(dir: &Path, limit_bytes: u64, id: u128) -> Result<Self> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|(_, space)| space.strong_count() > 0);
        let known = opened.iter().find(|(known, _)| known == dir).and_then(|(_, space)| space.upgrade());
        if let Some(space) = known {
            return Ok(Self { space });
        }
        let path = dir.join(format!("lakeferry-spill-{id:032x}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.and_then(|file| fs::remove_file(&path).map(|()| file));
        let file = file.context(Kind::Config, || {
            format!("lakeferry.spill.dir={}: name a folder that can be written to, or leave it empty", dir.display())
        })?;
        let slots = Mutex::new(Slots { freed: Vec::new(), fresh: 0, limit: limit_bytes / SLOT_BYTES as u64 });
        let space = Arc::new(Space { file, slots });
        opened.push((dir.to_owned(), Arc::downgrade(&space)));
        Ok(Self { space })
    }

    /// Room on a disk that refuses every write.
    #[cfg(test)]
    pub(super) fn broken() -> Self {
        let slots = Mutex::new(Slots { freed: Vec::new(), fresh: 0, limit: u64::MAX });
        Self { space: Arc::new(Space { file: File::open("/dev/null").expect("read only"), slots }) }
    }

    /// Puts `bytes` there; `None` where there is not enough room left.
    ///
    /// # Errors
    /// `Retriable` where the disk fails; what was taken is free again.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Option<Spilled>> {
        let Some(slots) = self.space.take(bytes.len().div_ceil(SLOT_BYTES)) else { return Ok(None) };
        let spilled =
            Spilled { space: Arc::clone(&self.space), slots, len: bytes.len(), checksum: crc32fast::hash(bytes) };
        for (slot, part) in spilled.slots.iter().zip(bytes.chunks(SLOT_BYTES)) {
            let written = self.space.file.write_all_at(part, slot * SLOT_BYTES as u64);
            written.context(Kind::Retriable, || "cannot write to lakeferry.spill.dir".to_owned())?;
        }
        Ok(Some(spilled))
    }
}

impl Spilled {
    /// How many bytes they are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes.
    ///
    /// # Errors
    /// `Retriable` where the disk fails or gives back others.
    pub(crate) fn read(&self) -> Result<Bytes> {
        let mut bytes = vec![0; self.len];
        for (slot, part) in self.slots.iter().zip(bytes.chunks_mut(SLOT_BYTES)) {
            let read = self.space.file.read_exact_at(part, slot * SLOT_BYTES as u64);
            read.context(Kind::Retriable, || "cannot read from lakeferry.spill.dir".to_owned())?;
        }
        if crc32fast::hash(&bytes) != self.checksum {
            return Err(ConnectError::retriable("lakeferry.spill.dir gave back other bytes than were written there"));
        }
        Ok(bytes.into())
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        self.space.slots().freed.append(&mut self.slots);
    }
}

impl Space {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, count: usize) -> Option<Vec<u64>> {
        let mut slots = self.slots();
        let fresh = count.saturating_sub(slots.freed.len()) as u64;
        if slots.fresh + fresh > slots.limit {
            return None;
        }
        let kept = slots.freed.len().saturating_sub(count);
        let mut taken = slots.freed.split_off(kept);
        taken.extend(slots.fresh..slots.fresh + fresh);
        slots.fresh += fresh;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = SLOT_BYTES as u64;

    /// Room of its own: a folder is opened once in a process.
    fn spill(name: &str, limit_bytes: u64) -> Spill {
        let dir = std::env::temp_dir().join(format!("lakeferry-spill-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let spill = Spill::open(&dir, limit_bytes, 7).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing to be left behind");
        fs::remove_dir(&dir).unwrap();
        spill
    }

    #[test]
    fn what_goes_in_comes_out_and_room_is_used_again() {
        let spill = spill("again", 3 * SLOT);
        let long: Vec<u8> = (0..SLOT_BYTES + 1).map(|at| at as u8).collect();
        let first = spill.write(&long).unwrap().unwrap();
        let second = spill.write(b"short").unwrap().unwrap();
        assert_eq!(
            (first.read().unwrap(), second.read().unwrap()),
            (long.clone().into(), Bytes::from_static(b"short"))
        );
        assert!(spill.write(b"one more").unwrap().is_none());
        drop(first);
        let third = spill.write(&long).unwrap().unwrap();
        assert_eq!((third.read().unwrap().len(), third.len()), (long.len(), long.len()));
        assert_eq!(second.read().unwrap(), "short");
    }

    #[test]
    fn other_bytes_than_were_written_are_an_error() {
        let spill = spill("other", SLOT);
        let spilled = spill.write(b"right").unwrap().unwrap();
        spill.space.file.write_all_at(b"wrong", 0).unwrap();
        assert!(spilled.read().unwrap_err().is_retriable());
    }

    #[test]
    fn a_folder_is_shared_and_one_that_is_not_there_is_named() {
        let dir = std::env::temp_dir().join(format!("lakeferry-spill-{}-shared", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = Spill::open(&dir, SLOT, 1).unwrap();
        let held = first.write(b"x").unwrap().unwrap();
        assert!(Spill::open(&dir, SLOT, 2).unwrap().write(b"y").unwrap().is_none());
        drop(held);
        fs::remove_dir(&dir).unwrap();
        drop(first);
        let error = Spill::open(&dir, SLOT, 3).err().unwrap();
        assert!(error.message().contains("lakeferry.spill.dir=") && error.kind() == Kind::Config, "{error}");
    }
}
