//! Takes jars apart and puts them together without unpacking an entry: their compressed bytes are copied as they are.
//!
//! Used once, when HDFS is provisioned (`distribution.rs` tells why). Knows plain zip files of less than 4 GB and fewer
//! than 65,535 entries, which all jars of the kit are.

use std::fs;
use std::path::Path;

use crate::kit::{Error, Result};

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const DIRECTORY_ENTRY_BYTES: usize = 46;

#[derive(Default)]
pub(super) struct Jar {
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    /// Local header, content and what may follow it.
    content: Vec<u8>,
    /// The entry in the directory at the end of the file.
    listed: Vec<u8>,
}

impl Jar {
    pub(super) fn read(path: &Path) -> Result<Jar> {
        let bytes = fs::read(path)?;
        parse(&bytes).ok_or_else(|| Error::failed(format!("{} is no plain zip file", path.display())))
    }

    /// The entries whose names are `such`, and the rest.
    pub(super) fn split(self, such: impl Fn(&str) -> bool) -> (Jar, Jar) {
        let (such, rest) = self.entries.into_iter().partition(|entry| such(&entry.name));
        (Jar { entries: such }, Jar { entries: rest })
    }

    /// Both together; of two entries with one name the first wins.
    pub(super) fn join(mut self, other: Jar) -> Jar {
        for entry in other.entries {
            if self.entries.iter().all(|own| own.name != entry.name) {
                self.entries.push(entry);
            }
        }
        self
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let too_large = |_| Error::failed(format!("{} is too large", path.display()));
        let (mut contents, mut directory) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let start = u32::try_from(contents.len()).map_err(too_large)?;
            contents.extend_from_slice(&entry.content);
            directory.extend_from_slice(&entry.listed[..42]);
            directory.extend_from_slice(&start.to_le_bytes());
            directory.extend_from_slice(&entry.listed[DIRECTORY_ENTRY_BYTES..]);
        }
        let count = u16::try_from(self.entries.len()).map_err(too_large)?.to_le_bytes();
        let size = u32::try_from(directory.len()).map_err(too_large)?.to_le_bytes();
        let start = u32::try_from(contents.len()).map_err(too_large)?.to_le_bytes();
        let end = [END, &[0; 4], &count, &count, &size, &start, &[0; 2]].concat();
        Ok(fs::write(path, [contents, directory, end].concat())?)
    }
}

fn parse(bytes: &[u8]) -> Option<Jar> {
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let u32_at = |at: usize| usize::try_from(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok();
    // The end record is last but for a comment.
    let end = (0..=bytes.len().checked_sub(END_BYTES)?).rev().find(|&at| bytes[at..].starts_with(END))?;
    let (count, directory) = (u16_at(end + 10)?, u32_at(end + 16)?);
    let (mut at, mut listed) = (directory, Vec::with_capacity(count));
    for _ in 0..count {
        if !bytes.get(at..)?.starts_with(DIRECTORY_ENTRY) {
            return None;
        }
        let name_bytes = u16_at(at + 28)?;
        let length = DIRECTORY_ENTRY_BYTES + name_bytes + u16_at(at + 30)? + u16_at(at + 32)?;
        let name = bytes.get(at + DIRECTORY_ENTRY_BYTES..at + DIRECTORY_ENTRY_BYTES + name_bytes)?;
        listed.push((
            u32_at(at + 42)?,
            String::from_utf8_lossy(name).into_owned(),
            bytes.get(at..at + length)?.to_vec(),
        ));
        at += length;
    }
    listed.sort();
    // An entry's content reaches to where the next one starts.
    let mut ends: Vec<usize> = listed.iter().skip(1).map(|(start, ..)| *start).collect();
    ends.push(directory);
    let entry = |((start, name, listed), end): ((usize, String, Vec<u8>), usize)| {
        Some(Entry { name, content: bytes.get(start..end)?.to_vec(), listed })
    };
    Some(Jar { entries: listed.into_iter().zip(ends).map(entry).collect::<Option<_>>()? })
}
