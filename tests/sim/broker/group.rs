//! The group's coordinator and, for each member, what its client knows: eager or cooperative rebalances, members that
//! are expelled when their process is stopped or too slow, and zombies that hear of it late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lakeferry_api::simulation::host::Host as _;
use lakeferry_api::{EpochMark, Positions, TopicPartition};

use super::Broker;
use crate::process::Process;

/// After which a member that shows no life is expelled.
pub(crate) const SESSION_MS: u64 = 10_000;
/// After which a member that does not hand over is expelled.
const REBALANCE_MS: u64 = 120_000;

/// See [`Member::expelled`].
const UNKNOWN: u64 = u64::MAX;

pub(crate) type MemberId = u64;

/// What a client has to tell its loop.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
}

/// One member's client.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) process: Arc<Process>,
    pub(crate) notices: VecDeque<Notice>,
    /// What the client fetches, from its own point of view.
    pub(crate) fetched: BTreeMap<TopicPartition, Fetching>,
    /// What it was asked to hand over.
    revoking: Vec<TopicPartition>,
    revoke_until_ms: u64,
    /// How often it joined: a request is worth nothing under a later membership than the one it was made under.
    memberships: u32,
    /// Expelled; its client hears of it at this time, [`UNKNOWN`] while it is stopped.
    pub(crate) expelled: Option<u64>,
    pub(crate) busy_until_ms: u64,
}

/// What a client knows of a partition that it fetches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetching {
    pub(crate) position: Option<i64>,
    pub(crate) paused: bool,
    /// The leader epoch of what was fetched last, and where that ends; the mark where nothing was fetched yet.
    pub(crate) epoch: Option<(i32, i64)>,
    /// To be confirmed by the broker before anything is fetched.
    pub(crate) mark: Option<EpochMark>,
    /// From here to the position the log had no record when it was read.
    pub(crate) bare_from: Option<i64>,
    /// The client has heard of a new leader and asks about its position at this time.
    pub(crate) validate_at_ms: Option<u64>,
    /// How many questions about it a lagging broker may still answer.
    pub(crate) stale_answers: u32,
    /// What the loop was given of it.
    pub(crate) read: Option<Reading>,
}

/// What a loop was given of a partition since reading began, and from when on.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) from: i64,
    pub(crate) upto: i64,
    /// The topic's.
    pub(crate) id: String,
    pub(crate) since_ms: u64,
}

impl Fetching {
    /// What the loop was given; `None` where it is told, or is to be told, that some of it may be gone.
    pub(crate) fn reading(self) -> Option<Reading> {
        self.read.filter(|_| self.position.is_some() && self.validate_at_ms.is_none())
    }
}

/// See the module's documentation.
pub(crate) struct Group {
    pub(super) eager: bool,
    pub(crate) committed: Positions,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) owner: BTreeMap<TopicPartition, MemberId>,
    target: BTreeMap<TopicPartition, MemberId>,
    /// What a member has handed over and was not given again.
    handed_over: BTreeSet<(String, TopicPartition)>,
    next: MemberId,
}

impl Group {
    pub(crate) fn new(eager: bool) -> Self {
        Self {
            eager,
            committed: Positions::new(),
            members: BTreeMap::new(),
            owner: BTreeMap::new(),
            target: BTreeMap::new(),
            handed_over: BTreeSet::new(),
            next: 0,
        }
    }

    pub(crate) fn join(&mut self, name: String, process: Arc<Process>) -> MemberId {
        self.next += 1;
        self.handed_over.retain(|(known, _)| *known != name);
        let member = Member {
            name,
            process,
            notices: VecDeque::new(),
            fetched: BTreeMap::new(),
            revoking: Vec::new(),
            revoke_until_ms: 0,
            memberships: 1,
            expelled: None,
            busy_until_ms: 0,
        };
        self.members.insert(self.next, member);
        self.next
    }

    /// What the client of `id` says of itself in a request that it makes now.
    pub(crate) fn membership(&self, id: MemberId) -> Option<u32> {
        self.members.get(&id).map(|member| member.memberships)
    }

    /// True while anybody is in it.
    pub(crate) fn is_live(&self) -> bool {
        self.active().next().is_some()
    }

    /// True while somebody still has to hand over.
    pub(crate) fn is_rebalancing(&self) -> bool {
        self.active().any(|(_, member)| !member.revoking.is_empty())
    }

    pub(crate) fn owns(&self, id: MemberId, partition: &TopicPartition) -> bool {
        self.owner.get(partition) == Some(&id) && self.members.get(&id).is_some_and(|member| member.expelled.is_none())
    }

    /// True where the member called `name` has handed `partition` over and was not given it again.
    pub(crate) fn has_handed_over(&self, name: &str, partition: &TopicPartition) -> bool {
        self.handed_over.contains(&(name.to_owned(), partition.clone()))
    }

    fn active(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter().filter(|(_, member)| member.expelled.is_none())
    }

    /// A new plan; who has to give something up is asked to.
    pub(crate) fn rebalance(&mut self, partitions: &BTreeSet<TopicPartition>, broker: &Broker) {
        let active: Vec<MemberId> = self.active().map(|(id, _)| *id).collect();
        self.target.clear();
        if !active.is_empty() {
            let share = partitions.len().div_ceil(active.len());
            let mut loads: BTreeMap<MemberId, usize> = active.iter().map(|id| (*id, 0)).collect();
            let shuffle = broker.dice.hits(300);
            for partition in partitions {
                let keeps =
                    self.owner.get(partition).filter(|id| !shuffle && loads.get(id).is_some_and(|load| *load < share));
                let chosen = match keeps {
                    Some(id) => *id,
                    None => {
                        let free: Vec<_> = active.iter().filter(|id| loads[id] < share).copied().collect();
                        *broker.dice.pick(if free.is_empty() { &active } else { &free })
                    }
                };
                *loads.entry(chosen).or_default() += 1;
                self.target.insert(partition.clone(), chosen);
            }
        }
        let now = broker.clock.ms();
        for id in active {
            let gives = |(partition, owner): (&TopicPartition, &MemberId)| {
                let leaves = self.eager || self.target.get(partition) != Some(&id);
                (*owner == id && leaves).then(|| partition.clone())
            };
            let going: Vec<TopicPartition> = self.owner.iter().filter_map(gives).collect();
            let member = self.members.get_mut(&id).unwrap();
            let new: Vec<_> = going.into_iter().filter(|partition| !member.revoking.contains(partition)).collect();
            if !new.is_empty() {
                if member.revoking.is_empty() {
                    member.revoke_until_ms = now + REBALANCE_MS;
                }
                member.revoking.extend(new.clone());
                member.notices.push_back(Notice::Revoked(new));
            }
        }
        self.assign(broker);
    }

    /// Hands out what nobody holds; eagerly only once everybody has handed over.
    fn assign(&mut self, broker: &Broker) {
        if self.eager && self.is_rebalancing() {
            return;
        }
        let free: Vec<(TopicPartition, MemberId)> = self
            .target
            .iter()
            .filter(|(partition, _)| !self.owner.contains_key(*partition))
            .map(|(partition, id)| (partition.clone(), *id))
            .collect();
        let mut news: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        for (partition, id) in free {
            self.owner.insert(partition.clone(), id);
            news.entry(id).or_default().push(partition);
        }
        for (id, partitions) in news {
            let Some(member) = self.members.get_mut(&id) else { continue };
            broker.diary.note(format!("{} is given {}", member.name, names(&partitions)));
            self.handed_over.retain(|(name, partition)| *name != member.name || !partitions.contains(partition));
            member.notices.push_back(Notice::Assigned(partitions));
        }
    }

    /// What the member was asked for is handed over.
    pub(crate) fn release(&mut self, id: MemberId, broker: &Broker) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let released = std::mem::take(&mut member.revoking);
        // A revocation that its loop has not heard of yet is not answered by this.
        let unheard: BTreeSet<TopicPartition> = member
            .notices
            .iter()
            .filter_map(|notice| if let Notice::Revoked(partitions) = notice { Some(partitions.clone()) } else { None })
            .flatten()
            .collect();
        let (kept, released): (Vec<_>, Vec<_>) =
            released.into_iter().partition(|partition| unheard.contains(partition));
        member.revoking = kept;
        member.fetched.retain(|partition, _| !released.contains(partition));
        broker.diary.note(format!("{} hands over {}", member.name, names(&released)));
        self.owner.retain(|partition, _| !released.contains(partition));
        let name = member.name.clone();
        self.handed_over.extend(released.into_iter().map(|partition| (name.clone(), partition)));
        self.assign(broker);
    }

    /// The member leaves, or its client went with its process.
    pub(crate) fn leave(&mut self, id: MemberId) {
        self.owner.retain(|_, owner| *owner != id);
        self.members.remove(&id);
    }

    /// Expels who shows no life or does not hand over; true where that changes anything.
    pub(crate) fn expel(&mut self, broker: &Broker) -> bool {
        let now = broker.clock.ms();
        let mut changed = false;
        let mut gone = Vec::new();
        for (id, member) in &mut self.members {
            let silent = member.process.stopped_at_ms().is_some_and(|since| now >= since + SESSION_MS);
            let slow = !member.revoking.is_empty() && now >= member.revoke_until_ms;
            if member.process.is_dead() {
                gone.push(*id);
            } else if member.expelled.is_none() && (silent || slow) {
                broker.diary.note(format!("{} is expelled", member.name));
                member.expelled = Some(UNKNOWN);
                changed = true;
            }
        }
        for id in gone {
            // A dead process is noticed when its session ends.
            let member = self.members.get_mut(&id).unwrap();
            let noticed = *member.expelled.get_or_insert(now + SESSION_MS);
            if now >= noticed {
                self.leave(id);
                changed = true;
            }
        }
        let expelled: BTreeSet<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.expelled.is_some() && !member.process.is_dead())
            .map(|(id, _)| *id)
            .collect();
        self.owner.retain(|_, owner| !expelled.contains(owner));
        changed
    }

    /// A client that was expelled hears of it and joins again.
    pub(crate) fn hear_of_expulsion(
        &mut self,
        id: MemberId,
        broker: &Broker,
    ) -> Option<BTreeMap<TopicPartition, Fetching>> {
        let now = broker.clock.ms();
        let member = self.members.get_mut(&id)?;
        let at = member.expelled.as_mut()?;
        if *at == UNKNOWN {
            *at = now + broker.dice.below(4_000);
        }
        if now < *at {
            return None;
        }
        member.expelled = None;
        member.memberships += 1;
        member.revoking.clear();
        // What was assigned and not heard of yet is gone, too.
        let mut lost = std::mem::take(&mut member.fetched);
        for notice in member.notices.drain(..) {
            if let Notice::Revoked(partitions) = notice {
                for partition in partitions {
                    lost.entry(partition).or_default();
                }
            }
        }
        Some(lost)
    }

    /// The member's loop knows that these are gone: from now on it must publish nothing of them, unless they were given
    /// to it again.
    pub(crate) fn has_lost(&mut self, id: MemberId, lost: &[TopicPartition]) {
        let Some(member) = self.members.get(&id) else { return };
        // The client has not heard yet that it is to have them again, and may never hear that it is so no more.
        let is_given = |partition| {
            let is_in = |notice: &Notice| matches!(notice, Notice::Assigned(given) if given.contains(partition));
            self.owner.get(partition) == Some(&id) || member.notices.iter().any(is_in)
        };
        let gone = lost.iter().filter(|partition| !is_given(*partition));
        self.handed_over.extend(gone.map(|partition| (member.name.clone(), partition.clone())));
    }

    /// The client gives up what it fetches and is not asked for.
    pub(crate) fn let_go(
        &mut self,
        id: MemberId,
        goes: impl Fn(&TopicPartition) -> bool,
    ) -> BTreeMap<TopicPartition, Fetching> {
        let Some(member) = self.members.get_mut(&id) else { return BTreeMap::new() };
        let revoking = &member.revoking;
        let lost: BTreeMap<_, _> =
            member.fetched.extract_if(.., |name, _| goes(name) && !revoking.contains(name)).collect();
        self.owner.retain(|partition, owner| *owner != id || !lost.contains_key(partition));
        lost
    }

    /// Everybody who fetches `partition` has to ask whether its position is still right.
    pub(crate) fn validate(&mut self, partition: &TopicPartition) {
        for member in self.members.values_mut() {
            if let Some(fetching) = member.fetched.get_mut(partition) {
                fetching.validate_at_ms.get_or_insert(0);
            }
        }
    }
}

fn names(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
