//! The log: `tracing` to standard error, and the levels of its loggers, which the REST layer shows and changes while
//! the worker runs. `main` starts it once; levels at start come from `LAKEFERRY_LOG`, as `info` or
//! `info,lakeferry::task=debug`.
//!
//! A logger is a module (`lakeferry.task.sink`). Operators know the names of the Java classes that do the same work, so
//! these exist too and are one with the module: changing either changes both ([`KNOWN`]). As in Connect, a change
//! concerns every logger whose name begins with the given one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// The name of the logger that all others inherit from.
pub const ROOT: &str = "root";

/// A level by its log4j name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing.
    Off,
    /// As [`Level::Error`]: nothing here is logged as fatal.
    Fatal,
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to know.
    Info,
    /// And what a developer wants to know.
    Debug,
    /// And every step.
    Trace,
    /// As [`Level::Trace`].
    All,
}

/// What is known of a logger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggerLevel {
    /// The level that counts for it.
    pub level: Level,
    /// When it was last changed to another level, in milliseconds since the epoch.
    pub last_modified: Option<i64>,
}

/// The levels of the log, changeable while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Loggers {
    levels: Arc<Mutex<Levels>>,
    filter: Option<reload::Handle<Targets, Registry>>,
}

/// Levels by logger name; pure.
#[derive(Debug, Default)]
struct Levels {
    names: BTreeSet<String>,
    explicit: BTreeMap<String, LoggerLevel>,
}

/// Java loggers and the modules that do their work.
const KNOWN: [(&str, &str); 18] = [
    ("org.apache.kafka.clients.admin.KafkaAdminClient", "lakeferry.kafka.admin"),
    ("org.apache.kafka.clients.consumer.KafkaConsumer", "lakeferry.kafka.consumer"),
    ("org.apache.kafka.clients.producer.KafkaProducer", "lakeferry.kafka.producer"),
    ("org.apache.kafka.connect.cli.ConnectStandalone", "lakeferry.cli"),
    ("org.apache.kafka.connect.file.FileStreamSinkTask", "lakeferry_file.sink"),
    ("org.apache.kafka.connect.file.FileStreamSourceTask", "lakeferry_file.source"),
    ("org.apache.kafka.connect.json.JsonConverter", "lakeferry.convert.json"),
    ("org.apache.kafka.connect.runtime.AbstractWorkerSourceTask", "lakeferry.task.source"),
    ("org.apache.kafka.connect.runtime.Worker", "lakeferry.worker"),
    ("org.apache.kafka.connect.runtime.WorkerConnector", "lakeferry.herder.job"),
    ("org.apache.kafka.connect.runtime.WorkerSinkTask", "lakeferry.task.sink"),
    ("org.apache.kafka.connect.runtime.WorkerTask", "lakeferry.task"),
    ("org.apache.kafka.connect.runtime.rest.RestServer", "lakeferry.rest"),
    ("org.apache.kafka.connect.runtime.standalone.StandaloneHerder", "lakeferry.herder"),
    ("org.apache.kafka.connect.storage.FileOffsetBackingStore", "lakeferry.backing"),
    ("io.lakeferry.LakeSinkTask", "lakeferry_lake.sink"),
    ("io.lakeferry.LakeSourceTask", "lakeferry_lake.source"),
    ("io.lakeferry.ManifestStore", "lakeferry_lake.manifest"),
];

/// Starts the log of this process.
pub fn start() -> Loggers {
    let levels = Levels::new(&std::env::var("LAKEFERRY_LOG").unwrap_or_default());
    let (filter, handle) = reload::Layer::new(levels.targets());
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    // Only another log in this process could refuse ours; that one then has the last word.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Loggers { levels: Arc::new(Mutex::new(levels)), filter: Some(handle) }
}

impl Loggers {
    /// Levels that no log listens to: for a worker inside a test.
    pub fn detached() -> Self {
        Self { levels: Arc::new(Mutex::new(Levels::new(""))), filter: None }
    }

    /// Every logger by name.
    pub fn all(&self) -> BTreeMap<String, LoggerLevel> {
        let levels = self.levels();
        let root = [(ROOT.to_owned(), levels.level(ROOT))];
        levels.names.iter().map(|name| (name.clone(), levels.level(name))).chain(root).collect()
    }

    /// One logger; `None` where nothing has that name.
    pub fn get(&self, name: &str) -> Option<LoggerLevel> {
        let name = canonical(name);
        let levels = self.levels();
        (name == ROOT || levels.names.contains(name)).then(|| levels.level(name))
    }

    /// Sets the level of every logger whose name begins with `name`; the result names those that had another level.
    pub fn set(&self, name: &str, level: Level, now_ms: i64) -> Vec<String> {
        let mut levels = self.levels();
        let changed = levels.set(canonical(name), level, now_ms);
        if let Some(filter) = &self.filter
            && let Err(error) = filter.reload(levels.targets())
        {
            tracing::warn!(%error, "the log takes no new levels");
        }
        changed
    }

    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Levels {
    /// The known loggers at the levels of `directives`.
    fn new(directives: &str) -> Self {
        let mut levels = Self::default();
        levels.names.extend(KNOWN.iter().flat_map(|(java, module)| [(*java).to_owned(), (*module).to_owned()]));
        levels.names.extend(["lakeferry".to_owned(), "lakeferry_file".to_owned(), "lakeferry_lake".to_owned()]);
        let root = LoggerLevel { level: Level::Info, last_modified: None };
        levels.explicit.insert(ROOT.to_owned(), root);
        for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (name, level) = directive.split_once('=').unwrap_or((ROOT, directive));
            if let Ok(level) = level.parse() {
                levels.assign(&name.replace("::", "."), level, None);
            }
        }
        levels
    }

    /// The level that counts for `name`: its own or that of the nearest logger above it.
    fn level(&self, name: &str) -> LoggerLevel {
        if let Some(own) = self.explicit.get(name) {
            return *own;
        }
        let above = |name: &str| name.rfind('.').map(|dot| name[..dot].to_owned());
        let level = std::iter::successors(above(name), |name| above(name)).find_map(|name| self.explicit.get(&name));
        let root = self.explicit.get(ROOT).map_or(Level::Info, |root| root.level);
        LoggerLevel { level: level.map_or(root, |above| above.level), last_modified: None }
    }

    fn set(&mut self, name: &str, level: Level, now_ms: i64) -> Vec<String> {
        let concerned: Vec<String> = match name {
            ROOT => self.names.iter().cloned().chain([ROOT.to_owned()]).collect(),
            name => {
                self.names.insert(name.to_owned());
                self.names.iter().filter(|known| known.starts_with(name)).cloned().collect()
            }
        };
        let mut changed: Vec<_> = concerned.into_iter().filter(|name| self.level(name).level != level).collect();
        for name in &changed {
            self.assign(name, level, Some(now_ms));
        }
        changed.sort();
        changed
    }

    /// Gives a logger, and whatever is one with it, this level.
    fn assign(&mut self, name: &str, level: Level, last_modified: Option<i64>) {
        self.names.extend((name != ROOT).then(|| name.to_owned()));
        self.explicit.insert(name.to_owned(), LoggerLevel { level, last_modified });
        for (java, module) in KNOWN {
            for (one, other) in [(java, module), (module, java)] {
                if one == name && self.level(other).level != level {
                    self.explicit.insert(other.to_owned(), LoggerLevel { level, last_modified });
                }
            }
        }
    }

    fn targets(&self) -> Targets {
        let modules = self.explicit.iter().filter(|(name, _)| *name != ROOT);
        let modules = modules.map(|(name, own)| (name.replace('.', "::"), own.level.filter()));
        Targets::new().with_default(self.level(ROOT).level.filter()).with_targets(modules)
    }
}

impl Level {
    const NAMES: [(&'static str, Self); 8] = [
        ("OFF", Self::Off),
        ("FATAL", Self::Fatal),
        ("ERROR", Self::Error),
        ("WARN", Self::Warn),
        ("INFO", Self::Info),
        ("DEBUG", Self::Debug),
        ("TRACE", Self::Trace),
        ("ALL", Self::All),
    ];

    fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Fatal | Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace | Self::All => LevelFilter::TRACE,
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::NAMES
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name.trim()))
            .map(|(_, level)| level)
            .ok_or(())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, level)| level == self).map_or("", |(name, _)| name))
    }
}

impl fmt::Debug for Loggers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loggers").finish_non_exhaustive()
    }
}

fn canonical(name: &str) -> &str {
    if name.eq_ignore_ascii_case(ROOT) { ROOT } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(loggers: &Loggers, name: &str) -> Option<(String, Option<i64>)> {
        loggers.get(name).map(|logger| (logger.level.to_string(), logger.last_modified))
    }

    #[test]
    fn a_change_concerns_what_begins_with_the_name_and_lists_what_changed() {
        let loggers = Loggers::detached();
        assert_eq!(level(&loggers, "new"), None);
        assert_eq!(loggers.set("new.logger", Level::Info, 5), [""; 0]);
        assert_eq!(level(&loggers, "new.logger"), Some(("INFO".to_owned(), None)));
        assert_eq!(loggers.set("new", Level::Error, 6), ["new", "new.logger"]);
        assert_eq!(loggers.set("new", Level::Error, 7), [""; 0]);
        assert_eq!(level(&loggers, "new.logger"), Some(("ERROR".to_owned(), Some(6))));
    }

    #[test]
    fn root_is_found_in_any_case_and_concerns_all() {
        let loggers = Loggers::detached();
        assert_eq!(level(&loggers, "ROOT"), Some(("INFO".to_owned(), None)));
        let changed = loggers.set("Root", Level::Warn, 5);
        assert_eq!(changed.len(), loggers.all().len());
        assert!(
            loggers.all().values().all(|logger| *logger == LoggerLevel { level: Level::Warn, last_modified: Some(5) })
        );
    }

    #[test]
    fn a_java_class_and_the_module_that_does_its_work_are_one() {
        let loggers = Loggers::detached();
        let java = "org.apache.kafka.connect.runtime.WorkerSinkTask";
        assert_eq!(loggers.set(java, Level::Debug, 5), [java]);
        assert_eq!(level(&loggers, "lakeferry.task.sink"), Some(("DEBUG".to_owned(), Some(5))));
        assert!(loggers.levels().targets().would_enable("lakeferry::task::sink::inbox", &tracing::Level::DEBUG));
        assert!(!loggers.levels().targets().would_enable("lakeferry::task::source", &tracing::Level::DEBUG));
        loggers.set("lakeferry.task", Level::Error, 6);
        assert_eq!(level(&loggers, java), Some(("ERROR".to_owned(), Some(6))));
    }

    #[test]
    fn the_environment_says_the_levels_at_start() {
        let levels = Levels::new("warn, lakeferry::task=debug,x=y");
        assert_eq!(levels.level(ROOT).level, Level::Warn);
        assert_eq!(levels.level("lakeferry.task.sink").level, Level::Debug);
        assert_eq!(levels.level("org.apache.kafka.connect.runtime.WorkerTask").level, Level::Debug);
        assert!(!levels.names.contains("x"));
    }
}
