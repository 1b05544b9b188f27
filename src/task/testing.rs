//! Scripted stand-ins for everything around a loop: a clock that tests move, a consumer, producer and admin that do
//! what they are told, and connectors whose answers are scripted. All of them write into one [`Journal`], so a test
//! reads what happened in order.

mod clock;
pub(crate) mod fake;
pub(crate) mod text;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures::future::BoxFuture;
use lakeferry_api::record::RawRecord;
use lakeferry_api::source::{NewTopic, TargetTopic};
use lakeferry_api::{
    Batch, BatchBuilder, Config, ConnectError, PartitionView, Place, Places, Positions, Result, TimestampType,
    TopicPartition,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::clock::ManualClock;
use super::{State, StatusListener, TaskId};
use crate::kafka::{
    Admin, BatchDelivery, Clients, Consumer, Delivered, Delivery, Event, GroupMember, Producer, Subscription,
};

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    lines: Arc<Mutex<Vec<String>>>,
    topics: Arc<Mutex<BTreeSet<String>>>,
}

impl Journal {
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.lines.lock().unwrap().push(line.into());
    }

    /// Everything since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|known| known == line)
    }

    pub(crate) fn has_prefix(&self, prefix: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|known| known.starts_with(prefix))
    }

    pub(crate) fn count(&self, line: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|known| *known == line).count()
    }

    /// The topics that were told to be used.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.lock().unwrap().iter().cloned().collect()
    }

    pub(crate) fn listener(&self) -> Arc<dyn StatusListener> {
        Arc::new(self.clone())
    }
}

impl StatusListener for Journal {
    fn task_changed(&self, _: &TaskId, state: State, trace: Option<String>) {
        self.note(match trace {
            Some(trace) => format!("{} ({trace})", state.name()),
            None => state.name().to_owned(),
        });
    }

    fn topic_used(&self, _: &TaskId, topic: &str) {
        self.topics.lock().unwrap().insert(topic.to_owned());
    }
}

pub(crate) fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

pub(crate) fn at(entries: &[(i32, i64)]) -> Positions {
    entries.iter().map(|(number, offset)| (partition(*number), *offset)).collect()
}

/// The same as places without marks.
pub(crate) fn from(entries: &[(i32, i64)]) -> Places {
    entries.iter().map(|(number, offset)| (partition(*number), (*offset).into())).collect()
}

/// Records `base..next` of partition `number`, their offset as value.
pub(crate) fn batch(number: i32, base: i64, next: i64) -> Batch {
    let mut builder = BatchBuilder::new(partition(number), base);
    for offset in base..next {
        let value = offset.to_string();
        builder.push(offset, (1_000 + offset, Some(TimestampType::Create)), None, Some(value.as_bytes()));
    }
    builder.build(next)
}

pub(crate) fn names(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(crate) fn shown(positions: &Positions) -> String {
    positions.iter().map(|(partition, offset)| format!("{partition}@{offset}")).collect::<Vec<_>>().join(" ")
}

/// As [`shown`], with what is checked first: `t-0@10(3<9)` where epoch 3 must reach 9.
pub(crate) fn shown_places(places: &Places) -> String {
    let show = |(partition, place): (&TopicPartition, &Place)| {
        let mark = place.mark.map(|mark| format!("({}<{})", mark.leader_epoch, mark.upto)).unwrap_or_default();
        format!("{partition}@{}{mark}", place.offset)
    };
    places.iter().map(show).collect::<Vec<_>>().join(" ")
}

pub(crate) fn shown_batches(batches: &[Batch]) -> String {
    let show = |batch: &Batch| format!("{}[{}..{})", batch.partition(), batch.base_offset(), batch.next_offset());
    batches.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// The fake cluster: what clients of a test see and what is scripted for them.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) journal: Journal,
    shared: Arc<Mutex<Shared>>,
    events: mpsc::Sender<Event>,
}

struct Shared {
    events: Option<mpsc::Receiver<Event>>,
    committed: Positions,
    /// Answers of commits to come; `Ok` where there is none.
    commit_answers: VecDeque<Result<()>>,
    commits_hang: bool,
    views: BTreeMap<TopicPartition, PartitionView>,
    /// Views to be told before the true ones.
    lagging: VecDeque<PartitionView>,
    /// Answers of questions to come before the true one.
    question_answers: VecDeque<ConnectError>,
    topics: BTreeMap<String, u32>,
    create_answers: VecDeque<Result<()>>,
    send_answers: VecDeque<Result<()>>,
    /// Deliveries wait for [`Cluster::deliver`].
    hold_deliveries: bool,
    held: VecDeque<oneshot::Sender<Result<()>>>,
    clients: Vec<(String, Config)>,
}

impl Cluster {
    pub(crate) fn new(journal: Journal) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let shared = Shared {
            events: Some(receiver),
            committed: Positions::new(),
            commit_answers: VecDeque::new(),
            commits_hang: false,
            views: BTreeMap::new(),
            lagging: VecDeque::new(),
            question_answers: VecDeque::new(),
            topics: BTreeMap::new(),
            create_answers: VecDeque::new(),
            send_answers: VecDeque::new(),
            hold_deliveries: false,
            held: VecDeque::new(),
            clients: Vec::new(),
        };
        Self { journal, shared: Arc::new(Mutex::new(shared)), events: sender }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    async fn refuse_if_live(&self, group: &str) -> Result<()> {
        match self.group_is_live(group).await? {
            true => Err(ConnectError::conflict("the group is live")),
            false => Ok(()),
        }
    }

    /// The consumer's next event.
    pub(crate) fn say(&self, event: Event) {
        self.events.try_send(event).unwrap();
    }

    pub(crate) fn set_committed(&self, committed: Positions) {
        self.lock().committed = committed;
    }

    pub(crate) fn committed(&self) -> Positions {
        self.lock().committed.clone()
    }

    pub(crate) fn answer_commit(&self, answer: Result<()>) {
        self.lock().commit_answers.push_back(answer);
    }

    pub(crate) fn hang_commits(&self, hang: bool) {
        self.lock().commits_hang = hang;
    }

    pub(crate) fn set_log(&self, number: i32, log_start_offset: i64, end: i64) {
        let view = PartitionView {
            log_start_offset,
            last_stable_offset: end,
            end_offset: Some(end),
            ..PartitionView::default()
        };
        self.lock().views.insert(partition(number), view);
    }

    /// A partition that the broker knows, with nothing in it.
    pub(crate) fn add_log(&self, partition: &TopicPartition) {
        self.lock().views.insert(partition.clone(), PartitionView::default());
    }

    /// The next questions about a partition are answered by a broker that lags behind, for which the log begins there.
    pub(crate) fn lag(&self, number: i32, log_starts: &[i64]) {
        let mut shared = self.lock();
        let view = shared.views[&partition(number)].clone();
        let lagging = log_starts.iter().map(|&log_start_offset| PartitionView { log_start_offset, ..view.clone() });
        shared.lagging.extend(lagging);
    }

    /// The broker gives this topic id with what [`Cluster::set_log`] set.
    pub(crate) fn set_topic_id(&self, number: i32, id: &str) {
        self.lock().views.get_mut(&partition(number)).unwrap().topic_id = Some(id.to_owned());
    }

    /// The broker does not tell the end of what [`Cluster::set_log`] set, only what is stable of it.
    pub(crate) fn hide_end(&self, number: i32) {
        self.lock().views.get_mut(&partition(number)).unwrap().end_offset = None;
    }

    pub(crate) fn refuse_question(&self, error: ConnectError) {
        self.lock().question_answers.push_back(error);
    }

    pub(crate) fn add_topic(&self, name: &str) {
        self.lock().topics.insert(name.to_owned(), 1);
    }

    pub(crate) fn answer_create(&self, answer: Result<()>) {
        self.lock().create_answers.push_back(answer);
    }

    pub(crate) fn answer_send(&self, answer: Result<()>) {
        self.lock().send_answers.push_back(answer);
    }

    pub(crate) fn hold_deliveries(&self) {
        self.lock().hold_deliveries = true;
    }

    /// Ends the delivery that was sent as number `index` of those still held.
    pub(crate) fn deliver(&self, index: usize, result: Result<()>) {
        let sender = self.lock().held.remove(index).expect("a delivery is held");
        let _ = sender.send(result);
    }

    pub(crate) fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// The properties that the client of this id was made with.
    pub(crate) fn properties(&self, client_id: &str) -> Option<Config> {
        self.lock().clients.iter().find(|(id, _)| id == client_id).map(|(_, properties)| properties.clone())
    }

    fn made(&self, properties: &Config) {
        let id = properties.get("client.id").cloned().unwrap_or_default();
        self.lock().clients.push((id, properties.clone()));
    }

    fn ask(&self) -> Result<()> {
        self.lock().question_answers.pop_front().map_or(Ok(()), Err)
    }

    fn delivery(&self) -> Result<BoxFuture<'static, Result<()>>> {
        let mut shared = self.lock();
        shared.send_answers.pop_front().unwrap_or(Ok(()))?;
        if !shared.hold_deliveries {
            return Ok(Box::pin(async { Ok(()) }));
        }
        let (sender, receiver) = oneshot::channel();
        shared.held.push_back(sender);
        Ok(Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(ConnectError::fatal("purged"))) }))
    }
}

impl Clients for Cluster {
    fn consumer(&self, properties: &Config, subscription: &Subscription) -> Result<Box<dyn Consumer>> {
        self.made(properties);
        self.journal.note(format!("subscribe {subscription:?}"));
        let events = self.lock().events.take().expect("one consumer a test");
        Ok(Box::new(FakeConsumer { cluster: self.clone(), events }))
    }

    fn producer(&self, properties: &Config) -> Result<Arc<dyn Producer>> {
        self.made(properties);
        Ok(Arc::new(self.clone()))
    }

    fn admin(&self, properties: &Config) -> Result<Arc<dyn Admin>> {
        self.made(properties);
        Ok(Arc::new(self.clone()))
    }
}

struct FakeConsumer {
    cluster: Cluster,
    events: mpsc::Receiver<Event>,
}

#[async_trait]
impl Consumer for FakeConsumer {
    async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    fn start_at(&mut self, places: &Places) {
        self.cluster.journal.note(format!("start_at {}", shown_places(places)));
    }

    fn release(&mut self) {
        self.cluster.journal.note("release");
    }

    fn seek(&mut self, partition: &TopicPartition, place: Place) {
        self.cluster.journal.note(format!("seek {}", shown_places(&Places::from([(partition.clone(), place)]))));
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.cluster.journal.note(format!("pause {}", names(partitions)));
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.cluster.journal.note(format!("resume {}", names(partitions)));
    }

    fn group(&self) -> Arc<dyn GroupMember> {
        Arc::new(self.cluster.clone())
    }

    async fn close(&mut self) {
        self.cluster.journal.note("leave the group");
    }
}

#[async_trait]
impl GroupMember for Cluster {
    async fn commit(&self, positions: &Positions) -> Result<()> {
        self.journal.note(format!("commit {}", shown(positions)));
        if self.lock().commits_hang {
            std::future::pending::<()>().await;
        }
        let mut shared = self.lock();
        shared.commit_answers.pop_front().unwrap_or(Ok(()))?;
        shared.committed.extend(positions.clone());
        Ok(())
    }

    async fn committed(&self, partitions: &[TopicPartition]) -> Result<Positions> {
        self.ask()?;
        let mut committed = self.lock().committed.clone();
        committed.retain(|partition, _| partitions.contains(partition));
        Ok(committed)
    }
}

#[async_trait]
impl Producer for Cluster {
    async fn send(&self, record: RawRecord) -> Result<Delivery> {
        if record.timestamp.is_some_and(|timestamp| timestamp <= 0) {
            return Err(ConnectError::data("no client can write this timestamp"));
        }
        let delivery = self.delivery()?;
        let text = |bytes: &Option<bytes::Bytes>| {
            bytes.as_ref().map_or("null".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        self.journal.note(format!("send {} {}={}", record.topic, text(&record.key), text(&record.value)));
        for (key, value) in &record.headers {
            self.journal.note(format!("  {key}: {}", text(value).lines().next().unwrap_or_default()));
        }
        Ok(Box::pin(async move { delivery.await.map(|()| Delivered { partition: 0, offset: 0 }) }))
    }

    async fn send_batch(&self, batch: &Batch) -> Result<BatchDelivery> {
        let delivery = self.delivery()?;
        self.journal.note(format!("send {}", shown_batches(std::slice::from_ref(batch))));
        Ok(Box::pin(async move { delivery.await.map(|()| None) }))
    }
}

#[async_trait]
impl Admin for Cluster {
    async fn cluster_id(&self) -> Result<String> {
        self.ask().map(|()| "cluster".to_owned())
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<PartitionView> {
        self.ask()?;
        let mut shared = self.lock();
        let view = shared.lagging.pop_front().or_else(|| shared.views.get(partition).cloned());
        view.ok_or_else(|| ConnectError::not_found(format!("{partition} does not exist")))
    }

    async fn topics(&self) -> Result<Vec<String>> {
        self.ask()?;
        Ok(self.lock().topics.keys().cloned().collect())
    }

    async fn target_topic(&self, topic: &str) -> Result<Option<TargetTopic>> {
        self.ask()?;
        Ok(self.lock().topics.get(topic).map(|&partitions| TargetTopic { partitions, ..TargetTopic::default() }))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<()> {
        let answer = self.lock().create_answers.pop_front().unwrap_or(Ok(()));
        let (partitions, replicas) = (topic.partitions.unwrap_or(0), topic.replication_factor.unwrap_or(0));
        self.journal.note(format!("create {} {partitions}x{replicas}", topic.name));
        answer?;
        self.lock().topics.insert(topic.name.clone(), partitions);
        Ok(())
    }

    async fn group_offsets(&self, _: &str) -> Result<Positions> {
        Ok(self.committed())
    }

    /// The group has a member once its consumer was made.
    async fn group_is_live(&self, _: &str) -> Result<bool> {
        Ok(self.lock().events.is_none())
    }

    async fn alter_group_offsets(&self, group: &str, offsets: &Positions) -> Result<()> {
        self.refuse_if_live(group).await?;
        self.lock().committed.extend(offsets.clone());
        Ok(())
    }

    async fn delete_group_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        self.refuse_if_live(group).await?;
        self.lock().committed.retain(|partition, _| !partitions.contains(partition));
        Ok(())
    }

    async fn delete_group(&self, group: &str) -> Result<()> {
        self.refuse_if_live(group).await?;
        self.lock().committed.clear();
        Ok(())
    }
}
