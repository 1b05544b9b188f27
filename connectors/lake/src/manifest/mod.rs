//! The numbered chain of manifest entries of each partition: what is real in an archive, and who may go on writing.
//!
//! The sink finds a chain's end and creates the next entry; the source and the tools read. Invariant: an entry is
//! created only if its number is free, and a doubt about that is settled by reading the number, never by guessing
//! (only equal bytes are "ours", an error is never "absent").

pub mod digest;
pub mod model;
pub mod offsets;
pub mod wire;

pub use model::Entry;
