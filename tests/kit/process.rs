//! A child process that cannot outlive us: every service and every tool that the kit runs is one of these.
//!
//! Between us and the program stands a small shell. It starts the program in a process group of its own, tells us the
//! program's pid, passes on signals that we name on its standard input, and ends as the program ends, with its status.
//! When its standard input closes, because we are gone in whatever manner, it kills the program. No pid is ever used
//! after its process was reaped: only the shell, the parent, signals.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::poll::poll_until;
use super::{Error, Result};

/// `sh -c GUARD sh IN OUT ERR PROGRAM ARGUMENTS`. Descriptor 3 is our pipe; nothing but the signal loop reads it.
const GUARD: &str = r#"
in=$1 out=$2 err=$3; shift 3
exec 3<&0 </dev/null
"$@" 3<&- <"$in" >>"$out" 2>>"$err" &
pid=$!
echo "$pid"
exec >/dev/null 2>&1
(while read -r signal; do kill -"$signal" "$pid"; done <&3; kill -KILL "$pid") &
guard=$!
exec 3<&-
wait "$pid"; status=$?
kill -KILL "$guard"
exit "$status"
"#;

/// How long a process may take to be gone after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(30);
const LOG_TAIL_BYTES: u64 = 6_000;

/// What to start and where its output goes.
#[derive(Debug, Clone)]
pub struct Launch {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    stdin: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Launch {
    /// `log` takes both outputs; it is appended to.
    pub fn new(program: impl Into<OsString>, log: impl Into<PathBuf>) -> Launch {
        let log = log.into();
        let dir = log.parent().map(Path::to_path_buf).unwrap_or_default();
        let (program, stdin) = (program.into(), PathBuf::from("/dev/null"));
        Launch { program, args: Vec::new(), env: Vec::new(), dir, stdin, stdout: log.clone(), stderr: log }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Launch {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
        self
    }

    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Launch {
        self.env.push((key.into(), value.into()));
        self
    }

    /// The same program, started by another one: `words` and then the program's own.
    pub fn by<S: AsRef<OsStr>>(mut self, words: &[S]) -> Launch {
        let all = words.iter().map(|word| word.as_ref().to_os_string());
        let all: Vec<_> = all.chain([self.program]).chain(self.args).collect();
        self.program = all[0].clone();
        self.args = all[1..].to_vec();
        self
    }

    pub fn stdin(mut self, file: impl Into<PathBuf>) -> Launch {
        self.stdin = file.into();
        self
    }

    /// Standard output to a file of its own, for tools whose answer is read.
    pub fn stdout(mut self, file: impl Into<PathBuf>) -> Launch {
        self.stdout = file.into();
        self
    }

    pub fn start(&self) -> Result<Process> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(GUARD).arg("sh").args([&self.stdin, &self.stdout, &self.stderr]);
        shell.arg(&self.program).args(&self.args).envs(self.env.iter().cloned()).current_dir(&self.dir);
        // A group of its own: Ctrl-C at the terminal is for us alone.
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut shell = shell.spawn().map_err(|error| Error::failed(format!("cannot start sh: {error}")))?;
        let (stdin, stdout) = (shell.stdin.take(), shell.stdout.take());
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy().into_owned();
        let pid = line.trim().parse().map_err(|_| Error::failed(format!("no pid of {name} from the shell")))?;
        Ok(Process { name, pid, shell, signals: stdin, log: self.stderr.clone() })
    }

    /// Runs a tool to its end; its standard output if it succeeded, the end of its log if not.
    pub fn run(&self, limit: Duration) -> Result<String> {
        let mut process = self.start()?;
        let Some(status) = process.wait(limit) else {
            return Err(Error::failed(format!("{self} did not end within {limit:?}\n{}", process.log_tail())));
        };
        if !status.success() {
            let answer = if self.stdout == self.stderr { String::new() } else { tail(&self.stdout) };
            return Err(Error::failed(format!("{self} ended with {status}\n{answer}{}", process.log_tail())));
        }
        Ok(String::from_utf8_lossy(&std::fs::read(&self.stdout)?).into_owned())
    }
}

impl std::fmt::Display for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    shell: Child,
    signals: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// The pid of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has. A program ended by a signal has the shell's 128 + signal.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().ok().flatten()
    }

    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        poll_until(limit, || self.exited())
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and an error with the log if it does not end within `limit` (it is killed then).
    pub fn terminate(mut self, limit: Duration) -> Result<()> {
        self.signal("TERM");
        match self.wait(limit) {
            Some(_) => Ok(()),
            None => Err(Error::failed(format!("{} ignored SIGTERM for {limit:?}\n{}", self.name, self.log_tail()))),
        }
    }

    /// Waits until `ready` answers, and gives up early when the process dies.
    pub fn wait_ready(&mut self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let outcome = poll_until(limit, || match self.exited() {
            Some(status) => Some(Err(format!("{what} ended with {status} while starting"))),
            None => ready().then_some(Ok(())),
        });
        let why = match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => why,
            None => format!("{what} is not ready after {limit:?}"),
        };
        Err(Error::failed(format!("{why}\n{}", self.log_tail())))
    }

    pub fn log_tail(&self) -> String {
        format!("--- end of {}\n{}\n---", self.log.display(), tail(&self.log))
    }

    /// Names a signal to the shell (`TERM`, `STOP`, `CONT`, ...). Nothing happens if the program has ended.
    pub fn signal(&mut self, name: &str) {
        if let Some(pipe) = &mut self.signals {
            // A broken pipe means that the shell has seen the program end.
            let _ = writeln!(pipe, "{name}");
        }
    }

    fn end(&mut self) {
        self.signals = None;
        if self.wait(KILL_LIMIT).is_none() {
            super::home::say(&format!("kit: {} (pid {}) is still there after SIGKILL", self.name, self.pid));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(|error| format!("(no log: {error})"), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}
