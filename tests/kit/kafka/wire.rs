//! The few Kafka requests that the kit needs often, over a plain socket: a JVM tool costs a second of CPU each time.
//!
//! Called by `Kafka` for readiness, topics and offsets. Only versions without tagged fields are used, all of which
//! Kafka 4.3 still accepts. One connection per request; it is independent of the client library under test.

pub(super) mod acls;

use std::io::{Read, Write};

use crate::kit::{Error, Result, http};

pub(super) const LATEST: i64 = -1;
pub(super) const EARLIEST: i64 = -2;

const PRODUCE: (i16, i16) = (0, 7);
const LIST_OFFSETS: (i16, i16) = (2, 1);
const METADATA: (i16, i16) = (3, 1);
const LEAVE_GROUP: (i16, i16) = (13, 0);
const DESCRIBE_GROUPS: (i16, i16) = (15, 0);
const CREATE_TOPICS: (i16, i16) = (19, 4);
const DELETE_TOPICS: (i16, i16) = (20, 3);
const DELETE_RECORDS: (i16, i16) = (21, 1);

const TIMEOUT_MS: i32 = 30_000;
const UNKNOWN_TOPIC: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;

pub(super) struct Cluster {
    pub(super) brokers: usize,
    pub(super) controller: i32,
}

/// A partition as a broker's metadata shows it; a leader of -1 is none.
#[derive(Debug, Clone)]
pub struct Partition {
    pub id: i32,
    pub leader: i32,
    pub in_sync: Vec<i32>,
}

pub(super) struct NewTopic<'a> {
    pub(super) name: &'a str,
    pub(super) partitions: usize,
    pub(super) replicas: usize,
    /// The brokers of its one partition, the leader first; where empty, the cluster chooses.
    pub(super) brokers: &'a [i32],
    pub(super) configs: &'a [(&'a str, &'a str)],
}

/// What the broker at `address` knows of its cluster.
pub(super) fn cluster(address: &str) -> Result<Cluster> {
    metadata(address, &[]).map(|(cluster, _)| cluster)
}

/// What the broker at `address` knows of a topic.
pub(super) fn topic(address: &str, name: &str) -> Result<Option<Vec<Partition>>> {
    let (_, mut answer) = metadata(address, &[name])?;
    answer.count()?;
    let code = answer.i16()?;
    answer.string()?;
    answer.take(1)?;
    let partitions = answer.count()?;
    let partitions = (0..partitions).map(|_| partition(&mut answer)).collect::<Result<Vec<_>>>()?;
    match code {
        UNKNOWN_TOPIC => Ok(None),
        0 | LEADER_NOT_AVAILABLE => Ok(Some(partitions)),
        code => Err(refused("Metadata", name, code)),
    }
}

pub(super) fn create_topic(address: &str, topic: &NewTopic<'_>) -> Result<()> {
    let mut body = Request::default();
    body.count(1).string(topic.name);
    if topic.brokers.is_empty() {
        body.i32(int(topic.partitions)?);
        body.i16(i16::try_from(topic.replicas).map_err(|_| Error::failed("too many replicas"))?).count(0);
    } else {
        body.i32(-1).i16(-1).count(1).i32(0).count(topic.brokers.len());
        for id in topic.brokers {
            body.i32(*id);
        }
    }
    body.count(topic.configs.len());
    for (key, value) in topic.configs {
        body.string(key).string(value);
    }
    body.i32(TIMEOUT_MS).bytes(&[0]);
    let mut answer = call(address, CREATE_TOPICS, body)?;
    answer.i32()?;
    answer.count()?;
    answer.string()?;
    let code = answer.i16()?;
    let why = answer.string()?.unwrap_or_default();
    if code == 0 { Ok(()) } else { Err(refused("CreateTopics", &format!("{}: {why}", topic.name), code)) }
}

pub(super) fn delete_topic(address: &str, name: &str) -> Result<()> {
    let mut body = Request::default();
    body.count(1).string(name).i32(TIMEOUT_MS);
    let mut answer = call(address, DELETE_TOPICS, body)?;
    answer.i32()?;
    answer.count()?;
    answer.string()?;
    answer.ok("DeleteTopics", name)
}

/// `address` must be the leader's; `batch` is what Kafka stores.
pub(super) fn produce(address: &str, topic: &str, partition: i32, batch: &[u8]) -> Result<()> {
    let mut body = Request::default();
    body.i16(-1).i16(-1).i32(TIMEOUT_MS).count(1).string(topic).count(1).i32(partition);
    body.count(batch.len()).bytes(batch);
    let mut answer = call(address, PRODUCE, body)?;
    answer.count()?;
    answer.string()?;
    answer.count()?;
    answer.i32()?;
    answer.ok("Produce", topic)
}

/// `address` must be the leader's.
pub(super) fn delete_records(address: &str, topic: &str, partition: i32, before: i64) -> Result<()> {
    let mut body = Request::default();
    body.count(1).string(topic).count(1).i32(partition).i64(before).i32(TIMEOUT_MS);
    let mut answer = call(address, DELETE_RECORDS, body)?;
    answer.i32()?;
    answer.count()?;
    answer.string()?;
    answer.count()?;
    answer.i32()?;
    answer.i64()?;
    answer.ok("DeleteRecords", topic)
}

/// `address` must be the leader's; `timestamp` is one or [`EARLIEST`] or [`LATEST`].
pub(super) fn offset(address: &str, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
    let mut body = Request::default();
    body.i32(-1).count(1).string(topic).count(1).i32(partition).i64(timestamp);
    let mut answer = call(address, LIST_OFFSETS, body)?;
    answer.count()?;
    answer.string()?;
    answer.count()?;
    answer.i32()?;
    answer.ok("ListOffsets", topic)?;
    answer.i64()?;
    answer.i64()
}

/// The ids of a group's members; `address` must be the coordinator's.
pub(super) fn members(address: &str, group: &str) -> Result<Vec<String>> {
    let mut body = Request::default();
    body.count(1).string(group);
    let mut answer = call(address, DESCRIBE_GROUPS, body)?;
    answer.count()?;
    answer.ok("DescribeGroups", group)?;
    for _ in 0..4 {
        answer.string()?;
    }
    let mut members = Vec::new();
    for _ in 0..answer.count()? {
        members.push(answer.string()?.unwrap_or_default());
        answer.string()?;
        answer.string()?;
        for _ in 0..2 {
            let length = answer.count()?;
            answer.take(length)?;
        }
    }
    Ok(members)
}

/// Says that a member leaves its group, who learns it when it asks next; `address` must be the coordinator's.
pub(super) fn leave_group(address: &str, group: &str, member: &str) -> Result<()> {
    let mut body = Request::default();
    body.string(group).string(member);
    call(address, LEAVE_GROUP, body)?.ok("LeaveGroup", group)
}

/// The answer is left standing before the array of topics.
fn metadata(address: &str, topics: &[&str]) -> Result<(Cluster, Answer)> {
    let mut body = Request::default();
    body.count(topics.len());
    for topic in topics {
        body.string(topic);
    }
    let mut answer = call(address, METADATA, body)?;
    let brokers = answer.count()?;
    for _ in 0..brokers {
        answer.i32()?;
        answer.string()?;
        answer.i32()?;
        answer.string()?;
    }
    let controller = answer.i32()?;
    Ok((Cluster { brokers, controller }, answer))
}

fn partition(answer: &mut Answer) -> Result<Partition> {
    answer.i16()?;
    let (id, leader) = (answer.i32()?, answer.i32()?);
    for _ in 0..answer.count()? {
        answer.i32()?;
    }
    let in_sync = answer.count()?;
    let in_sync = (0..in_sync).map(|_| answer.i32()).collect::<Result<Vec<_>>>()?;
    Ok(Partition { id, leader, in_sync })
}

fn call(address: &str, (key, version): (i16, i16), body: Request) -> Result<Answer> {
    let mut head = Request::default();
    head.i16(key).i16(version).i32(1).string("kit");
    let length = int(head.0.len() + body.0.len())?;
    let mut stream = http::connect(address)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(40)))?;
    stream.write_all(&[&length.to_be_bytes(), head.0.as_slice(), &body.0].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).map_err(|_| Error::failed("a negative length"))?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    let mut answer = Answer { bytes, at: 0 };
    answer.i32()?;
    Ok(answer)
}

#[derive(Default)]
struct Request(Vec<u8>);

impl Request {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Request {
        self.0.extend_from_slice(bytes);
        self
    }

    fn i16(&mut self, value: i16) -> &mut Request {
        self.bytes(&value.to_be_bytes())
    }

    fn i32(&mut self, value: i32) -> &mut Request {
        self.bytes(&value.to_be_bytes())
    }

    fn i64(&mut self, value: i64) -> &mut Request {
        self.bytes(&value.to_be_bytes())
    }

    fn count(&mut self, count: usize) -> &mut Request {
        self.i32(i32::try_from(count).unwrap_or(i32::MAX))
    }

    fn string(&mut self, text: &str) -> &mut Request {
        self.i16(i16::try_from(text.len()).unwrap_or(i16::MAX)).bytes(text.as_bytes())
    }
}

struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let taken = self.bytes.get(self.at..self.at + count);
        self.at += count;
        taken.ok_or_else(|| Error::failed("a broker's answer is shorter than its version demands"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn count(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.i32()?).unwrap_or(0))
    }

    fn string(&mut self) -> Result<Option<String>> {
        let Ok(length) = usize::try_from(self.i16()?) else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    fn ok(&mut self, request: &str, name: &str) -> Result<()> {
        let code = self.i16()?;
        if code == 0 { Ok(()) } else { Err(refused(request, name, code)) }
    }
}

fn int(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::failed(format!("{value} does not fit a Kafka request")))
}

fn refused(request: &str, name: &str, code: i16) -> Error {
    Error::failed(format!("{request} of {name}: the broker answers with error code {code}"))
}
