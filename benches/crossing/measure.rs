//! What a process has cost, as the operating system counts it, and what this machine is.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Linux counts a process's time in hundredths of a second, whatever its own clock is.
const TICKS_PER_S: f64 = 100.0;
const LOOK: Duration = Duration::from_millis(20);

/// A program's end.
pub(crate) struct Ended {
    pub(crate) cpu_s: f64,
    pub(crate) peak_rss_mb: f64,
    pub(crate) meanwhile: Meanwhile,
    pub(crate) output: String,
}

/// What the machine did while a program was at work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meanwhile {
    pub(crate) wall_s: f64,
    /// What all cores did, of what they could.
    pub(crate) busy: f64,
    /// Cores that the brokers used, where they were watched.
    pub(crate) broker_cores: Option<f64>,
}

impl Meanwhile {
    /// Both spans together, without what was between them.
    pub(crate) fn then(&self, next: &Meanwhile) -> Meanwhile {
        let wall_s = self.wall_s + next.wall_s;
        let both = |first: f64, second: f64| (first * self.wall_s + second * next.wall_s) / wall_s;
        let broker_cores = self.broker_cores.zip(next.broker_cores).map(|(first, second)| both(first, second));
        Meanwhile { wall_s, busy: both(self.busy, next.busy), broker_cores }
    }
}

/// Watches the machine, and processes of it.
pub(crate) struct Watch {
    brokers: Vec<u32>,
    brokers_s: f64,
    cores: Cores,
    begin: Instant,
}

impl Watch {
    pub(crate) fn begin(brokers: Vec<u32>) -> Result<Watch> {
        let brokers_s = sum_cpu_s(&brokers)?;
        Ok(Watch { brokers, brokers_s, cores: Cores::now(), begin: Instant::now() })
    }

    pub(crate) fn end(&self) -> Result<Meanwhile> {
        let wall_s = self.begin.elapsed().as_secs_f64();
        let brokers_s = sum_cpu_s(&self.brokers)? - self.brokers_s;
        let broker_cores = (!self.brokers.is_empty()).then_some(brokers_s / wall_s);
        Ok(Meanwhile { wall_s, busy: Cores::now().busy_since(&self.cores), broker_cores })
    }
}

fn sum_cpu_s(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu_s(*pid)).sum()
}

/// What all cores together have done and left undone since the machine began, in ticks.
struct Cores {
    busy: f64,
    idle: f64,
}

impl Cores {
    fn now() -> Cores {
        let stat = read("/proc/stat");
        let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let ticks: Vec<f64> = fields.filter_map(|text| text.parse().ok()).collect();
        // Fields 4 and 5 of the manual are idle and waiting for a disk; 9 and 10, guests, are in the first two as well.
        let idle = ticks.iter().skip(3).take(2).sum();
        Cores { busy: ticks.iter().take(8).sum::<f64>() - idle, idle }
    }

    /// The part of the time since `before` in which they were busy.
    fn busy_since(&self, before: &Cores) -> f64 {
        let busy = self.busy - before.busy;
        busy / (busy + self.idle - before.idle)
    }
}

/// User and system time of a process, in seconds; one that has ended and was not waited for is counted too.
pub(crate) fn cpu_s(pid: u32) -> Result<f64> {
    let stat = stat(pid)?;
    let ticks = |field: usize| stat.get(field).and_then(|text| text.parse::<f64>().ok());
    // Fields 14 and 15 of the manual, which counts from 1 and has two more before the state.
    let used = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    used.map(|ticks| ticks / TICKS_PER_S).with_context(|| format!("no times of process {pid}"))
}

/// How long the threads of a process have been running or waiting for a core, in seconds: what it would have used had
/// it been alone.
pub(crate) fn wanted_s(pid: u32) -> Result<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    let wanted_ns = |text: String| text.split(' ').take(2).filter_map(|ns| ns.parse::<f64>().ok()).sum::<f64>();
    let threads = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
    Ok(threads.map(wanted_ns).sum::<f64>() / 1e9)
}

/// CPU time of the calling thread, in seconds.
pub(crate) fn thread_cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// The most memory that a process has had resident, in MB.
pub(crate) fn peak_rss_mb(pid: u32) -> f64 {
    status_mb(pid, "VmHWM:")
}

/// Its memory that is resident now, in MB.
pub(crate) fn rss_mb(pid: u32) -> f64 {
    status_mb(pid, "VmRSS:")
}

/// Runs a program to its end, beside `brokers`.
pub(crate) fn run(command: &mut Command, brokers: Vec<u32>) -> Result<Ended> {
    let watch = Watch::begin(brokers)?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let pid = child.id();
    let mut peak = 0.0_f64;
    // Until it is waited for, its numbers stay.
    while stat(pid)?.first().is_none_or(|state| state != "Z") {
        peak = peak.max(peak_rss_mb(pid));
        std::thread::sleep(LOOK);
    }
    let (meanwhile, cpu_s) = (watch.end()?, cpu_s(pid)?);
    let mut output = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        std::io::Read::read_to_string(&mut pipe, &mut output)?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}\n{output}");
    Ok(Ended { cpu_s, peak_rss_mb: peak, meanwhile, output })
}

/// The machine, in one line.
pub(crate) fn machine() -> String {
    let (processors, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let model = field(&processors, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let kilobytes = field(&memory, "MemTotal").and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    format!("{cores} cores, {model}, {:.0} GB of memory", kilobytes.unwrap_or(0.0) / 1e6)
}

/// Fields of a process's state from the state on: the name before it may hold anything.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    match text.rsplit_once(") ") {
        Some((_, fields)) => Ok(fields.split(' ').map(str::to_owned).collect()),
        None => bail!("/proc/{pid}/stat is not as Linux writes it"),
    }
}

fn status_mb(pid: u32, name: &str) -> f64 {
    let status = read(&format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0 / 1e6
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
