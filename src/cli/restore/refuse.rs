//! What a restore refuses before it writes anything, besides what stands against its targets.

use std::collections::BTreeMap;
use std::path::Path;

use lakeferry_api::{Config, ConnectError, Result, TopicPartition};
use lakeferry_lake::source::prepare::{Prepared, Target};
use lakeferry_lake::source::read::Survey;

use super::super::Damage;
use super::plan::Plan;
use crate::cli::inspect::bytes;
use crate::kafka::Admin;

/// Refuses transactions that the brokers would end for their age: a commit waits for what is on its way, too.
///
/// # Errors
/// `Config` with both numbers.
pub(super) fn long_transactions(properties: &Config, transaction_ms: u64) -> Result<()> {
    let timeout = properties.get("transaction.timeout.ms").and_then(|text| text.trim().parse::<u64>().ok());
    let Some(timeout) = timeout.filter(|timeout| *timeout < transaction_ms.saturating_mul(2)) else { return Ok(()) };
    Err(ConnectError::config(format!(
        "transaction.timeout.ms={timeout} of --command-config is less than twice --transaction-ms {transaction_ms}: the \
         brokers would end transactions that are under way; raise the one, or lower the other"
    )))
}

/// Refuses a restore by time for which there is no memory, unless a user says with `force` to try it: it would be
/// killed in the middle, and again. `held` as [`Prepared::held_by_time`]; `available` are the bytes there are, where
/// that is known.
///
/// # Errors
/// `Config` with the numbers, and the ways out.
pub(super) fn too_much_at_once(held: Option<(usize, u64)>, available: Option<u64>, force: bool) -> Result<()> {
    let Some((partitions, held)) = held else { return Ok(()) };
    let Some(available) = available.filter(|available| held > *available && !force) else { return Ok(()) };
    Err(ConnectError::config(format!(
        "--order time holds a row group of each of {partitions} partitions at once, up to {} in all, and there are {} of \
         memory: say --order partition (the same restore goes on with it), or restore fewer topics at a time with \
         --topic; --force tries it all the same",
        bytes(held),
        bytes(available)
    )))
}

/// Refuses data objects that are gone, records that cannot be produced as they were, and targets that the brokers could
/// not make.
pub(super) async fn impossible(
    (prepared, surveys): (&Prepared, &BTreeMap<TopicPartition, Survey>),
    (plan, targets): (&Plan, &[Target]),
    admin: &dyn Admin,
) -> anyhow::Result<()> {
    prepared.check_objects(surveys).await.map_err(Damage::of)?;
    prepared.refuse_untimed().await?;
    for target in targets.iter().filter(|target| plan.makes(&target.name)) {
        admin.check_new_topic(&target.new_topic).await?;
    }
    Ok(())
}

/// Bytes that a process may still take, where the system tells: what is free, or the limit of its control group where
/// that is less.
pub(super) fn available() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let free = read(Path::new("/proc/meminfo")).as_deref().and_then(free_bytes);
    let group =
        read(Path::new("/proc/self/cgroup")).and_then(|text| Some(text.lines().find_map(group_path)?.to_owned()));
    let limit = group.and_then(|group| {
        read(&Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/')).join("memory.max"))?.trim().parse().ok()
    });
    free.into_iter().chain(limit).min()
}

/// What `/proc/meminfo` says.
fn free_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// What a line of `/proc/self/cgroup` says of the second version.
fn group_path(line: &str) -> Option<&str> {
    line.strip_prefix("0::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_that_would_end_of_age_are_refused_with_both_numbers() {
        let refused = |timeout: Option<&str>, ms| {
            let given = timeout.map(|timeout| ("transaction.timeout.ms".to_owned(), timeout.to_owned()));
            long_transactions(&given.into_iter().collect(), ms).err().map(|error| error.message().to_owned())
        };
        let told = refused(Some("3999"), 2_000).unwrap();
        assert!(told.contains("timeout.ms=3999") && told.contains("--transaction-ms 2000"), "{told}");
        for (timeout, ms) in [(None, 30_000), (Some("60000"), 30_000), (Some("4000"), 2_000)] {
            assert_eq!(refused(timeout, ms), None, "{timeout:?} {ms}");
        }
    }

    #[test]
    fn a_restore_by_time_that_has_no_room_is_refused_with_the_numbers() {
        let room = |held, available, force| too_much_at_once(held, available, force);
        let error = room(Some((1_000, 10 << 30)), Some(8 << 30), false).unwrap_err();
        for word in ["1000 partitions", "10.0 GiB", "8.0 GiB", "--order partition", "--force"] {
            assert!(error.message().contains(word), "{error}");
        }
        room(Some((1_000, 10 << 30)), Some(8 << 30), true).unwrap();
        room(Some((1_000, 10 << 30)), None, false).unwrap();
        room(Some((1_000, 8 << 30)), Some(8 << 30), false).unwrap();
        room(None, Some(0), false).unwrap();
    }

    #[test]
    fn what_the_system_says_of_free_memory_is_read() {
        let meminfo = "MemTotal:       16303428 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(free_bytes(meminfo), Some(8 << 20));
        assert_eq!(free_bytes("MemTotal: 5 kB\n"), None);
        assert_eq!(group_path("0::/user.slice/a").or(group_path("1:memory:/b")), Some("/user.slice/a"));
        assert!(available().is_none_or(|bytes| bytes > 0));
    }
}
