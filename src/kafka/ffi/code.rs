//! Error codes as they come over the wire. A broker may send one that this librdkafka has no name for, and Rust must
//! never hold an enum value that does not exist: whatever can come from a broker is read as a number here, and an
//! unknown number becomes Kafka's "unknown error".

use std::collections::HashSet;
use std::ffi::c_int;
use std::ptr;
use std::sync::OnceLock;

use rdkafka_sys as sys;

use super::Code;

/// librdkafka's functions that hand a broker's code through, declared as what they give in C: a number.
pub(super) mod raw {
    use std::ffi::c_int;

    use rdkafka_sys as sys;

    #[allow(clashing_extern_declarations, reason = "the same functions, with the number in place of the enum")]
    unsafe extern "C" {
        pub(in super::super) fn rd_kafka_last_error() -> c_int;
        pub(in super::super) fn rd_kafka_event_error(event: *mut sys::rd_kafka_event_t) -> c_int;
        pub(in super::super) fn rd_kafka_error_code(error: *const sys::rd_kafka_error_t) -> c_int;
        pub(in super::super) fn rd_kafka_topic_result_error(topic: *const sys::rd_kafka_topic_result_t) -> c_int;
        pub(in super::super) fn rd_kafka_ConfigResource_error(resource: *const sys::rd_kafka_ConfigResource_t)
        -> c_int;
        pub(in super::super) fn rd_kafka_committed(
            client: *mut sys::rd_kafka_t,
            partitions: *mut sys::rd_kafka_topic_partition_list_t,
            timeout_ms: c_int,
        ) -> c_int;
        pub(in super::super) fn rd_kafka_metadata(
            client: *mut sys::rd_kafka_t,
            all_topics: c_int,
            only_topic: *mut sys::rd_kafka_topic_t,
            metadata: *mut *const sys::rd_kafka_metadata,
            timeout_ms: c_int,
        ) -> c_int;
    }
}

/// The code of a number.
pub(super) fn code(number: c_int) -> Code {
    static KNOWN: OnceLock<HashSet<c_int>> = OnceLock::new();
    if KNOWN.get_or_init(known).contains(&number) {
        // SAFETY: librdkafka's own table names this number, and the enum was made from the same source.
        unsafe { std::mem::transmute::<c_int, Code>(number) }
    } else {
        Code::RD_KAFKA_RESP_ERR_UNKNOWN
    }
}

/// The code in a field of a C structure.
///
/// # Safety
/// `field` points to a valid number.
pub(super) unsafe fn code_at(field: *const Code) -> Code {
    // SAFETY: the enum has the layout of the number, as the caller promises valid.
    code(unsafe { field.cast::<c_int>().read() })
}

fn known() -> HashSet<c_int> {
    let (mut table, mut count) = (ptr::null(), 0);
    // SAFETY: the table is static and has `count` rows.
    unsafe {
        sys::rd_kafka_get_err_descs(&mut table, &mut count);
        let row = |index| &raw const (*table.add(index)).code;
        let named = |index: &usize| !(*table.add(*index)).desc.is_null();
        (0..count).filter(named).map(|index| row(index).cast::<c_int>().read()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_name_become_the_unknown_error() {
        assert_eq!(code(0), Code::RD_KAFKA_RESP_ERR_NO_ERROR);
        assert_eq!(code(3), Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
        assert_eq!(code(-191), Code::RD_KAFKA_RESP_ERR__PARTITION_EOF);
        // Kafka has these; librdkafka 2.12 does not.
        for number in [99, 109, 120, 131, 500, -2, i32::MIN] {
            assert_eq!(code(number), Code::RD_KAFKA_RESP_ERR_UNKNOWN, "{number}");
        }
    }
}
