//! Accidents at a given await: a trap counts how often its process gives up control, from the beginning of a stretch of
//! the commit path on, and strikes at one of these times. What was struck is kept, with the lines of the worker's code
//! that waited there, so that a run over many seeds can show that no await of the commit path was spared.

mod path;

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use self::path::awaits;
use crate::broker::group::SESSION_MS;

/// Where a trap begins to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// At once.
    Life,
    /// A request of this kind, one of [`REQUESTS`], is made.
    Asks(&'static str),
    /// Whether something was written is not known.
    Doubt,
    /// Another's entry stands where one was to be written.
    Lost,
    /// Another's entry stands where one was to be written that publishes something.
    Taken,
    /// The group is asked whose the partition is, then.
    Claims,
    /// It is asked once more.
    Reclaims,
    /// A broker that lags behind told of the topic that was.
    Older,
    /// Records are encoded while files ahead of where the chain resumes are known.
    Ahead,
    /// An election took back records that were read.
    Cut,
    /// The task says that it is paused.
    Paused,
    /// Partitions are to be handed over, or the task is to end.
    Release,
    /// Partitions went with their topics.
    Deleted,
}

/// The requests of a task that archives.
pub(crate) const REQUESTS: &[&str] = &[
    "asks about a partition",
    "asks about a topic",
    "asks for committed offsets",
    "looks for an entry",
    "lists an entry",
    "lists data",
    "reads an entry",
    "encodes",
    "puts data",
    "puts an entry",
    "commits offsets",
];

/// Those of a large file.
pub(crate) const IN_PARTS: &[&str] = &["begins data", "puts a part of data", "completes data", "aborts data"];

/// Those with which a task begins: it tries the store with an object of its own.
pub(crate) const AT_START: &[&str] = &["asks for the cluster's id", "reads data", "deletes data"];

/// What a trap does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blow {
    Crash,
    /// Stopped for so long, and a zombie if that is longer than the group waits.
    Stop {
        for_ms: u64,
    },
    /// The group rebalances.
    Rebalance,
}

impl Blow {
    /// What the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Stop { for_ms } if for_ms > SESSION_MS => LONG_STOP,
            Self::Stop { .. } => "stop",
            Self::Rebalance => "rebalance",
        }
    }
}

/// A stop that makes a zombie: the group gives to others what the process had.
const LONG_STOP: &str = "long stop";

/// Every blow's name, in the order of the tables.
const BLOWS: [&str; 4] = ["crash", "stop", LONG_STOP, "rebalance"];

/// Strikes a process at one of its awaits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trap {
    stretch: Stretch,
    begun: bool,
    left: u64,
    pub(crate) blow: Blow,
}

/// Carries out what a trap does.
pub(crate) type Striker = Arc<dyn Fn(Blow, Hit) + Send + Sync>;

/// Where a process was when it was struck.
#[derive(Debug)]
pub(crate) struct Hit {
    /// What it had asked for last without an answer, and how far that was.
    request: Option<(String, Stage)>,
    /// The awaits that led to the one it was struck at.
    stacks: Vec<Backtrace>,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Not sent yet: it never happens if its sender dies.
    Unsent,
    /// Sent, without effect yet.
    Sent,
    /// It took effect, and the answer is on its way.
    Done,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request {
            Some((what, stage)) => write!(f, "{what}, {stage:?}"),
            None => f.write_str("no answer is due"),
        }
    }
}

impl Trap {
    /// Strikes at the await number `nth` of `stretch`, counted from 1.
    pub(crate) fn new(stretch: Stretch, nth: u64, blow: Blow) -> Self {
        Self { stretch, begun: stretch == Stretch::Life, left: nth.max(1), blow }
    }

    /// Its process, which runs, comes to `stretch`.
    pub(crate) fn reach(&mut self, stretch: &Stretch) {
        if self.stretch == *stretch && !self.begun {
            self.begun = true;
            if self.is_due() {
                watch(true);
            }
        }
    }

    /// Its process, which runs, asks for `what`.
    pub(crate) fn asks(&mut self, what: &str) {
        let kind = match self.stretch {
            Stretch::Asks(kind) => kind,
            Stretch::Ahead => "encodes",
            _ => return,
        };
        if !self.begun && kind_of(what) == kind {
            let stretch = self.stretch;
            self.reach(&stretch);
        }
    }

    /// Still to be begun, in another process then.
    pub(crate) fn is_idle(&self) -> bool {
        !self.begun
    }

    /// The next time that its process gives up control is the one.
    pub(crate) fn is_due(&self) -> bool {
        self.begun && self.left == 1
    }

    /// Its process gives up control; true where that is the time.
    pub(crate) fn count(&mut self) -> bool {
        let due = self.is_due();
        self.left -= u64::from(self.begun && !due);
        due
    }
}

impl Hit {
    /// A process that has asked for `request` last is struck now.
    pub(crate) fn now(request: Option<(String, Stage)>) -> Self {
        let stacks = WATCHED.with(|watched| watched.borrow_mut().take());
        Self { request, stacks: stacks.unwrap_or_default() }
    }
}

thread_local! {
    /// Who waited since the process that is about to be struck began to run; `None` while none is.
    static WATCHED: RefCell<Option<Vec<Backtrace>>> = const { RefCell::new(None) };
}

/// Remembers who waits from now on.
pub(crate) fn watch(due: bool) {
    WATCHED.with(|watched| *watched.borrow_mut() = due.then(Vec::new));
}

/// Whoever polls this waits here.
pub(crate) fn waits_here() {
    WATCHED.with(|watched| {
        if let Some(watched) = watched.borrow_mut().as_mut() {
            watched.push(Backtrace::force_capture());
        }
    });
}

/// `future`, so that whoever waits for it can be seen.
pub(crate) async fn seen<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            waits_here();
        }
        polled
    })
    .await
}

/// What was struck in many runs.
#[derive(Default)]
pub(crate) struct Struck {
    /// How often which blow fell, by request and its stage.
    by_request: BTreeMap<(String, Option<Stage>), BTreeMap<&'static str, u64>>,
    /// How often, by the line of an await.
    by_line: BTreeMap<(String, u32), BTreeMap<&'static str, u64>>,
}

impl Struck {
    /// What was struck in one run.
    pub(crate) fn add(&mut self, hits: &[(Blow, Hit)]) {
        for (blow, hit) in hits {
            let request = match &hit.request {
                Some((what, stage)) => (kind_of(what), Some(*stage)),
                None => ("nothing".to_owned(), None),
            };
            *self.by_request.entry(request).or_default().entry(blow.name()).or_default() += 1;
            for line in hit.stacks.iter().flat_map(lines).collect::<BTreeSet<_>>() {
                *self.by_line.entry(line).or_default().entry(blow.name()).or_default() += 1;
            }
        }
    }
}

impl Struck {
    /// What no crash, no short stop, no long one or no rebalance has met of the requests, and of the awaits in the
    /// commit path's code that ask for all of them; what no crash or no stop has met of the other awaits.
    pub(crate) fn spared(&self) -> Vec<String> {
        let mut spared = Vec::new();
        for kind in REQUESTS.iter().chain(IN_PARTS).chain(AT_START) {
            let by_stage = || self.by_request.iter().filter(|((what, _), _)| what == kind);
            let missing = BLOWS.into_iter().filter(|blow| !by_stage().any(|(_, blows)| blows.contains_key(blow)));
            spared.extend(missing.map(|blow| format!("{kind}: no {blow}")));
        }
        for one in awaits().into_iter().filter(|one| !one.is_exempt()) {
            let blows = self.by_line.get(&(one.file.to_owned(), one.at));
            let met = |names: &[&str]| blows.is_some_and(|blows| names.iter().any(|name| blows.contains_key(name)));
            let either = [("crash", ["crash"].as_slice()), ("stop", &["stop", LONG_STOP])];
            let missing: Vec<_> = match one.is_thorough() {
                true => BLOWS.into_iter().filter(|blow| !met(&[*blow])).collect(),
                false => either.iter().filter(|(_, names)| !met(names)).map(|(blow, _)| *blow).collect(),
            };
            spared.extend(missing.iter().map(|blow| format!("{one}: no {blow}")));
        }
        spared
    }
}

/// A table by requests, and one by the awaits of the commit path's code.
impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| the last request without an answer | how far it is | {0} |\n|---|---|{1}",
            BLOWS.join(" | "),
            "---|".repeat(BLOWS.len())
        )?;
        for ((what, stage), blows) in &self.by_request {
            let stage = stage.map_or(String::new(), |stage| format!("{stage:?}"));
            writeln!(f, "| {what} | {stage} | {} |", counts(Some(blows)))?;
        }
        writeln!(f, "\n| {} | await |\n|---|{}", BLOWS.join(" | "), "---|".repeat(BLOWS.len()))?;
        for one in awaits() {
            let blows = self.by_line.get(&(one.file.to_owned(), one.at));
            writeln!(f, "| {} | {one} |", counts(blows))?;
        }
        Ok(())
    }
}

fn counts(blows: Option<&BTreeMap<&'static str, u64>>) -> String {
    let count = |name| blows.and_then(|blows| blows.get(name)).copied().unwrap_or(0).to_string();
    BLOWS.map(count).join(" | ")
}

/// The request without the names in it: "puts an entry".
fn kind_of(what: &str) -> String {
    let Some((verb, path)) = what.split_once(" topics") else { return what.to_owned() };
    format!("{verb} {}", if path.contains("_manifests") { "an entry" } else { "data" })
}

/// The lines of the worker's own code that a stack goes through.
fn lines(stack: &Backtrace) -> Vec<(String, u32)> {
    let text = stack.to_string();
    let at = |line: &str| {
        let place = line.trim().strip_prefix("at ")?;
        let mut parts = place.rsplitn(3, ':');
        let (_, number, file) = (parts.next()?, parts.next()?, parts.next()?);
        // Whoever runs it elsewhere than it was built sees whole paths.
        let file = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/")).unwrap_or(file);
        let file = file.trim_start_matches("./");
        let own = ["src/", "connectors/"].iter().any(|root| file.starts_with(root));
        own.then(|| Some((file.to_owned(), number.parse().ok()?))).flatten()
    };
    text.lines().filter_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_strikes_nobody_spares_everything() {
        let spared = Struck::default().spared();
        for kind in REQUESTS.iter().chain(IN_PARTS).chain(AT_START) {
            for blow in BLOWS {
                assert!(spared.contains(&format!("{kind}: no {blow}")), "{spared:#?}");
            }
        }
        for blow in ["crash", "stop"] {
            let line =
                |spared: &&String| spared.contains("self.store.put_opts(") && spared.ends_with(&format!("no {blow}"));
            assert!(spared.iter().any(|spared| line(&spared)), "{spared:#?}");
        }
        for blow in BLOWS {
            let says = format!(": match shared.context.commit(&positions).await {{: no {blow}");
            assert!(spared.iter().any(|spared| spared.ends_with(&says)), "{spared:#?}");
        }
    }
}
