//! The awaits of the commit path, as its code has them, and those that need not be struck.

use std::collections::BTreeSet;
use std::fmt;

/// An await of the commit path's code.
pub(super) struct Await {
    pub(super) file: &'static str,
    pub(super) at: u32,
    line: String,
    /// The function it stands in, and the line: "fetch: self.store.get(path).await?"; "fetch again: ..." where the same
    /// line stands there once more.
    place: String,
}

impl fmt::Display for Await {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.at, self.line)
    }
}

/// Every await of the commit path's code.
pub(super) fn awaits() -> Vec<Await> {
    let is_await = |line: &str| {
        let mut behind = line.split(".await").skip(1).map(|rest| rest.chars().next());
        behind.any(|next| next.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_'))
    };
    let mut awaits = Vec::new();
    for file in COMMIT_PATH {
        let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        let (mut before, mut function, mut known) = ("", "", BTreeSet::new());
        for (at, line) in (1..).zip(production.lines().map(str::trim)) {
            function = begun(line).unwrap_or(function);
            // One that stands alone is told with what is awaited.
            let told = if line.starts_with('.') { format!("{before}{line}") } else { line.to_owned() };
            if is_await(line) {
                let mut place = format!("{function}: {told}");
                let mut again = function.to_owned();
                while !known.insert(place.clone()) {
                    again.push_str(" again");
                    place = format!("{again}: {told}");
                }
                awaits.push(Await { file, at, line: told, place });
            }
            before = line;
        }
    }
    awaits
}

/// The name of the function whose signature begins in `line`.
fn begun(line: &str) -> Option<&str> {
    let (before, behind) = line.split_once("fn ")?;
    let is_code = !before.contains("//") && before.split(' ').all(|word| word.chars().all(|c| c != '"'));
    let name = behind.split(['(', '<']).next()?;
    (is_code && !name.is_empty()).then_some(name)
}

impl Await {
    /// What exempts it.
    fn exemptions(&self) -> Vec<&'static str> {
        let of_file = EXEMPT.iter().flat_map(|(_, files)| *files).filter(|(file, _)| *file == self.file);
        let places = of_file.flat_map(|(_, places)| places.iter().copied());
        places.filter(|place| self.place.starts_with(place)).collect()
    }

    /// Every blow is to meet it, by its own name.
    pub(super) fn is_thorough(&self) -> bool {
        let of_file = THOROUGH.iter().filter(|(file, _)| *file == self.file);
        of_file.flat_map(|(_, places)| *places).any(|place| self.place.starts_with(place))
    }

    pub(super) fn is_exempt(&self) -> bool {
        !self.exemptions().is_empty()
    }
}

/// Where the commit path stands in the worker's code. Neither `src/task/pipeline.rs`, whose converters the lake's sink
/// does without, nor `manifest/read.rs`, which reads for commands and herders, is part of it.
const COMMIT_PATH: &[&str] = &[
    "src/task/sink.rs",
    "src/task/sink/assignment.rs",
    "src/task/sink/commit.rs",
    "src/task/sink/opening.rs",
    "src/task/life.rs",
    "connectors/lake/src/sink/task.rs",
    "connectors/lake/src/sink/partition.rs",
    "connectors/lake/src/sink/start.rs",
    "connectors/lake/src/sink/commit.rs",
    "connectors/lake/src/sink/upload.rs",
    "connectors/lake/src/sink/writer.rs",
    "connectors/lake/src/manifest/mod.rs",
];

/// Places by their file.
type Places = &'static [(&'static str, &'static [&'static str])];

/// Awaits behind another accident, to which drills of their own lead: each is to be struck by a crash, a short stop,
/// one that makes a zombie, and a rebalance.
const THOROUGH: Places = &[
    ("src/task/sink.rs", &["hear: Event::Truncated(partition, divergence) => self.cut_back("]),
    ("src/task/sink/assignment.rs", &["cut_back: self.open().await"]),
    (
        "connectors/lake/src/sink/partition.rs",
        &["route: self.fill(&rest.until(", "route: self.close_stretch().await?;"],
    ),
    (
        "connectors/lake/src/sink/start.rs",
        &["find: Some(end) => last_of_topic_id(", "last_of_topic_id: let read = shared.manifests.read(name, seq)"],
    ),
    (
        "connectors/lake/src/sink/commit.rs",
        &[
            "commit: None => Err(whose_it_is(",
            "reclaim: match whose_it_is(&shared, &name).await",
            "whose_it_is: let end = shared.manifests.end(name)",
            "whose_it_is: match shared.context.commit(&positions)",
        ],
    ),
];

/// Awaits that need not be struck, and why: by file, function and text, as [`Await::place`] has them. Each is of one
/// await: another one that waits for the same thing has to be struck, or to be listed, too.
const EXEMPT: &[(&str, Places)] = &[
    (
        "what is awaited is ready at once: it only passes on, or asks what is there already",
        &[
            (
                "src/task/sink.rs",
                &[
                    "run: self.hear(event).await?;",
                    "finish: self.close_lost(",
                    "finish: self.parts.task.stop()",
                    "leave: self.parts.consumer.close()",
                    "do_what_is_due: self.begin_commit()",
                    "do_what_is_due: self.put().await?;",
                    "hear: self.close_lost(",
                    "receive: match self.parts.pipeline.decode(",
                    "put: Err(error) if error.kind() == Kind::Fenced => self.open_anew(",
                    "tick: Err(error) if error.kind() == Kind::Fenced => self.open_anew(",
                ],
            ),
            (
                "src/task/sink/assignment.rs",
                &[
                    "open_anew: self.close_lost(",
                    "cut_back: self.close_lost(",
                    "keep: let put = if self.inbox.is_retrying() { Ok(()) } else { self.put()",
                    "close_lost: if let Err(error) = self.parts.task.close(&open, Closing::Lost)",
                    "publish: if let Err(error) = self.flush_some(",
                    "publish: self.close_lost(",
                    "flush_some: if consumed.is_empty() { Ok(()) } else { self.flush(&consumed)",
                    "try_open: self.place(waits).await",
                    "place: let committed = waits.admit(self.opening.committed(",
                    "place: for (partition, step) in self.opening.steps(",
                    "place: Some(Step::Anew(doubt)) => self.ask_again(",
                    "ask_again: self.begin_anew(",
                    "place_again: self.place_in(",
                    "place_in: self.begin_anew(partition, Doubt::BeyondEnd(",
                    "place_in: self.begin_anew(partition, Doubt::Refused { position }).await",
                    "begin_anew: self.close_lost(",
                ],
            ),
            (
                "src/task/sink/commit.rs",
                &[
                    "begin_commit: match self.flush(&consumed)",
                    "begin_commit: self.open_anew(",
                    "flush: let durable = self.parts.task.flush(",
                ],
            ),
            (
                "connectors/lake/src/sink/upload.rs",
                &[
                    "complete: let (payload, _held) = self.take_pending(",
                    "send_part: let (payload, held) = self.take_pending(",
                    "take_pending: let (mut bytes, permit) = chunk.load(",
                ],
            ),
            ("connectors/lake/src/manifest/mod.rs", &["fetch: found.bytes().await"]),
            (
                "src/task/life.rs",
                &[
                    "live_sink: let mut sink = build.sink(task)",
                    "live_sink: sink.leave()",
                    "sink: let pipeline = self.sink_pipeline()",
                ],
            ),
        ],
    ),
    (
        "never: a select needs an arm that does not end",
        &[("src/task/sink/commit.rs", &["ended: Self::Idle => std::future::pending()"])],
    ),
    (
        "waits for a job of its own, or for its turn: the job's awaits are what is struck",
        &[
            (
                "connectors/lake/src/sink/task.rs",
                &[
                    "publish: published = published.and(first_error(join_all(",
                    "relieve_memory: first_error(join_all(self.partitions.values_mut().map(Partition::catch_up)).await",
                ],
            ),
            (
                "connectors/lake/src/sink/partition.rs",
                &["catch_up: let caught_up = file.catch_up()", "fill: file.catch_up()", "fill: file.append("],
            ),
            (
                "connectors/lake/src/sink/writer.rs",
                &[
                    "append: self.catch_up()",
                    "catch_up: let encoded = job.wait()",
                    "finish: self.catch_up()",
                    "spill: self.catch_up()",
                ],
            ),
            (
                "connectors/lake/src/sink/upload.rs",
                &[
                    "abort: parts.in_flight.shutdown(",
                    "carry: while let Some(message) = chunks.recv()",
                    "complete: let lane = self.target.lanes.enter()",
                    "complete: while let Some(part) = parts.in_flight.",
                    "send_part: let lane = self.target.lanes.enter()",
                ],
            ),
        ],
    ),
    (
        "waits for a job on its disk, which it has in few seeds: they strike there by chance only",
        &[
            (
                "connectors/lake/src/sink/task.rs",
                &["relieve_memory: if partition.open_file_bytes() < WORTH_SPILLING_BYTES || !partition.spill()"],
            ),
            ("connectors/lake/src/sink/partition.rs", &["spill: match file.spill("]),
            (
                "connectors/lake/src/sink/upload.rs",
                &["load: let bytes = executor::run(target.pool.as_ref(), move || spilled.read()"],
            ),
            (
                "connectors/lake/src/sink/writer.rs",
                &[
                    "spill: self.take_back(encoded.await??)",
                    "spill: let (waiting, found_room) = executor::run(pool.as_ref(), move || spill_chunks(",
                ],
            ),
        ],
    ),
    (
        "in a folder that others have filled, of a store that finds names by how they begin: the simulated one lists",
        &[("connectors/lake/src/manifest/mod.rs", &["a_data_object: match found.await"])],
    ),
    (
        "a deliberate fault",
        &[
            ("connectors/lake/src/sink/start.rs", &["find: let known = broken::resume("]),
            (
                "connectors/lake/src/sink/commit.rs",
                &["commit: if let Some(faulty) = broken::commit(", "create: return Err(broken::free("],
            ),
        ],
    ),
    (
        "an accident behind another one, which few seeds meet",
        &[
            (
                "src/task/sink/assignment.rs",
                &[
                    "publish: self.await_commit()",
                    "try_open: self.place_again(",
                    "place_again: let views = views(&self.parts.context",
                    "place_in: self.hand_over(std::slice::from_ref(",
                    "ask_again: if is_over && let Some(view) = waits.admit(",
                ],
            ),
            (
                "src/task/sink/commit.rs",
                &[
                    "await_commit: let (ended, stopped_at) = within_or_stop(",
                    "commit_in_flight: if matches!(self.commit, Commit::Idle)",
                ],
            ),
            (
                "connectors/lake/src/sink/task.rs",
                &[
                    "relieve_memory: self.end_files_early(",
                    "put: self.relieve_memory()",
                    "end_files_early: partition.rotate()",
                    "persist: context.clock().sleep(backoff(",
                    "end_files_early: partition.progress()",
                ],
            ),
            (
                "connectors/lake/src/sink/partition.rs",
                &["fill: self.end_file(", "advance: let find = async move { Start::find(&shared, &name).await };"],
            ),
            (
                "connectors/lake/src/sink/commit.rs",
                &[
                    "fresh_view: shared.context.clock().sleep(backoff(",
                    "fresh_view: Err(error) if error.is_retriable() => wait(shared, name, &error,",
                    "reason_of_holes: Err(error) if error.is_retriable() => wait(shared, name, &error,",
                    "create: Err(error) if error.is_retriable() => wait(shared, name, &error,",
                    "wait: shared.context.clock().sleep(backoff(",
                    "whose_it_is: Err(error) if error.is_retriable() => wait(shared, name, &error,",
                ],
            ),
            ("connectors/lake/src/sink/upload.rs", &["complete: self.send_part(self.pending_bytes)"]),
            (
                "connectors/lake/src/manifest/mod.rs",
                &[
                    "end: Some(next) if next == last + 1 || self.exists(partition, last + 1)",
                    "read_bytes: self.fetch(&self.layout.entry(",
                    "is_untouched: if self.exists(partition, 0)",
                ],
            ),
            (
                "src/task/sink/opening.rs",
                &[
                    "steps: (Some(place), _) => by_task(",
                    "steps: let steps: Vec<_> = steps.collect()",
                    "views: futures::stream::iter(views)",
                    "by_task: let view = context.partition(",
                ],
            ),
        ],
    ),
    (
        "waits for the herder's word, where no stack is kept: drills that begin paused strike there unseen",
        &[("src/task/life.rs", &["live_guarded: if !wait_while_paused(", "wait_while_paused: if control.changed()"])],
    ),
    (
        "of a source, or of a sink that takes records: the lake's sink takes bytes as they are",
        &[(
            "src/task/life.rs",
            &[
                "live_guarded: ConnectorTask::Source(",
                "live_source: let outcome = match until_stop(",
                "live_source: source.run(",
                "live_source: source.finish(",
                "live_source: let outcome = outcome.await",
                "live_source: source.abandon()",
                "sink_pipeline: Ok(SinkPipeline::typed(",
                "dead_letters: DeadLetters::open(",
            ],
        )],
    ),
    (
        "a partition of which the task does not say where to begin: the lake's sink says it of each that it opens",
        &[
            (
                "src/task/sink/opening.rs",
                &[
                    "committed: if asked.is_empty()",
                    "steps: (None, Some(None)) => by_reset(",
                    "by_reset: let view = context.partition(",
                ],
            ),
            (
                "src/task/sink/assignment.rs",
                &["cut_back: let published = self.publish(", "cut_back: self.commit_and_forget(one)"],
            ),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as there are: one more is to be seen by whoever reads the change.
    const MOST_EXEMPT: usize = 103;

    #[test]
    fn every_exemption_is_of_one_await_that_is_there() {
        let awaits = awaits();
        let mut flaws = Vec::new();
        for (file, place) in EXEMPT
            .iter()
            .flat_map(|(_, files)| *files)
            .chain(THOROUGH)
            .flat_map(|(file, places)| places.iter().map(move |place| (*file, *place)))
        {
            let met = awaits.iter().filter(|one| one.file == file && one.place.starts_with(place)).count();
            if met != 1 {
                flaws.push(format!("{file}: {place}: exempts {met} awaits"));
            }
        }
        let twice = awaits.iter().filter(|one| one.exemptions().len() > 1);
        flaws.extend(twice.map(|one| format!("{one}: exempt by {:?}", one.exemptions())));
        let both = awaits.iter().filter(|one| one.is_exempt() && one.is_thorough());
        flaws.extend(both.map(|one| format!("{one}: need not be struck, and must be by every blow")));
        assert!(flaws.is_empty(), "{flaws:#?}");
        let exempt = awaits.iter().filter(|one| one.is_exempt()).count();
        assert!(awaits.len() > 180 && exempt <= MOST_EXEMPT, "{exempt} of {} need not be struck", awaits.len());
    }
}
