//! The bytes of one file on their way out, shared by the encoders: each byte is hashed as it is produced, for its block
//! and for the file, and waits here until the sink takes it.
//!
//! Invariant: blocks touch and cover every byte written, because one is only ever ended at the current end.

use std::io;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Block, Tail, hex};

/// Where an encoder writes.
pub(super) struct Output {
    ready: Vec<u8>,
    written: u64,
    blocks: Vec<Block>,
    file_hash: Sha256,
    /// Of the block that is being written; `None` in block 0, whose hash the file's still is.
    block_hash: Option<Sha256>,
}

impl Output {
    /// An empty file.
    pub(super) fn new() -> Self {
        Self { ready: Vec::new(), written: 0, blocks: Vec::new(), file_hash: Sha256::new(), block_hash: None }
    }

    /// Bytes written so far, taken or not.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Memory of what was not taken yet.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.ready.capacity() as u64
    }

    /// Makes room for bytes to come, so that what is here already need not move for them.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.ready.reserve_exact(bytes);
    }

    /// Ends the block at the current end of the file; nothing where it has no bytes.
    pub(super) fn end_block(&mut self) {
        let at = self.blocks.last().map_or(0, |block| block.at + block.len);
        if at == self.written {
            return;
        }
        let hash = self.block_hash.take().unwrap_or_else(|| self.file_hash.clone());
        self.blocks.push(Block { at, len: self.written - at, sha256: hex(&hash.finalize()) });
        self.block_hash = Some(Sha256::new());
    }

    /// The bytes that were not taken before.
    pub(super) fn take(&mut self) -> Bytes {
        let mut ready = std::mem::take(&mut self.ready);
        ready.shrink_to_fit();
        Bytes::from(ready)
    }

    /// Ends the last block and says what was written.
    pub(super) fn finish(&mut self) -> Tail {
        self.end_block();
        Tail {
            blocks: self.blocks.clone(),
            sha256: hex(&self.file_hash.clone().finalize()),
            stored_bytes: self.written,
        }
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file_hash.update(bytes);
        if let Some(hash) = &mut self.block_hash {
            hash.update(bytes);
        }
        if self.ready.capacity() - self.ready.len() < bytes.len() {
            // A vector doubles: half of what a thousand open files hold would be room for bytes that never come.
            self.ready.reserve_exact(bytes.len().max(self.ready.len() / 4));
        }
        self.ready.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn blocks_touch_cover_the_file_and_hash_their_own_bytes() {
        let mut output = Output::new();
        let mut file = Vec::new();
        for part in [&b"first"[..], b" block", b"", b"second", b"third"] {
            output.write_all(part).unwrap();
            if !part.starts_with(b"first") {
                output.end_block();
            }
            file.extend_from_slice(&output.take());
        }
        let tail = output.finish();
        assert_eq!(file, b"first blocksecondthird");
        assert_eq!(
            tail.blocks.iter().map(|block| (block.at, block.len)).collect::<Vec<_>>(),
            [(0, 11), (11, 6), (17, 5)]
        );
        for block in &tail.blocks {
            block.check(&file[block.at as usize..(block.at + block.len) as usize]).unwrap();
        }
        assert_eq!(tail.sha256, hex(&Sha256::digest(&file)));
        assert_eq!(tail.stored_bytes, 22);
    }

    #[test]
    fn a_changed_or_shortened_block_is_found() {
        let mut output = Output::new();
        output.write_all(b"block").unwrap();
        let block = &output.finish().blocks[0];
        block.check(b"block").unwrap();
        assert!(block.check(b"blocc").unwrap_err().message().contains("is damaged"));
        assert!(block.check(b"bloc").unwrap_err().message().contains("4 bytes were read"));
    }
}
