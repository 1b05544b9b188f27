//! The accepting half of a proxy: one port that can be closed and opened again, and the connections that came by it.
//!
//! Used by both proxies. While it is closed the port refuses connections, as that of a dead server does; established
//! ones are cut. Each connection is served by a thread of its own, which ends when its sockets do.

use std::collections::HashMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::kit::home::Port;
use crate::kit::poll::poll_until;
use crate::kit::{Error, Result};

const BIND_LIMIT: Duration = Duration::from_secs(10);

/// What to do with a connection; the register takes every further socket that must fall with it.
type Serve = dyn Fn(TcpStream, &Register) + Send + Sync;

pub(super) struct Front {
    port: Port,
    serve: Arc<Serve>,
    sockets: Register,
    acceptor: Mutex<Option<Acceptor>>,
}

struct Acceptor {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// All open sockets of one proxy, so that they can be cut from outside.
#[derive(Clone, Default)]
pub(super) struct Register {
    next: Arc<AtomicU64>,
    open: Arc<Mutex<HashMap<u64, TcpStream>>>,
}

/// Keeps a socket in the register while it lives.
pub(super) struct Registered {
    id: u64,
    register: Register,
}

impl Front {
    pub(super) fn open(serve: impl Fn(TcpStream, &Register) + Send + Sync + 'static) -> Result<Front> {
        let sockets = Register::default();
        let front = Front { port: Port::claim()?, serve: Arc::new(serve), sockets, acceptor: Mutex::new(None) };
        front.accept()?;
        Ok(front)
    }

    pub(super) fn address(&self) -> String {
        self.port.address()
    }

    /// Accepts connections (again).
    pub(super) fn accept(&self) -> Result<()> {
        let mut acceptor = lock(&self.acceptor);
        if acceptor.is_some() {
            return Ok(());
        }
        let listener = poll_until(BIND_LIMIT, || TcpListener::bind(self.port.address()).ok());
        let listener = listener.ok_or_else(|| Error::failed(format!("cannot bind {}", self.port.address())))?;
        let closing = Arc::new(AtomicBool::new(false));
        let (serve, sockets, stop) = (Arc::clone(&self.serve), self.sockets.clone(), Arc::clone(&closing));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                // Before the thread starts: who refuses must find every connection that was accepted.
                let registered = sockets.add(&stream);
                let (serve, sockets) = (Arc::clone(&serve), sockets.clone());
                thread::spawn(move || {
                    serve(stream, &sockets);
                    drop(registered);
                });
            }
        });
        *acceptor = Some(Acceptor { closing, thread });
        Ok(())
    }

    /// Refuses connections from now on, and cuts those that stand.
    pub(super) fn refuse(&self) {
        if let Some(acceptor) = lock(&self.acceptor).take() {
            acceptor.closing.store(true, Ordering::SeqCst);
            // Wakes the thread from its `accept`; the listener goes with it.
            let _ = TcpStream::connect(self.port.address());
            let _ = acceptor.thread.join();
        }
        self.sockets.cut_all();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.refuse();
    }
}

impl Register {
    pub(super) fn add(&self, stream: &TcpStream) -> Registered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Ok(stream) = stream.try_clone() {
            lock(&self.open).insert(id, stream);
        }
        Registered { id, register: self.clone() }
    }

    fn cut_all(&self) {
        for stream in lock(&self.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.register.open).remove(&self.id);
    }
}

/// A panic of one test's closure must not take the proxy of the others along.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
