//! The names of Connect's logical types. A logical type is a base type under one of these schema names.

/// Arbitrary precision: BYTES, big-endian two's complement of the unscaled value; parameter `scale`.
pub const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";
/// Days since the epoch, UTC: INT32.
pub const DATE: &str = "org.apache.kafka.connect.data.Date";
/// Milliseconds since midnight: INT32.
pub const TIME: &str = "org.apache.kafka.connect.data.Time";
/// Milliseconds since the epoch: INT64.
pub const TIMESTAMP: &str = "org.apache.kafka.connect.data.Timestamp";
/// The schema parameter that holds a decimal's scale.
pub const SCALE: &str = "scale";
