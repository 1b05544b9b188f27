//! What the seeds of a whole run must have come to see, by the lines of their diaries. Runs that are all calm would
//! find nothing, and say that nothing is wrong: a change that makes the simulator blind for one of these fails the
//! suite.

use std::fmt;

/// Something that happens: its name, what a line of it has, and how often 500 seeds see it at least. The minima are
/// about half of what they see today.
struct Sight {
    what: &'static str,
    marks: &'static [&'static str],
    least: u64,
}

const fn sight(what: &'static str, marks: &'static [&'static str], least: u64) -> Sight {
    Sight { what, marks, least }
}

/// Every sight.
const SIGHTS: &[Sight] = &[
    sight("a worker is killed at an await", &["w", " meets Crash at an await"], 300),
    sight("a worker is stopped at an await", &["w", " meets Stop ", " at an await"], 120),
    sight("the group rebalances at an await of a worker", &["w", " meets Rebalance at an await"], 40),
    sight("a worker is killed at a request", &["w", " is killed "], 70),
    sight("a worker is stopped at a request", &["w", " is stopped "], 200),
    sight("a member is expelled", &[" is expelled"], 200),
    sight("a member hears late that it was expelled", &[" hears that it was expelled"], 100),
    sight("partitions are handed over", &[" hands over t"], 1000),
    sight("an entry finds its number taken", &[" puts topics/", "/_manifests/", ": exists already"], 100),
    sight("an entry lands long after its sender gave up", &[" puts topics/", "/_manifests/", ": late, ok"], 30),
    sight("a late entry is refused", &[" puts topics/", "/_manifests/", ": late, exists already"], 100),
    sight("an entry is written and the answer is lost", &["/_manifests/", ", the answer is lost"], 50),
    sight("a request is refused", &[": refused"], 4000),
    sight("a topic is deleted", &["topic t", " is deleted"], 150),
    sight("partitions go with their topics", &["w", " hears that t", " went with their topics"], 40),
    sight(
        "a client misses a topic and asks when it is back",
        &["w", " asks too late: a topic that it missed has come back"],
        6,
    ),
    sight("what was read of a deleted topic is to be archived", &["w", " owes the archive "], 20),
    sight("a topic comes back with more partitions", &["topic t", " comes back with more partitions"], 30),
    sight("a topic comes back with fewer partitions", &["topic t", " comes back with fewer partitions"], 15),
    sight("a partition begins at the end", &["w", " opens t", "begun at ", " by \"latest\""], 60),
    sight("nothing but the group says where to begin", &["w", " opens t", "begun at ", " by \"committed\""], 60),
    sight("a task fails for a gap", &["w", " is FAILED ", "errors.on.gap=fail stops here"], 20),
    sight("open files wait on disk", &["w", " had up to ", " bytes on disk"], 20),
    sight("a connector goes on with the chain of another", &["w", " takes t", " over from "], 80),
    sight("a connector is refused what another archives", &["w", " is FAILED ", " is archived here by "], 70),
    sight("a writer hears that another took over", &["w", " is FAILED ", " took over this archive "], 4),
    sight("a task is paused", &["w", "-", " is PAUSED"], 200),
    sight("a task goes on behind a pause", &["w", " goes on behind its pause"], 150),
    sight("a broker behind the others answers", &["a broker behind the others tells of "], 100),
    sight("a broker behind the others refuses a fetch", &["a broker behind the others refuses "], 100),
    sight("an election takes records back", &[" loses what it had from "], 50),
    sight("records are gone before they are archived", &[" loses its oldest records"], 250),
    sight("offsets are altered", &[" is asked for "], 250),
    sight("an upload is begun", &[" begins topics/", ": ok"], 150),
    sight("an upload that was abandoned is swept away", &[" sweeps the upload of topics/", ": ok"], 30),
    sight("somebody sweeps", &["the sweep removed "], 150),
    sight("a restoring process is killed", &["the restoring process is killed"], 35),
    sight("a restoring process is taken for dead and lives", &[" is taken for dead"], 50),
    sight("a transactional id is taken from its owner", &[" has epoch "], 500),
];

/// How often each was seen, in the order of [`SIGHTS`].
#[derive(Clone)]
pub(crate) struct Sights(Vec<u64>);

impl Default for Sights {
    fn default() -> Self {
        Self(vec![0; SIGHTS.len()])
    }
}

impl Sights {
    /// What the diary of one run tells.
    pub(crate) fn of(lines: &[String]) -> Self {
        let seen = |sight: &Sight| lines.iter().filter(|line| sight.is_in(line)).count() as u64;
        Self(SIGHTS.iter().map(seen).collect())
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, seen)| *sum += seen);
    }

    /// What was not seen often enough.
    pub(crate) fn rare(&self) -> Vec<String> {
        let all = SIGHTS.iter().zip(&self.0);
        let rare = all.filter(|(sight, seen)| **seen < sight.least);
        rare.map(|(sight, seen)| format!("{}: {seen} times, not {}", sight.what, sight.least)).collect()
    }
}

impl Sight {
    /// The marks stand in the line in this order; the first, if it is a worker's letter, at its beginning.
    fn is_in(&self, line: &str) -> bool {
        // The time.
        let mut rest = line.trim_start().split_once(' ').map_or("", |(_, said)| said);
        for (at, mark) in self.marks.iter().enumerate() {
            if at == 0 && *mark == "w" {
                let Some(behind) = rest.strip_prefix(mark) else { return false };
                rest = behind;
                continue;
            }
            let Some((_, behind)) = rest.split_once(mark) else { return false };
            rest = behind;
        }
        true
    }
}

impl fmt::Display for Sights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what the seeds see | times | at least |\n|---|---|---|")?;
        for (sight, seen) in SIGHTS.iter().zip(&self.0) {
            writeln!(f, "| {} | {seen} | {} |", sight.what, sight.least)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_too_seldom_is_named() {
        let lines = |count| vec!["    1200 w0/connector-consumer-sink-0 is expelled".to_owned(); count];
        let seen = |count| Sights::of(&lines(count)).rare().iter().any(|rare| rare.starts_with("a member is expelled"));
        assert!(seen(0) && seen(199) && !seen(200));
        let mut sum = Sights::of(&lines(100));
        sum.add(&Sights::of(&lines(100)));
        assert!(!sum.rare().iter().any(|rare| rare.starts_with("a member is expelled")));
        let all = Sights::default().rare();
        assert_eq!(all.len(), SIGHTS.len(), "blind is blind for everything");
    }
}
