//! The part of the consumer that spawned work may use: what is asked with a member's identity.
//!
//! Invariant: nothing is committed for a partition that the group does not give this member now. It keeps no client
//! alive: once the consumer is closed, whatever is asked is refused.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::{ConnectError, Positions, Result, TopicPartition};

use super::super::GroupMember;
use super::super::error::{Membership, explain_asking};
use super::super::ffi::{Code, Failure, Handle};
use super::{Shared, failed};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Member {
    pub(super) membership: Membership,
    pub(super) handle: Weak<Handle>,
    pub(super) orders: Arc<Shared>,
}

impl Member {
    fn group(&self) -> &str {
        &self.membership.group
    }

    fn explain(&self, failure: &Failure, what: String) -> ConnectError {
        explain_asking(failure, what, &self.membership)
    }

    /// The same, where `fatal` may be what made the client unusable for good: then the answer says no more than that
    /// there is such an error.
    fn explain_answer(&self, failure: &Failure, fatal: Option<Failure>, what: String) -> ConnectError {
        match fatal.filter(|_| failure.code == Code::RD_KAFKA_RESP_ERR__FATAL) {
            Some(fatal) => ConnectError::fatal(self.explain(&fatal, what).message()),
            None => self.explain(failure, what),
        }
    }

    async fn ask<R: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&Handle) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R> {
        let Some(handle) = self.handle.upgrade() else {
            return Err(ConnectError::fenced(format!("the consumer of group {} is closed", self.group())));
        };
        let answer =
            tokio::task::spawn_blocking(move || call(&handle).map_err(|failure| (failure, handle.fatal()))).await;
        let answer = answer.map_err(|error| ConnectError::fatal(format!("{what} was cut off")).caused_by(error))?;
        let what = || format!("{what} of group {}", self.group());
        answer.map_err(|(failure, fatal)| self.explain_answer(&failure, fatal, what()))
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn commit(&self, positions: &Positions) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        // The broker looks at the member's generation alone: a member that is still in the group could commit for a
        // partition that was moved to another.
        let stranger = {
            let orders = self.orders.lock();
            positions.keys().find(|partition| !orders.owned.contains(*partition)).cloned()
        };
        if let Some(partition) = stranger {
            let group = self.group();
            return Err(ConnectError::fenced(format!("group {group} does not give {partition} to this member")));
        }
        let rows: Vec<_> = positions.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect();
        let entries = self.ask("offset commit", move |handle| handle.commit(&rows, ANSWER_WITHIN)).await?;
        let held = if failed::may_be_of_some(&entries) {
            let asked: Vec<_> = positions.keys().cloned().collect();
            let held = self.ask("reading the offsets", move |handle| handle.committed(&asked, failed::LOOK_WITHIN));
            held.await.unwrap_or_default()
        } else {
            Vec::new()
        };
        match failed::failure(&entries, &held) {
            Some((failure, partitions)) => {
                Err(self.explain(&failure, format!("offset commit of group {} for {partitions}", self.group())))
            }
            None => Ok(()),
        }
    }

    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        if partitions.is_empty() {
            return Ok(Positions::new());
        }
        let asked = partitions.to_vec();
        let entries = self.ask("reading the offsets", move |handle| handle.committed(&asked, ANSWER_WITHIN)).await?;
        let mut positions = Positions::new();
        for entry in entries {
            match entry.failure {
                Some(Failure { code: Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, .. }) | None => {
                    positions.extend(entry.offset.map(|offset| (entry.partition, offset)));
                }
                Some(failure) => {
                    let what = format!("reading the offset of group {} for {}", self.group(), entry.partition);
                    return Err(self.explain(&failure, what));
                }
            }
        }
        Ok(positions)
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::Kind;

    use super::*;

    #[test]
    fn a_commit_by_a_client_that_is_unusable_says_why_and_what_helps() {
        let membership = Membership { group: "g".to_owned(), instance: "me".to_owned(), servers: String::new() };
        let orders = Arc::new(Shared::default());
        let member = Member { membership, handle: Weak::new(), orders };
        let failure = |code, text: &str| Failure { code, text: text.to_owned() };
        let (unusable, busy) = (Code::RD_KAFKA_RESP_ERR__FATAL, Code::RD_KAFKA_RESP_ERR__TIMED_OUT);
        let fenced = failure(Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, "Static consumer fenced by other consumer");
        let commit = || "offset commit of group g".to_owned();

        let error = member.explain_answer(&failure(unusable, "Local: Fatal error"), Some(fenced.clone()), commit());
        assert_eq!(error.kind(), Kind::Fatal);
        let says = "offset commit of group g: Static consumer fenced by other consumer; two members of group g have \
                    group.instance.id=me: remove it, or";
        assert!(error.message().starts_with(says) && error.message().ends_with("restart the task"), "{error}");
        // The broker says it before the client does.
        let told = member.explain_answer(&fenced, None, commit());
        assert!(told.kind() == Kind::Fenced && told.message().starts_with(says), "{told}");
        let passing = member.explain_answer(&failure(busy, "Local: Timed out"), Some(fenced), commit());
        assert!(
            passing.is_retriable() && passing.message() == "offset commit of group g: Local: Timed out",
            "{passing}"
        );
    }
}
