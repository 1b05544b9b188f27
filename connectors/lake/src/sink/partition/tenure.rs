//! When a partition's epoch is opened, and when another one follows it: as soon as there is something to write, for
//! what is to be said even if no record ever comes, and where the topic's settings are no longer those that the archive
//! tells, for only an `open` entry tells them.

use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::Result;

use super::Partition;
use crate::job::Job;
use crate::manifest::End;
use crate::sink::check::Belief;
use crate::sink::closing::Ended;
use crate::sink::commit;
use crate::sink::start::Start;

/// Whether this writer's epoch is open.
pub(super) enum Tenure {
    Unopened,
    Opening(Job<End>),
    Open(Box<End>),
}

impl Partition {
    /// Opens an epoch as soon as there is something to write under it, and for what is to be said even if no record
    /// ever follows once no other reason has come up for a while.
    pub(super) fn advance_tenure(&mut self, now: Duration) -> Result<()> {
        self.leave_epoch();
        let settings = &self.shared.settings;
        let fails = settings.fail_on_gap && !self.start.gaps.is_empty();
        let news_after = if fails { Some(Duration::ZERO) } else { self.start.news_after(settings.rotation.age()) };
        let has_news = news_after.is_some_and(|wait| now.saturating_sub(self.begun) >= wait)
            || self.check.other_settings().is_some();
        match &mut self.tenure {
            Tenure::Unopened if self.file.is_some() || !self.closing.is_empty() || has_news => {
                let topic = self.check.other_settings().cloned();
                let open = commit::open(Arc::clone(&self.shared), self.name.clone(), self.start.clone(), topic);
                self.tenure = Tenure::Opening(Job::start(&self.shared.ended, open));
            }
            Tenure::Opening(job) => {
                if let Some(opened) = job.take_if_ended() {
                    self.tenure = Tenure::Open(Box::new(opened?));
                    self.check.forget();
                    // `failures` stands until an entry is committed: what fails behind every opening must not open one
                    // epoch after the other.
                    self.shared.troubles.tell(&self.name, None);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends this writer's epoch where the topic has other settings now: at a moment when everything that bears the
    /// epoch's number is in the chain, and what was archived ahead is passed. What has no name yet gets one under the
    /// next epoch.
    fn leave_epoch(&mut self) {
        if self.check.other_settings().is_none() || self.commit.is_some() {
            return;
        }
        let files = self.closing.iter().filter_map(|stretch| match stretch {
            Ended::File { file, .. } => Some(file),
            Ended::Gap { .. } => None,
        });
        if !files.chain(&self.file).any(|file| file.is_named())
            && let Tenure::Open(end) = &self.tenure
            && let Some(start) = Start::behind(end).filter(|start| start.resume <= self.position)
        {
            tracing::info!(partition = %self.name, "the topic's settings are others now; a new epoch tells them");
            self.start = start;
            self.tenure = Tenure::Unopened;
        }
    }

    /// What is to be true as long as nothing is written.
    pub(super) fn belief(&self) -> Belief {
        let end = match &self.tenure {
            Tenure::Unopened => Some(self.start.end.as_ref()),
            Tenure::Opening(_) => None,
            Tenure::Open(end) => Some(Some(&**end)),
        };
        let next_seq = end.filter(|_| self.is_idle()).map(|end| end.map_or(0, |end| end.entry.seq + 1));
        Belief { name: self.name.clone(), topic_id: self.start.source.topic_id.clone(), next_seq }
    }
}
