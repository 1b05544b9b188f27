//! Which incarnation a replay that has stored offsets began with. `lineage=latest` may mean another one each time it is
//! asked, and a replay is begun again: after a crash, after an abort, or because somebody gives the command once more.
//!
//! Invariant: two incarnations of a topic are never written to one target by one replay, nor are two topics, or two
//! archives that had one URL. [`prepare`](super::prepare) asks before anything is written. It sees the partitions of
//! its own share only.

use std::collections::BTreeSet;

use lakeferry_api::{ConnectError, Kind, Result, SourceContext, TopicPartition};

use super::choose::{ChosenTopic, choose, topic_id};
use super::config::{Incarnation, SourceSettings, Topics};
use super::prepare::NotResumed;
use super::stored::{Stored, forget_offsets, go_on_or_begin_anew, source_partition};
use crate::manifest::read::Archive;

/// Lets each of `topics` go on with the incarnation that was replayed so far, where `settings` say `latest` and that is
/// another one by now. True where one of them was chosen anew.
///
/// # Errors
/// `Config` where another one is asked for; otherwise as [`choose`] and [`SourceContext::offsets`], and which it was.
pub(super) async fn keep(
    context: &dyn SourceContext,
    archive: &Archive,
    settings: &SourceSettings,
    topics: &mut [ChosenTopic],
) -> Result<bool, NotResumed> {
    let mut is_another = false;
    for topic in topics {
        let Some(chosen) = topic.topic_id.clone() else { continue };
        let begun = replayed_ids(context, archive, topic).await?;
        let Some(id) = begun.iter().find(|id| **id != chosen) else { continue };
        let other = match choose_again(archive, settings, &topic.topic, id).await {
            Err(error) if error.kind() == Kind::Config => return Err(stranger(topic, id).into()),
            other => other.map_err(NotResumed::Archive)?,
        };
        let goes_on = settings.lineage == Incarnation::Latest && !settings.follow && begun.len() == 1;
        if !goes_on {
            return Err(refusal(topic, &chosen, id).into());
        }
        tracing::info!(topic = topic.topic, id, latest = chosen, "goes on with the incarnation that it began with");
        *topic = other;
        is_another = true;
    }
    Ok(is_another)
}

/// The topic ids that the stored offsets of `topic` belong to, those of partitions that are left out included.
async fn replayed_ids(
    context: &dyn SourceContext,
    archive: &Archive,
    topic: &ChosenTopic,
) -> Result<BTreeSet<String>, NotResumed> {
    let chosen = topic.logs.iter().map(|log| log.plan.partition.clone());
    let left_out = topic.left_out.iter().map(|(number, _)| TopicPartition::new(topic.topic.as_str(), *number));
    let partitions: Vec<_> = chosen.chain(left_out).collect();
    let sources = partitions.iter().map(source_partition).collect::<Result<Vec<_>>>()?;
    let mut ids = BTreeSet::new();
    for (partition, stored) in partitions.iter().zip(context.offsets(&sources).await?) {
        let Some(stored) = stored.as_ref().map(Stored::read).transpose()? else { continue };
        if let Some(id) = stored.topic_id {
            ids.insert(id);
            continue;
        }
        // A user set it, and meant this archive.
        let Some(lineage) = stored.lineage else { continue };
        let log = topic.logs.iter().find(|log| log.plan.partition == *partition);
        match log.filter(|log| log.history.iter().any(|(known, _)| *known == lineage)) {
            Some(log) => ids.extend(log.topic_id.clone()),
            None => {
                let chain = archive.chain(partition).await.map_err(NotResumed::Archive)?;
                ids.extend(chain.and_then(|chain| topic_id(&chain, lineage)));
            }
        }
    }
    Ok(ids)
}

async fn choose_again(archive: &Archive, settings: &SourceSettings, topic: &str, id: &str) -> Result<ChosenTopic> {
    let mut settings = SourceSettings {
        topics: Topics::Names(vec![topic.to_owned()]),
        lineage: Incarnation::TopicId(id.to_owned()),
        ..settings.clone()
    };
    settings.rename.retain(|from, _| from == topic);
    let chosen = choose(archive, &settings).await?.pop();
    chosen.ok_or_else(|| ConnectError::fatal(format!("the archive of {topic} vanished")))
}

/// What was written to the target is of another topic, or of another archive with the same URL.
fn stranger(topic: &ChosenTopic, begun: &str) -> ConnectError {
    ConnectError::config(format!(
        "{}: records of topic id {begun} were replayed to {} so far, and the archive of {} holds none of that topic: they \
         came from another topic or from another archive; two are never mixed in one target: replay to another target, or \
         delete this one and {}",
        topic.topic,
        topic.target,
        topic.topic,
        forget_offsets(&topic.topic)
    ))
}

fn refusal(topic: &ChosenTopic, chosen: &str, begun: &str) -> ConnectError {
    ConnectError::config(format!(
        "{}: records of topic id {begun} were replayed to {} so far, and topic id {chosen} is chosen now; two \
         incarnations are never mixed in one target unasked; {}",
        topic.topic,
        topic.target,
        go_on_or_begin_anew(&topic.topic, Some(begun))
    ))
}
