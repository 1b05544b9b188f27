//! Where the kit lives on disk, and what it must share fairly with other processes: folders, locks, ports.
//!
//! `target/kit` holds what is provisioned once (it may be a symlink to a folder that many checkouts share); its
//! `run/<time>-<pid>/` holds configs, data and logs of one process. A run folder is locked while its process lives,
//! so that a later process can tell which are dead and sweep all but the latest.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Error, Result};

/// How many folders of dead runs are kept for those who want to read their logs.
const KEPT_RUNS: usize = 10;
/// Ports are taken from here: below the range from which the system picks source ports (see [`Port`]).
const FIRST_PORT: u16 = 15_000;
const LAST_PORT: u16 = 32_700;

/// The folder of everything provisioned, without symlinks: class data archives are valid for one absolute path only.
pub fn root() -> Result<&'static Path> {
    static ROOT: OnceLock<Result<PathBuf>> = OnceLock::new();
    let find = || {
        let kit = target_dir().join("kit");
        fs::create_dir_all(&kit).map_err(|error| Error::failed(format!("cannot create {}: {error}", kit.display())))?;
        Ok(kit.canonicalize()?)
    };
    ROOT.get_or_init(find).as_deref().map_err(Error::clone)
}

/// Holds `root/locks/<name>` until dropped: one process at a time provisions one thing.
pub fn lock(name: &str) -> Result<File> {
    let folder = root()?.join("locks");
    fs::create_dir_all(&folder)?;
    let file = open(&folder.join(name))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => say(&format!("kit: waiting for another process that prepares `{name}`")),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.lock()?;
    Ok(file)
}

/// A new, empty folder of this process for one instance of a service, e.g. `.../run/1763695000-4711/kafka-1`.
pub fn instance_dir(name: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = run_dir()?.join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed) + 1));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The folder of this process: configs, logs and data of all that it started.
pub fn run_dir() -> Result<&'static Path> {
    static RUN: OnceLock<Result<(PathBuf, File)>> = OnceLock::new();
    let create = || {
        let runs = root()?.join("run");
        fs::create_dir_all(&runs)?;
        let _one_at_a_time = lock("run")?;
        sweep(&runs)?;
        let folder = runs.join(format!("{}-{}", unix_seconds(), std::process::id()));
        fs::create_dir_all(&folder)?;
        let alive = open(&folder.join("alive"))?;
        alive.lock()?;
        tell_where_logs_are_on_panic(folder.clone());
        Ok((folder, alive))
    };
    RUN.get_or_init(create).as_ref().map(|(folder, _alive)| folder.as_path()).map_err(Error::clone)
}

/// Says something to the person at the terminal, past libtest's capture of output.
pub fn say(text: &str) {
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A loopback port that stays ours while the service is down: no other process of a kit takes it, and it is outside
/// the range of source ports, so no client that keeps dialling a dead service ends up connected to itself.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: Option<File>,
}

impl Port {
    pub fn claim() -> Result<Port> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let last = LAST_PORT.min(first_source_port().saturating_sub(1));
        let span = u32::from(last.saturating_sub(FIRST_PORT));
        let start = std::process::id().wrapping_mul(97);
        for _ in 0..span {
            let step = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % span;
            let number = FIRST_PORT + u16::try_from(step).unwrap_or(0);
            if let Some(port) = Port::try_claim(number) {
                return Ok(port);
            }
        }
        // A system that picks source ports from everywhere: then any free one is as good as another.
        let number = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Port { number, _claim: None })
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    fn try_claim(number: u16) -> Option<Port> {
        // Claims are kept per machine, not per checkout.
        let claims = env::temp_dir().join("lakeferry-kit-ports");
        fs::create_dir_all(&claims).ok()?;
        let claim = open(&claims.join(number.to_string())).ok()?;
        claim.try_lock().ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Port { number, _claim: Some(claim) })
    }
}

fn target_dir() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A member crate may include the kit too; the lock file marks the workspace.
    let workspace = package.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).unwrap_or(package);
    // An absolute CARGO_TARGET_DIR replaces the workspace in the join, a relative one is meant to start there.
    workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Removes the folders of dead runs, but for the latest.
fn sweep(runs: &Path) -> Result<()> {
    let mut dead: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(runs)? {
        let folder = entry?.path();
        // The folder of a live process holds the lock of its `alive` file; under the lock "run" none is half made.
        let alive = open(&folder.join("alive")).is_ok_and(|file| file.try_lock().is_err());
        if folder.is_dir() && !alive {
            dead.push(folder);
        }
    }
    dead.sort();
    let surplus = dead.len().saturating_sub(KEPT_RUNS);
    for folder in &dead[..surplus] {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn tell_where_logs_are_on_panic(folder: PathBuf) {
    static ONCE: Once = Once::new();
    ONCE.call_once(move || {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            previous(info);
            static TOLD: Once = Once::new();
            TOLD.call_once(|| say(&format!("kit: logs and data of the services are in {}", folder.display())));
        }));
    });
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

fn first_source_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(u16::MAX)
}
