//! The offsets of a chain: what each entry publishes anew must be just what it brings, offset by offset (laws 7 to 12).
//! The rows of its files are read and counted, never taken from what the entry says.

use std::collections::{BTreeMap, BTreeSet};

use lakeferry_api::TopicPartition;
use serde_json::Value;

use super::{Objects, Rows, Verdict, altered, demand, files, integer, list, number, text};
use crate::broker::log::Rec;

/// No offset of `ahead` lies further beyond `resume_offset`, and no more pairs stand in it.
const MAX_AHEAD_SPAN: i64 = 8 << 20;
const MAX_AHEAD_PAIRS: usize = 1_000;

/// What a lineage has of its own.
#[derive(Default)]
pub(super) struct Lineage {
    pub(super) rows: Rows,
    pub(super) absent: Vec<Absent>,
}

/// Offsets that are said to have no record.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) offsets: Vec<i64>,
    pub(super) count_by_reason: BTreeMap<String, i64>,
}

/// What was published of a lineage so far.
#[derive(Default, Clone)]
struct Account {
    resume: i64,
    ahead: BTreeSet<i64>,
    totals: Totals,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Totals {
    records: i64,
    missing: i64,
    gaps: i64,
    files: i64,
    stored_bytes: i64,
    raw_bytes: i64,
}

/// Checks the offsets of a chain, and its files.
pub(super) fn check(objects: &Objects, partition: &TopicPartition, chain: &[Value]) -> Verdict<BTreeMap<u64, Lineage>> {
    let mut lineages: BTreeMap<u64, Lineage> = BTreeMap::new();
    let mut accounts: BTreeMap<u64, Account> = BTreeMap::new();
    let mut paths = BTreeSet::new();
    for (at, entry) in chain.iter().enumerate() {
        let say = |law: String| format!("entry {at}: {law}");
        let number = entry["source"]["lineage"].as_u64().ok_or("no lineage")?;
        let lineage = lineages.entry(number).or_default();
        if altered::is_reset(entry) {
            demand(!accounts.contains_key(&number), || say("a reset begins no lineage".to_owned()))?;
            check_reset(entry).map_err(say)?;
            continue;
        }
        let mut account = match accounts.get(&number) {
            Some(account) => account.clone(),
            None => inherit(entry, &accounts).map_err(say)?,
        };
        let mut files = Vec::new();
        for file in list(entry, "files")? {
            demand(paths.insert(text(file, "path")?), || say(format!("{} is named twice", file["path"])))?;
            files.push((file, files::read(objects, partition, (entry, file)).map_err(say)?));
        }
        lineage.absent.extend(account.publish(entry, &files).map_err(say)?);
        for (offset, rec) in files.into_iter().flat_map(|(_, rows)| rows) {
            demand(lineage.rows.insert(offset, rec).is_none(), || say(format!("offset {offset} is archived twice")))?;
        }
        check_mark(entry, &lineage.rows).map_err(say)?;
        accounts.insert(number, account);
    }
    Ok(lineages)
}

/// A reset publishes nothing.
fn check_reset(entry: &Value) -> Verdict {
    for name in ["files", "gaps", "ahead"] {
        demand(list(entry, name)?.is_empty(), || format!("a reset with {name}"))?;
    }
    demand(counts(&entry["missing"])?.is_empty(), || "a reset with missing offsets".to_owned())?;
    demand(Totals::of(entry)? == Totals::default(), || format!("a reset with totals {}", entry["totals"]))
}

/// Where the accounting of a lineage begins.
fn inherit(entry: &Value, accounts: &BTreeMap<u64, Account>) -> Verdict<Account> {
    let first = number(&entry["source"], "first")?;
    let mut account = Account { resume: first, ..Account::default() };
    let continues = &entry["source"]["continues"];
    if continues.is_null() {
        return Ok(account);
    }
    let (old, before) = (number(continues, "lineage")?, number(continues, "before")?);
    // A reset that nothing was archived after has no account: nothing stands before the new lineage then.
    let old = accounts.get(&(old as u64)).cloned().unwrap_or(Account { resume: before, ..Account::default() });
    demand(first == old.resume.min(before), || format!("it begins at {first}, not where the old one stood"))?;
    account.ahead = old.ahead.range(first..before.max(first)).copied().collect();
    account.totals.records = account.ahead.len() as i64;
    Ok(account)
}

/// The mark lies behind the last record that is resumed behind.
fn check_mark(entry: &Value, rows: &Rows) -> Verdict {
    let (upto, resume) = (integer(&entry["log"], "leader_epoch_upto")?, number(entry, "resume_offset")?);
    let last = rows.range(..resume).next_back().map(|(offset, _)| *offset);
    demand(upto.is_none_or(|upto| last.is_none_or(|last| last < upto)), || {
        format!("its mark reaches to {upto:?}, but there is a record at {last:?}")
    })
}

impl Account {
    /// Takes `entry` in. The offsets that it says have no record.
    fn publish(&mut self, entry: &Value, files: &[(&Value, Vec<(i64, Rec)>)]) -> Verdict<Vec<Absent>> {
        let (resume, ahead) = (number(entry, "resume_offset")?, ahead(entry)?);
        demand(resume >= self.resume, || format!("resume_offset goes back from {} to {resume}", self.resume))?;
        demand(files.is_empty() || entry["kind"] == "commit", || "files in an entry that is no commit".to_owned())?;
        let lost = self.ahead.range(resume..).find(|offset| !ahead.contains(offset));
        demand(lost.is_none(), || format!("offset {lost:?} was ahead and is not any more"))?;
        let published = (self.resume..resume).chain(ahead.iter().copied());
        // What is published and nothing answers for yet.
        let mut fresh: BTreeSet<i64> = published.filter(|offset| !self.ahead.contains(offset)).collect();
        for (offset, _) in files.iter().flat_map(|(_, rows)| rows) {
            demand(fresh.remove(offset), || format!("offset {offset} is in a file and not newly published"))?;
        }
        let mut absent = Vec::new();
        for (file, rows) in files {
            absent.extend(self.span(file, rows, resume, &mut fresh).map_err(|law| format!("{}: {law}", file["path"]))?);
        }
        for gap in list(entry, "gaps")? {
            let (from, to) = (number(gap, "from")?, number(gap, "to")?);
            demand(from <= to && to < resume, || format!("the gap {gap} lies beyond resume_offset {resume}"))?;
            let other = (from..=to).find(|offset| !fresh.remove(offset));
            demand(other.is_none(), || format!("offset {other:?} of the gap {gap} is published otherwise"))?;
            let count_by_reason = BTreeMap::from([(text(gap, "reason")?, to - from + 1)]);
            absent.push(Absent { offsets: (from..=to).collect(), count_by_reason });
            self.totals.gaps += to - from + 1;
        }
        let count_by_reason = counts(&entry["missing"])?;
        let fits = fresh.len() as i64 == count_by_reason.values().sum::<i64>();
        demand(fits && fresh.range(resume..).next().is_none(), || {
            format!("missing is {}, but nothing answers for {fresh:?}", entry["missing"])
        })?;
        absent.push(Absent { offsets: fresh.into_iter().collect(), count_by_reason });
        (self.resume, self.ahead) = (resume, ahead);
        self.count(entry, files, &absent)?;
        Ok(absent)
    }

    /// A file answers for every offset of its span; a routed one has no span and answers for its records only.
    fn span(
        &self,
        file: &Value,
        rows: &[(i64, Rec)],
        resume: i64,
        fresh: &mut BTreeSet<i64>,
    ) -> Verdict<Option<Absent>> {
        let count_by_reason = counts(&file["missing"])?;
        let (from, to) = match (integer(file, "span_from")?, integer(file, "span_to")?) {
            (Some(from), Some(to)) => (from, to),
            (None, None) if count_by_reason.is_empty() => return Ok(None),
            span => return Err(format!("a span of {span:?} with {count_by_reason:?}")),
        };
        demand(from >= self.resume && to < resume, || {
            format!("its span {from}..={to} is not between {} and {resume}", self.resume)
        })?;
        let own: BTreeSet<i64> = rows.iter().map(|(offset, _)| *offset).collect();
        demand(own.iter().all(|offset| (from..=to).contains(offset)), || "a record outside of its span".to_owned())?;
        let others: Vec<i64> = (from..=to).filter(|at| !own.contains(at) && !self.ahead.contains(at)).collect();
        let other = others.iter().find(|offset| !fresh.remove(offset));
        demand(other.is_none(), || format!("offset {other:?} of its span is answered for elsewhere"))?;
        let fits = others.len() as i64 == count_by_reason.values().sum::<i64>();
        demand(fits, || format!("it does not account for its span: missing is {count_by_reason:?}, not {others:?}"))?;
        Ok(Some(Absent { offsets: others, count_by_reason }))
    }

    /// Law 12.
    fn count(&mut self, entry: &Value, files: &[(&Value, Vec<(i64, Rec)>)], absent: &[Absent]) -> Verdict {
        let totals = &mut self.totals;
        for (file, rows) in files {
            totals.records += rows.len() as i64;
            totals.files += 1;
            totals.stored_bytes += number(file, "stored_bytes")?;
            totals.raw_bytes += number(file, "raw_bytes")?;
        }
        let gaps: i64 = list(entry, "gaps")?
            .iter()
            .map(|gap| Ok(number(gap, "to")? - number(gap, "from")? + 1))
            .sum::<Verdict<i64>>()?;
        totals.missing += absent.iter().flat_map(|absent| absent.count_by_reason.values()).sum::<i64>() - gaps;
        let said = Totals::of(entry)?;
        demand(said == *totals, || format!("totals are {said:?}, not {totals:?}"))?;
        let answered = said.records + said.missing + said.gaps;
        let published = self.resume - number(&entry["source"], "first")? + self.ahead.len() as i64;
        demand(answered == published, || format!("{answered} of {published} offsets are accounted for"))
    }
}

impl Totals {
    fn of(entry: &Value) -> Verdict<Self> {
        let total = |name| number(&entry["totals"], name);
        Ok(Self {
            records: total("records")?,
            missing: total("missing")?,
            gaps: total("gaps")?,
            files: total("files")?,
            stored_bytes: total("stored_bytes")?,
            raw_bytes: total("raw_bytes")?,
        })
    }
}

/// Law 10, as far as it is about one entry: sorted pairs that neither overlap nor touch, all beyond `resume_offset`.
fn ahead(entry: &Value) -> Verdict<BTreeSet<i64>> {
    let mut end = number(entry, "resume_offset")?;
    let (resume, pairs) = (end, list(entry, "ahead")?);
    demand(pairs.len() <= MAX_AHEAD_PAIRS, || format!("{} pairs in ahead", pairs.len()))?;
    let mut offsets = BTreeSet::new();
    for pair in pairs {
        let ends = pair.as_array().map(Vec::as_slice).unwrap_or_default();
        let [Some(from), Some(to)] = ends.iter().map(Value::as_i64).collect::<Vec<_>>()[..] else {
            return Err(format!("{pair} in ahead"));
        };
        demand(end < from && from <= to, || format!("{pair} follows {end} in ahead"))?;
        offsets.extend(from..=to);
        end = to + 1;
    }
    demand(end - 1 - resume <= MAX_AHEAD_SPAN, || format!("ahead reaches {end}, resume_offset is {resume}"))?;
    Ok(offsets)
}

fn counts(missing: &Value) -> Verdict<BTreeMap<String, i64>> {
    let counts = missing.as_object().ok_or_else(|| format!("missing is {missing}"))?;
    let count = |(reason, count): (&String, &Value)| Some((reason.clone(), count.as_i64()?));
    counts.iter().map(count).collect::<Option<_>>().ok_or_else(|| format!("missing is {missing}"))
}
