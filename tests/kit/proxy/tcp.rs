//! A proxy of bytes: cuts a connection when the reply to a request that contains certain bytes comes back.
//!
//! Made for the NameNode's RPC, whose requests name their method and, right behind it, their path in clear. The request
//! always reaches the server and is executed: the server's side of a cut connection stays open and is drained until the
//! server closes it. What else was in flight on that connection is lost as well, as it is when a connection breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::front::{Front, Register, lock};
use crate::kit::poll::wait_until;
use crate::kit::{Result, http};

/// How far behind the name of a method a request says what it is about. No request with a path and what follows it is
/// shorter, so that none takes the next one's path for its own.
const REACH: usize = 200;

/// A line that carries so many bytes a second, whatever shares it.
struct Line {
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

pub struct TcpProxy {
    front: Front,
    cuts: Arc<Mutex<Vec<Cut>>>,
}

/// One armed cut, to ask whether it has struck.
#[derive(Debug, Clone)]
pub struct Cut(Arc<CutState>);

#[derive(Debug)]
struct CutState {
    pattern: Vec<u8>,
    /// What must stand within [`REACH`] bytes behind it.
    about: Vec<u8>,
    strike_at: usize,
    matches: AtomicUsize,
    struck: AtomicBool,
}

impl TcpProxy {
    /// A proxy before `upstream`, which is `127.0.0.1:port` and need not be up yet.
    pub fn start(upstream: impl Into<String>) -> Result<TcpProxy> {
        TcpProxy::start_on(upstream, None)
    }

    /// The same behind a slow line: requests, all together, get `bytes_per_second` through it.
    pub fn start_slow(upstream: impl Into<String>, bytes_per_second: u32) -> Result<TcpProxy> {
        let line = Line { bytes_per_second: bytes_per_second.into(), free_at: Mutex::new(Instant::now()) };
        TcpProxy::start_on(upstream, Some(line))
    }

    fn start_on(upstream: impl Into<String>, line: Option<Line>) -> Result<TcpProxy> {
        let (upstream, cuts) = (upstream.into(), Arc::new(Mutex::new(Vec::new())));
        let armed = Arc::clone(&cuts);
        let front = Front::open(move |client, register| {
            // A dead server is a refused or broken connection for the client too; it has been accepted, so: broken.
            if let Ok(server) = http::connect(&upstream) {
                Connection::serve((client, server), &armed, line.as_ref(), register);
            }
        })?;
        Ok(TcpProxy { front, cuts })
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> String {
        self.front.address()
    }

    /// Cuts the reply of the `nth` request from now (1: the next one) that contains `pattern`, once.
    pub fn cut_reply(&self, pattern: impl AsRef<[u8]>, nth: usize) -> Cut {
        self.cut_reply_about(pattern, "", nth)
    }

    /// The same, of requests that are about `about`: it stands soon behind the pattern. A request that arrives cut in
    /// two between them is not counted.
    pub fn cut_reply_about(&self, pattern: impl AsRef<[u8]>, about: &str, nth: usize) -> Cut {
        let (pattern, about, strike_at) = (pattern.as_ref().to_vec(), about.as_bytes().to_vec(), nth.max(1));
        let (matches, struck) = (AtomicUsize::new(0), AtomicBool::new(false));
        let cut = Cut(Arc::new(CutState { pattern, about, strike_at, matches, struck }));
        lock(&self.cuts).push(cut.clone());
        cut
    }

    /// Refuses connections until [`accept`](Self::accept), and cuts those that stand.
    pub fn refuse(&self) {
        self.front.refuse();
    }

    pub fn accept(&self) -> Result<()> {
        self.front.accept()
    }
}

impl Cut {
    /// Whether a reply has been cut.
    pub fn has_struck(&self) -> bool {
        self.0.struck.load(Ordering::SeqCst)
    }

    pub fn wait_struck(&self, limit: Duration) -> Result<()> {
        let pattern = String::from_utf8_lossy(&self.0.pattern).into_owned();
        let about = String::from_utf8_lossy(&self.0.about);
        wait_until(&format!("the reply of a request with `{pattern}` `{about}` is cut"), limit, || self.has_struck())
    }

    /// How many requests contained the pattern so far.
    pub fn matches(&self) -> usize {
        self.0.matches.load(Ordering::SeqCst)
    }

    /// Counts occurrences that end in `fresh`; `window` is that with the end of what came before.
    fn sees(&self, window: &[u8], fresh: usize) -> bool {
        let state = &*self.0;
        let found = window.windows(state.pattern.len().max(1)).enumerate();
        let new_at = window.len() - fresh;
        let is_about = |behind: &[u8]| {
            let near = &behind[..behind.len().min(REACH)];
            state.about.is_empty() || near.windows(state.about.len()).any(|bytes| bytes == state.about)
        };
        let is_such = |end: usize| end > new_at && is_about(&window[end..]);
        let count = found.filter(|(at, bytes)| *bytes == state.pattern && is_such(at + bytes.len())).count();
        let before = state.matches.fetch_add(count, Ordering::SeqCst);
        before < state.strike_at && before + count >= state.strike_at
    }
}

impl Line {
    /// Takes as long as the line takes for `bytes`, behind what is on it already.
    fn carry(&self, bytes: usize) {
        let free_at = {
            let mut free_at = lock(&self.free_at);
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
            *free_at
        };
        thread::sleep(free_at.saturating_duration_since(Instant::now()));
    }
}

/// One connection that passes through: a thread for each direction.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Set before the fatal request goes on, so that no byte of its reply can slip through.
    doomed: Mutex<Option<Cut>>,
}

impl Connection {
    fn serve(
        (client, server): (TcpStream, TcpStream),
        cuts: &Mutex<Vec<Cut>>,
        line: Option<&Line>,
        register: &Register,
    ) {
        let _registered = register.add(&server);
        // `connect` set limits for requests of the kit; a proxied connection may rest as long as it likes.
        let unlimited = server.set_read_timeout(None).and_then(|()| server.set_write_timeout(None));
        if unlimited.and_then(|()| client.set_nodelay(true)).is_err() {
            return;
        }
        let connection = Connection { client, server, doomed: Mutex::new(None) };
        thread::scope(|scope| {
            scope.spawn(|| connection.replies());
            connection.requests(cuts, line);
        });
    }

    fn requests(&self, cuts: &Mutex<Vec<Cut>>, line: Option<&Line>) {
        let (mut chunk, mut seen) = (vec![0; 64 * 1024], Vec::new());
        while let Ok(length @ 1..) = (&self.client).read(&mut chunk) {
            let fresh = &chunk[..length];
            seen.extend_from_slice(fresh);
            let mut longest = 1;
            for cut in lock(cuts).iter() {
                longest = longest.max(cut.0.pattern.len());
                if cut.sees(&seen, length) {
                    *lock(&self.doomed) = Some(cut.clone());
                }
            }
            seen.drain(..seen.len().saturating_sub(longest - 1));
            line.inspect(|line| line.carry(length));
            if (&self.server).write_all(fresh).is_err() {
                break;
            }
        }
        // The client has closed or was cut. A doomed request must still be executed: then the server side stays.
        if lock(&self.doomed).is_none() {
            let _ = self.server.shutdown(Shutdown::Write);
        }
    }

    fn replies(&self) {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = (&self.server).read(&mut chunk) {
            if let Some(cut) = &*lock(&self.doomed) {
                let _ = self.client.shutdown(Shutdown::Both);
                cut.0.struck.store(true, Ordering::SeqCst);
                continue;
            }
            if (&self.client).write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        let _ = self.client.shutdown(Shutdown::Both);
    }
}
