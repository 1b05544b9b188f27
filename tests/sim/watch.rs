//! Whoever runs a seed says which one when it comes to no end: when something panics, at once; when it takes too long,
//! before the whole run is aborted. Either way with the command that runs the seed again.

use std::cell::RefCell;
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::sync::Once;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use crate::number;

/// How long one seed may take, in milliseconds of real time: far more than the slowest needs on a busy machine.
/// `LAKEFERRY_SIM_LIMIT_MS` sets another limit.
const LIMIT_MS: u64 = 300_000;

/// A seed under way on this thread, until it is dropped.
pub(crate) struct Watched {
    /// The watchdog waits for its end.
    _ended: SyncSender<()>,
}

/// What runs on a thread.
struct Running {
    /// The seed, and the command that runs it again.
    told: String,
    /// What the first panic said.
    panicked: Option<String>,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

impl Watched {
    /// `seed` begins, which `command` runs again.
    pub(crate) fn new(seed: u64, command: &str) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                before(panic);
                note(panic);
            }));
        });
        let told = format!("seed {seed}: {command}");
        let limit = Duration::from_millis(number("LAKEFERRY_SIM_LIMIT_MS").unwrap_or(LIMIT_MS));
        let (ended, watchdog) = mpsc::sync_channel::<()>(1);
        let late = told.clone();
        std::thread::spawn(move || {
            if watchdog.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                say(&format!("a seed takes longer than {limit:?}; it is given up, and the run with it\n{late}"));
                std::process::abort();
            }
        });
        RUNNING.set(Some(Running { told, panicked: None }));
        Self { _ended: ended }
    }

    /// What panicked within the seed so far, if anything did: what runs beside the world panics unheard.
    pub(crate) fn panicked(&self) -> Option<String> {
        RUNNING.with_borrow(|running| running.as_ref()?.panicked.clone())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        RUNNING.set(None);
    }
}

/// Something panics on this thread; before it goes on, which seed it was is said.
fn note(panic: &PanicHookInfo<'_>) {
    RUNNING.with_borrow_mut(|running| {
        let Some(running) = running else { return };
        say(&format!("something panics within a seed\n{}", running.told));
        running.panicked.get_or_insert_with(|| panic.to_string());
    });
}

/// Past what captures the output of tests: the process may end now.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::plan::Plan;
    use crate::run;
    use crate::store::spawn;

    /// What the test below runs itself as.
    const ROLE: &str = "LAKEFERRY_SIM_TEST_ROLE";
    const NAME: &str = "watch::tests::a_seed_that_panics_or_hangs_is_told_with_its_command";

    /// A worker that is not there.
    fn panicking() -> Plan {
        let mut plan = Plan::of(7);
        plan.settings.workers = 0;
        plan
    }

    #[test]
    fn a_seed_that_panics_or_hangs_is_told_with_its_command() {
        match std::env::var(ROLE).as_deref() {
            Ok("panics") => return drop(run(&panicking(), None)),
            Ok("hangs") => return drop(run(&Plan::of(7), None)),
            _ => {}
        }
        let told = "seed 7: LAKEFERRY_SIM_SEED=7 cargo test --test sim nothing_is_lost -- --nocapture";
        for (role, limit_ms, says) in
            [("panics", "600000", "something panics within a seed"), ("hangs", "1", "a seed takes longer than 1ms")]
        {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([NAME, "--exact"]).env(ROLE, role).env("LAKEFERRY_SIM_LIMIT_MS", limit_ms);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{role}: {text}");
            assert!(text.contains(says) && text.contains(told), "{role}: {text}");
        }
    }

    #[test]
    fn what_panics_beside_the_world_breaks_a_law() {
        let watched = super::Watched::new(3, "a command");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            spawn(async { panic!("nobody hears this") });
            tokio::task::yield_now().await;
        });
        assert!(watched.panicked().is_some_and(|said| said.contains("nobody hears this")));
        drop(watched);
        assert!(super::Watched::new(4, "a command").panicked().is_none(), "it was another seed");
    }
}
