//! Where an archived log ends, told where a replay asks for a later time: whoever restores up to midnight is to know
//! which partitions were archived up to noon only. Pure.

use lakeferry_api::text::iso_timestamp;
use serde::Serialize;

use crate::manifest::read::{Chain, Piece};

/// So many partitions are told one by one; the others are counted.
const TOLD: usize = 10;

/// A partition of which the archive knows nothing later than a time before the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndsEarly {
    /// Its number.
    pub partition: i32,
    /// The next offset to archive; `None` where the offsets were reset.
    pub resume_offset: Option<i64>,
    /// When the last manifest of the log was written, in milliseconds since the Unix epoch.
    pub written_at: i64,
    /// How many offsets the log had then that were not archived yet.
    pub behind: u64,
}

impl EndsEarly {
    /// Where `lineage` of `chain` ends, if that is before all that came up to `until` is known to be archived: its last
    /// manifest is older, or does not reach the end that the log had then. A record later than `until` is
    /// taken for a sign that the archive reaches further.
    ///
    /// # Errors
    /// As [`Chain::pieces`].
    pub(super) fn of(chain: &Chain, lineage: u32, until: i64) -> lakeferry_api::Result<Option<Self>> {
        let newest = chain.pieces(lineage)?.iter().filter_map(|Piece { file, .. }| file.max_timestamp).max();
        let mut entries = chain.links.iter().map(|link| &link.entry);
        let Some(end) = entries.rfind(|entry| entry.source.lineage == lineage) else { return Ok(None) };
        let behind = end.resume_offset.map_or(0, |resume| end.log.last_stable_offset.saturating_sub(resume));
        let behind = u64::try_from(behind).unwrap_or(0);
        let reaches = newest.is_some_and(|newest| newest > until) || (end.written_at > until && behind == 0);
        let (partition, resume_offset, written_at) = (chain.partition.partition, end.resume_offset, end.written_at);
        Ok((!reaches).then_some(Self { partition, resume_offset, written_at, behind }))
    }

    /// A sentence of `all`, where there are any.
    pub(super) fn tell(all: &[Self], until: Option<i64>) -> Option<String> {
        let until = until.filter(|_| !all.is_empty())?;
        let mut named: Vec<_> = all.iter().take(TOLD).map(Self::to_string).collect();
        if all.len() > TOLD {
            named.push(format!("and {} more", all.len() - TOLD));
        }
        let (partitions, them) = if all.len() == 1 { ("a partition ends", "it") } else { ("partitions end", "them") };
        let quiet = match all.iter().all(|one| one.behind == 0) {
            true => format!("; if nothing was written to {them} since, nothing is missing"),
            false => String::new(),
        };
        let until = iso_timestamp(until);
        Some(format!("{partitions} in the archive before {until}, the time asked for: {}{quiet}", named.join("; ")))
    }
}

impl std::fmt::Display for EndsEarly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { partition, resume_offset, written_at, behind } = self;
        let offset = resume_offset.map_or("?".to_owned(), |offset| offset.to_string());
        write!(f, "{partition} at offset {offset} (next), last written at {}", iso_timestamp(*written_at))?;
        if *behind > 0 {
            write!(f, ", {behind} offsets behind the log's end then")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::Config;

    use super::super::choose::{ChosenTopic, choose};
    use super::super::config::SourceSettings;
    use super::*;
    use crate::testing::{TestArchive, row};

    async fn chosen(archive: &TestArchive, until: Option<i64>, more: &[(&str, &str)]) -> ChosenTopic {
        let until = until.map(|until| until.to_string());
        let pairs = [("store.url", "memory:///"), ("topics", "orders")];
        let until = until.as_deref().map(|until| ("replay.until", until));
        let pairs = pairs.into_iter().chain(until).chain(more.iter().copied());
        let config: Config = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        choose(&archive.archive(), &SourceSettings::parse(&config).unwrap()).await.unwrap().remove(0)
    }

    fn partitions(topic: &ChosenTopic) -> Vec<i32> {
        topic.ends_early.iter().map(|end| end.partition).collect()
    }

    #[tokio::test]
    async fn a_time_later_than_what_is_archived_is_told_with_where_each_log_ends() {
        let mut archive = TestArchive::new();
        let noon = archive.written_at;
        let [early, late, future] = [
            archive.open("orders", 0, 0).await,
            archive.open("orders", 1, 0).await,
            archive.open("orders", 2, 0).await,
        ];
        archive.publish(&early, &[row(0, noon - 9), row(1, noon - 5)], 1).await;
        archive.publish(&future, &[row(0, noon + 90_000)], 0).await;
        archive.written_at += 60_000;
        archive.publish(&late, &[row(0, noon + 50_000)], 0).await;

        let topic = chosen(&archive, Some(noon + 30_000), &[]).await;
        let end = EndsEarly { partition: 0, resume_offset: Some(2), written_at: noon, behind: 0 };
        assert_eq!(topic.ends_early, [end], "a manifest or a record that is later shows more");
        let (asked, written) = (iso_timestamp(noon + 30_000), iso_timestamp(noon));
        let words = format!(
            "a partition ends in the archive before {asked}, the time asked for: 0 at offset 2 (next), last written at \
             {written}; if nothing was written to it since, nothing is missing"
        );
        assert_eq!(topic.remarks("--lineage "), [words]);
        assert_eq!(partitions(&chosen(&archive, Some(noon + 70_000), &[]).await), [0, 1]);
        assert_eq!(partitions(&chosen(&archive, Some(noon - 1), &[]).await), [0; 0]);
        assert_eq!(partitions(&chosen(&archive, None, &[]).await), [0; 0]);
        let follows = chosen(&archive, Some(noon + 70_000), &[("replay.end", "follow")]).await;
        assert_eq!(partitions(&follows), [0; 0], "it waits for what comes");

        // Written later, and not at the end that the log had then.
        let mut chain = archive.archive().chain(&late).await.unwrap().unwrap();
        chain.links.last_mut().unwrap().entry.log.last_stable_offset += 4;
        let of = |until| EndsEarly::of(&chain, 1, until).unwrap();
        let (written_at, resume_offset) = (archive.written_at, Some(1));
        assert_eq!(of(noon + 50_000), Some(EndsEarly { partition: 1, resume_offset, written_at, behind: 4 }));
        assert_eq!(of(noon + 49_999), None);
    }

    #[test]
    fn what_was_not_archived_yet_is_told_and_many_are_counted() {
        let end = |partition, behind| EndsEarly { partition, resume_offset: Some(7), written_at: 0, behind };
        let text = EndsEarly::tell(&[end(3, 0), end(4, 12)], Some(60_000)).unwrap();
        let told = "3 at offset 7 (next), last written at 1970-01-01T00:00:00.000Z; 4 at offset 7 (next), last written at \
                    1970-01-01T00:00:00.000Z, 12 offsets behind the log's end then";
        assert!(text.starts_with("partitions end in") && text.ends_with(told), "{text}");
        let many: Vec<_> = (0..13).map(|partition| end(partition, 0)).collect();
        let text = EndsEarly::tell(&many, Some(60_000)).unwrap();
        assert!(
            text.contains("; and 3 more; if nothing was written to them since") && !text.contains("; 10 at"),
            "{text}"
        );
        assert_eq!((EndsEarly::tell(&[], Some(1)), EndsEarly::tell(&many, None)), (None, None));
    }
}
