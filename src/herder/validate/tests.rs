//! Validation against the answers of a Java worker.
