//! Deliberate faults of the commit path that need more than one line where the rule stands: each does what a writer
//! without the rule would do. Only the simulator switches them on ([`sabotage`]); a released worker returns at once.

use std::sync::Arc;

use lakeferry_api::simulation::sabotage::{self, Fault};
use lakeferry_api::{ConnectError, Result, TopicPartition};
use object_store::ObjectStoreExt;

use super::commit::{Stretch, commit_entry};
use super::partition::Shared;
use crate::manifest::model::{Entry, Reason};
use crate::manifest::{Digest, End, Outcome, wire};

/// What a faulty writer makes of a commit; `None` where it makes what it should.
pub(super) async fn commit(
    shared: &Arc<Shared>,
    name: &TopicPartition,
    end: &End,
    stretches: &[Stretch],
) -> Option<Result<End>> {
    if sabotage::is(Fault::EpochNotChecked) {
        return Some(behind_the_winner(shared, name, end, stretches).await);
    }
    if sabotage::is(Fault::RetryPublishesTwice) {
        return Some(twice(shared, name, end, stretches).await);
    }
    if sabotage::is(Fault::RetryWithOtherBytes) && stretches.len() > 1 {
        return grown(shared, name, end, stretches).await;
    }
    None
}

/// Publishes behind whatever stands at the end, under the epoch that it once had.
async fn behind_the_winner(
    shared: &Arc<Shared>,
    name: &TopicPartition,
    end: &End,
    stretches: &[Stretch],
) -> Result<End> {
    let mut end = end.clone();
    loop {
        let (entry, outcome) = send(shared, name, &end, stretches).await?;
        match outcome {
            Outcome::Committed => return Ok(entry),
            Outcome::Lost => {
                let Some(winner) = shared.manifests.end(name).await? else { continue };
                let Entry { epoch, writer, .. } = end.entry;
                end = End { entry: Entry { epoch, writer, ..winner.entry }, ..winner };
            }
        }
    }
}

/// Publishes under the next number what was in doubt under this one.
async fn twice(shared: &Arc<Shared>, name: &TopicPartition, end: &End, stretches: &[Stretch]) -> Result<End> {
    match send(shared, name, end, stretches).await {
        Ok((entry, Outcome::Committed)) => Ok(entry),
        Ok((_, Outcome::Lost)) => Err(ConnectError::retriable(format!("{name}: another was first"))),
        Err(_) => {
            let first = entry_of(shared, end, stretches)?;
            let (entry, _) = send(shared, name, &first, stretches).await?;
            Ok(entry)
        }
    }
}

/// Sends all stretches but the last and, where that is in doubt, all of them under the same number.
async fn grown(shared: &Arc<Shared>, name: &TopicPartition, end: &End, stretches: &[Stretch]) -> Option<Result<End>> {
    let (rest, fewer) = stretches.split_last()?;
    match send(shared, name, end, fewer).await {
        Ok((entry, Outcome::Committed)) => {
            Some(send(shared, name, &entry, std::slice::from_ref(rest)).await.map(|sent| sent.0))
        }
        Ok((_, Outcome::Lost)) => Some(Err(ConnectError::retriable(format!("{name}: another was first")))),
        Err(_) => None,
    }
}

async fn send(shared: &Arc<Shared>, name: &TopicPartition, end: &End, stretches: &[Stretch]) -> Result<(End, Outcome)> {
    let entry = entry_of(shared, end, stretches)?;
    let outcome = shared.manifests.create(name, entry.entry.seq, entry.bytes.clone()).await?;
    Ok((entry, outcome))
}

fn entry_of(shared: &Arc<Shared>, end: &End, stretches: &[Stretch]) -> Result<End> {
    let entry = commit_entry(shared, end, stretches.to_vec(), None, Reason::Unknown)?;
    let bytes = wire::encode(&entry)?;
    Ok(End { sha256: Digest::of(&bytes), entry, bytes })
}

/// Deletes the entry that could not be written, so that its number may be used again.
pub(super) async fn free(shared: &Shared, name: &TopicPartition, seq: u64, error: ConnectError) -> ConnectError {
    let path = shared.manifests.layout().entry(name, seq);
    match shared.manifests.store().delete(&path).await {
        Ok(()) => error,
        Err(failed) => error.context(format!("and {path} was not deleted: {failed}")),
    }
}

/// Where a faulty writer goes on: at the group's offset instead of the chain's.
pub(super) async fn resume(shared: &Arc<Shared>, name: &TopicPartition, known: Option<Entry>) -> Option<Entry> {
    if !sabotage::is(Fault::ResumeFromGroup) {
        return known;
    }
    let mut entry = known?;
    let committed = shared.context.committed(std::slice::from_ref(name)).await.unwrap_or_default();
    entry.resume_offset = committed.get(name).copied().or(entry.resume_offset);
    Some(entry)
}
