//! A proxy of HTTP requests: remembers every one and lets faults strike those that a test describes.
//!
//! Made for S3: a test counts the writes of an idle worker, loses the reply of a manifest's put, or holds an upload
//! until long after its client gave up. Requests and replies are taken whole before they go on, so that a fault strikes
//! between the two and nowhere else; bodies therefore stand in memory. Each request has its own connection upstream.

use std::fmt;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::front::{Front, lock};
use super::message::{Message, Reader};
use crate::kit::poll::wait_until;
use crate::kit::{Error, Result, http};

/// What happens to a request, in place of being served and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server serves it; its reply is lost and the client's connection cut.
    CutReply,
    /// It never reaches the server; the client's connection is cut.
    CutRequest,
    /// It never reaches the server; the client gets this status and body.
    Answer(u16, String),
    /// It reaches the server only when the test releases it, whether or not the client still waits; else never.
    Hold,
    /// The server serves it; its reply comes back only when the test releases it.
    HoldReply,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    pub method: String,
    /// With the query.
    pub path: String,
    /// The server's answer, once it is there.
    pub status: Option<u16>,
    /// Its place among all requests that went on to the server, once it did.
    pub sent: Option<usize>,
    /// How many had gone on to the server when its answer came.
    pub answered: Option<usize>,
}

impl HttpRequest {
    /// PUT, POST, DELETE or PATCH.
    pub fn is_write(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "POST" | "DELETE" | "PATCH")
    }
}

impl fmt::Display for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

pub struct HttpProxy {
    front: Front,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    requests: Mutex<Vec<HttpRequest>>,
    sent: AtomicUsize,
    rules: Mutex<Vec<Rule>>,
}

struct Rule {
    matches: Box<dyn Fn(&HttpRequest) -> bool + Send>,
    fault: Fault,
    left: usize,
    strike: Strike,
}

/// An armed fault: how often it has struck, and the release of what it holds. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Strike(Arc<StrikeState>);

#[derive(Debug, Default)]
struct StrikeState {
    count: Mutex<usize>,
    released: Mutex<bool>,
    release: Condvar,
}

impl HttpProxy {
    /// A proxy before `upstream`, which is `127.0.0.1:port` and need not be up yet.
    pub fn start(upstream: impl Into<String>) -> Result<HttpProxy> {
        let (requests, rules) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let shared = Arc::new(Shared { upstream: upstream.into(), requests, sent: AtomicUsize::new(0), rules });
        let serving = Arc::clone(&shared);
        let front = Front::open(move |client, _| {
            // An error ends the connection, which is all that a proxy can say about it.
            let _ = serving.serve(&client);
            let _ = client.shutdown(Shutdown::Both);
        })?;
        Ok(HttpProxy { front, shared })
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> String {
        self.front.address()
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<HttpRequest> {
        lock(&self.shared.requests).clone()
    }

    /// How many of them are such.
    pub fn count(&self, such: impl Fn(&HttpRequest) -> bool) -> usize {
        lock(&self.shared.requests).iter().filter(|request| such(request)).count()
    }

    /// Forgets the requests so far.
    pub fn clear(&self) {
        lock(&self.shared.requests).clear();
    }

    /// Lets `fault` strike the next request that `matches`, once.
    pub fn fault_next(&self, fault: Fault, matches: impl Fn(&HttpRequest) -> bool + Send + 'static) -> Strike {
        self.fault_times(1, fault, matches)
    }

    /// Lets `fault` strike the next `times` requests that match. Of several armed faults the oldest strikes.
    pub fn fault_times(
        &self,
        times: usize,
        fault: Fault,
        matches: impl Fn(&HttpRequest) -> bool + Send + 'static,
    ) -> Strike {
        let strike = Strike(Arc::default());
        let rule = Rule { matches: Box::new(matches), fault, left: times, strike: strike.clone() };
        lock(&self.shared.rules).push(rule);
        strike
    }

    /// Disarms every fault that has not struck yet.
    pub fn disarm(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Refuses connections until [`accept`](Self::accept), and cuts those that stand.
    pub fn refuse(&self) {
        self.front.refuse();
    }

    pub fn accept(&self) -> Result<()> {
        self.front.accept()
    }
}

impl Strike {
    pub fn count(&self) -> usize {
        *lock(&self.0.count)
    }

    /// Waits until it has struck; of a held request: until that stands whole in the proxy.
    pub fn wait_struck(&self, limit: Duration) -> Result<()> {
        wait_until("the fault strikes a request", limit, || self.count() > 0)
    }

    /// Lets held requests go to the server, held replies to the client, and those that would still be held pass.
    pub fn release(&self) {
        *lock(&self.0.released) = true;
        self.0.release.notify_all();
    }

    fn strikes(&self) {
        *lock(&self.0.count) += 1;
    }

    fn wait_released(&self) {
        let mut released = lock(&self.0.released);
        while !*released {
            released = self.0.release.wait(released).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    /// Serves one client's connection to its end.
    fn serve(&self, client: &TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let mut reader = Reader::new(client);
        while let Some(message) = reader.request()? {
            let request = message.to_request()?;
            let index = self.remember(&request);
            let reply = match self.fault(&request) {
                Some((Fault::CutRequest, _)) => return Ok(()),
                Some((Fault::Answer(status, body), _)) => Message::answer(status, &body),
                Some((Fault::CutReply, strike)) => {
                    self.forward(&message, index)?;
                    strike.strikes();
                    return Ok(());
                }
                Some((Fault::Hold, strike)) => {
                    strike.strikes();
                    strike.wait_released();
                    self.forward(&message, index)?
                }
                Some((Fault::HoldReply, strike)) => {
                    let reply = self.forward(&message, index)?;
                    strike.strikes();
                    strike.wait_released();
                    reply
                }
                None => self.forward(&message, index)?,
            };
            reply.write(client)?;
            if reply.closes || message.closes {
                return Ok(());
            }
        }
        Ok(())
    }

    fn remember(&self, request: &HttpRequest) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(request.clone());
        requests.len() - 1
    }

    /// The fault that strikes this request, if any. Those that cut a reply or hold tell themselves when they did.
    fn fault(&self, request: &HttpRequest) -> Option<(Fault, Strike)> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && (rule.matches)(request))?;
        rule.left -= 1;
        let (fault, strike) = (rule.fault.clone(), rule.strike.clone());
        if matches!(fault, Fault::CutRequest | Fault::Answer(..)) {
            strike.strikes();
        }
        Some((fault, strike))
    }

    /// Sends the request on and takes the whole reply.
    fn forward(&self, request: &Message, index: usize) -> Result<Message> {
        let server = http::connect(&self.upstream)?;
        // A slow or stopped server is the client's to judge.
        server.set_read_timeout(None)?;
        server.set_write_timeout(None)?;
        let sent = self.sent.fetch_add(1, Ordering::SeqCst);
        if let Some(request) = lock(&self.requests).get_mut(index) {
            request.sent = Some(sent);
        }
        request.write(&server)?;
        let reply = Reader::new(&server).reply(request)?;
        let status = reply.status()?;
        if let Some(request) = lock(&self.requests).get_mut(index) {
            request.status = Some(status);
            request.answered = Some(self.sent.load(Ordering::SeqCst));
        }
        Ok(reply)
    }
}

impl Message {
    fn to_request(&self) -> Result<HttpRequest> {
        let mut words = self.first_line().split(' ');
        match (words.next(), words.next()) {
            (Some(method), Some(path)) => {
                let (method, path) = (method.to_owned(), path.to_owned());
                Ok(HttpRequest { method, path, status: None, sent: None, answered: None })
            }
            _ => Err(Error::failed(format!("no request line: `{}`", self.first_line()))),
        }
    }
}
