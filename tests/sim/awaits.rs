//! Accidents at a given await: a trap counts how often its process gives up control, from the beginning of a stretch of
//! the commit path on, and strikes at one of these times. What was struck is kept, with the lines of the worker's code
//! that waited there, so that a run over many seeds can show that no await of the commit path was spared.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

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
    /// Partitions are to be handed over, or the task is to end.
    Release,
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
            Self::Stop { .. } => "stop",
            Self::Rebalance => "rebalance",
        }
    }
}

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
        let Stretch::Asks(kind) = self.stretch else { return };
        if !self.begun && kind_of(what) == kind {
            self.reach(&Stretch::Asks(kind));
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
    /// What no crash or no stop has met: of the requests, and of the awaits in the commit path's code.
    pub(crate) fn spared(&self) -> Vec<String> {
        let names = ["crash", "stop"];
        let mut spared = Vec::new();
        for kind in REQUESTS.iter().chain(IN_PARTS) {
            let by_stage = || self.by_request.iter().filter(|((what, _), _)| what == kind);
            let missing = names.into_iter().filter(|blow| !by_stage().any(|(_, blows)| blows.contains_key(blow)));
            spared.extend(missing.map(|blow| format!("{kind}: no {blow}")));
        }
        for (file, at, line) in awaits().into_iter().filter(|(file, _, line)| !is_exempt(&format!("{file}: {line}"))) {
            let blows = self.by_line.get(&(file.to_owned(), at));
            let missing = names.into_iter().filter(|blow| blows.is_none_or(|blows| !blows.contains_key(blow)));
            spared.extend(missing.map(|blow| format!("{file}:{at}: {line}: no {blow}")));
        }
        spared
    }
}

/// Every await of the commit path's code: file, line, text.
fn awaits() -> Vec<(&'static str, u32, String)> {
    let is_await = |line: &str| {
        let mut behind = line.split(".await").skip(1).map(|rest| rest.chars().next());
        behind.any(|next| next.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_'))
    };
    let mut awaits = Vec::new();
    for file in COMMIT_PATH {
        let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut before = "";
        for (at, line) in (1..).zip(production.lines().map(str::trim)) {
            // One that stands alone is told with what is awaited.
            let told = if line.starts_with('.') { format!("{before}{line}") } else { line.to_owned() };
            if is_await(line) {
                awaits.push((*file, at, told));
            }
            before = line;
        }
    }
    awaits
}

fn is_exempt(line: &str) -> bool {
    EXEMPT.iter().any(|(_, texts)| texts.iter().any(|text| line.contains(text)))
}

/// Awaits that need not be struck, by their text, and why.
const EXEMPT: &[(&str, &[&str])] = &[
    (
        "what is awaited is ready at once: it only passes on, or asks what is there already",
        &[
            "self.hear(event).await?;",
            "self.close_lost(",
            "self.parts.task.close(&open, Closing::Lost)",
            "self.parts.task.stop()",
            "self.parts.consumer.close()",
            "self.begin_commit()",
            "self.put().await?;",
            "self.parts.pipeline.decode(",
            "self.flush_some(",
            "self.flush(&consumed)",
            "self.parts.task.flush(",
            "self.open_anew(",
            "self.place(waits)",
            "self.opening.committed(",
            "self.opening.steps(",
            "self.begin_anew(",
            "self.ask_again(",
            "self.place_in(",
            "self.take_pending(",
            "chunk.load(",
            "found.bytes()",
        ],
    ),
    ("never: a select needs an arm that does not end", &["std::future::pending()"]),
    (
        "waits for a job of its own, or for its turn: the job's awaits are what is struck",
        &[
            "chunks.recv()",
            "permit(&self.target.permits)",
            "parts.in_flight.",
            "Partition::progress)",
            ".acquire_owned()",
        ],
    ),
    (
        "waits for a job on its disk, which it has in few seeds: they strike there by chance only",
        &["file.spill(", "partition.spill()", "spilled.read()", "spill_chunks(", "}).await??;"],
    ),
    ("a deliberate fault", &["broken::"]),
    (
        "an accident behind another one, which few seeds meet",
        &[
            "self.place_again(",
            "views(&self.parts.context",
            "self.publish(one,",
            "self.commit_and_forget(one)",
            "self.hand_over(std::slice::from_ref(",
            "self.fill(&rest.until(",
            "self.close_stretch().await?;",
            "Start::find(&shared, &name).await };",
            "last_of_topic_id(",
            "manifests.read(name, seq)",
            "wait(shared, name, &error,",
            "match fenced(&shared, &name)",
            "shared.context.commit(&positions)",
            "clock().sleep(backoff(",
            "self.send_part(self.pending_bytes)",
            "self.exists(partition, last + 1)",
            "if self.exists(partition, 0)",
            "self.fetch(&self.layout.entry(",
            "partition.rs: self.end_file().await?;",
            "assignment.rs: self.open().await",
            "self.cut_back(",
            "self.await_commit()",
            "self.commit_in_flight()",
            "self.commit.ended()",
            "self.relieve_memory()",
            "partition.rotate()",
            "self.abort()",
            "parts.upload.abort()",
        ],
    ),
];

/// A table by requests, and one by the awaits of the commit path's code.
impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| the last request without an answer | how far it is | crash | stop | rebalance |\n|---|---|---|---|---|"
        )?;
        for ((what, stage), blows) in &self.by_request {
            let stage = stage.map_or(String::new(), |stage| format!("{stage:?}"));
            writeln!(f, "| {what} | {stage} | {} |", counts(Some(blows)))?;
        }
        writeln!(f, "\n| crash | stop | rebalance | await |\n|---|---|---|---|")?;
        for (file, at, line) in awaits() {
            let blows = self.by_line.get(&(file.to_owned(), at));
            writeln!(f, "| {} | {file}:{at}: {line} |", counts(blows))?;
        }
        Ok(())
    }
}

fn counts(blows: Option<&BTreeMap<&'static str, u64>>) -> String {
    let count = |name| blows.and_then(|blows| blows.get(name)).copied().unwrap_or(0).to_string();
    ["crash", "stop", "rebalance"].map(count).join(" | ")
}

/// Where the commit path stands in the worker's code.
const COMMIT_PATH: &[&str] = &[
    "src/task/sink.rs",
    "src/task/sink/assignment.rs",
    "src/task/sink/commit.rs",
    "connectors/lake/src/sink/task.rs",
    "connectors/lake/src/sink/partition.rs",
    "connectors/lake/src/sink/start.rs",
    "connectors/lake/src/sink/commit.rs",
    "connectors/lake/src/sink/upload.rs",
    "connectors/lake/src/sink/writer.rs",
    "connectors/lake/src/manifest/mod.rs",
];

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
    fn every_exemption_is_of_an_await_that_is_there() {
        let awaits: Vec<_> = awaits().into_iter().map(|(file, _, line)| format!("{file}: {line}")).collect();
        let stale = |text: &&&str| !awaits.iter().any(|line| line.contains(**text));
        let stale: Vec<_> = EXEMPT.iter().flat_map(|(_, texts)| *texts).filter(stale).collect();
        assert!(stale.is_empty(), "{stale:?}");
        let exempt = awaits.iter().filter(|line| is_exempt(line)).count();
        assert!(awaits.len() > 120 && exempt < awaits.len() / 2 + 5, "{exempt} of {} need not be struck", awaits.len());
    }

    #[test]
    fn whoever_strikes_nobody_spares_everything() {
        let spared = Struck::default().spared();
        for blow in ["crash", "stop"] {
            assert!(spared.contains(&format!("puts an entry: no {blow}")), "{spared:#?}");
            let line =
                |spared: &&String| spared.contains("self.store.put_opts(") && spared.ends_with(&format!("no {blow}"));
            assert!(spared.iter().any(|spared| line(&spared)), "{spared:#?}");
        }
    }
}
