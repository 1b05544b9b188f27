//! The proxies before a small server of the test's own, which tells what has reached it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::front::lock;
use super::*;
use crate::kit::http::request;
use crate::kit::poll::wait_until;

const SOON: Duration = Duration::from_secs(10);

/// Reads lines of text from every connection, notes them and answers each with what `answer` says.
struct Server {
    address: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, lines) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
        let (noted, answer) = (Arc::clone(&lines), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                thread::spawn(move || {
                    for line in BufReader::new(&stream).lines().map_while(std::result::Result::ok) {
                        lock(&noted).push(line.clone());
                        if let Some(answer) = answer(&line) {
                            let _ = (&stream).write_all(answer.as_bytes());
                        }
                    }
                });
            }
        });
        Server { address, lines }
    }

    /// Answers every request at its empty line, by its request line's path; `/silent` never.
    fn http() -> Server {
        let target = Mutex::new(String::new());
        Server::start(move |line| {
            if let Some((method @ ("GET" | "PUT" | "POST" | "HEAD" | "DELETE"), rest)) = line.split_once(' ') {
                *lock(&target) = format!("{method} {}", rest.split(' ').next().unwrap_or_default());
            }
            let answer = match lock(&target).as_str() {
                "GET /chunks" => {
                    "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: t\r\n\r\n"
                }
                "GET /none" => "204 No Content\r\n\r\n",
                "HEAD /head" => "200 OK\r\nContent-Length: 5\r\n\r\n",
                "PUT /early" => "100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                _ => "200 OK\r\nContent-Length: 2\r\n\r\nok",
            };
            line.is_empty().then(|| format!("HTTP/1.1 {answer}"))
        })
    }

    fn saw(&self, text: &str) -> usize {
        lock(&self.lines).iter().filter(|line| line.contains(text)).count()
    }
}

#[test]
fn http_passes_whatever_a_message_ends_with() {
    let server = Server::http();
    let proxy = HttpProxy::start(&server.address).unwrap();
    // One connection for all: each reply must end where it ends.
    let client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let exchange = |request: &str, until: &str| {
        (&client).write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(until.as_bytes()) {
            let mut byte = [0];
            (&client).read_exact(&mut byte).unwrap();
            reply.extend(byte);
        }
        String::from_utf8(reply).unwrap()
    };
    let chunks = exchange("GET /chunks HTTP/1.1\nHost: h\n\n", "T: t\r\n\r\n");
    assert!(chunks.ends_with("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: t\r\n\r\n"), "{chunks}");
    assert!(exchange("GET /none HTTP/1.1\n\n", "\r\n\r\n").starts_with("HTTP/1.1 204"));
    assert!(exchange("HEAD /head HTTP/1.1\n\n", "\r\n\r\n").contains("Content-Length: 5"));
    let early = exchange("PUT /early HTTP/1.1\nContent-Length: 4\nExpect: 100-continue\n\nbody", "ok");
    assert_eq!(early.matches("100 Continue").count(), 1, "{early}");
    assert!(exchange("POST /p?q=1 HTTP/1.1\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n", "ok").contains("200 OK"));
    let seen: Vec<String> = proxy.requests().iter().map(|one| format!("{one} {}", one.status.unwrap())).collect();
    assert_eq!(seen, ["GET /chunks 200", "GET /none 204", "HEAD /head 200", "PUT /early 200", "POST /p?q=1 200"]);
    assert_eq!(proxy.count(HttpRequest::is_write), 2);
    proxy.clear();
    assert!(proxy.requests().is_empty());
}

#[test]
fn http_faults_strike_whom_they_are_told_to() {
    let server = Server::http();
    let proxy = HttpProxy::start(&server.address).unwrap();
    let put = |path: &str| request("PUT", &proxy.address(), path, "");
    let cut = proxy.fault_next(Fault::CutReply, |request| request.path == "/cut");
    let lost = proxy.fault_times(2, Fault::CutRequest, |request| request.method == "PUT" && request.path == "/lost");
    let refused = proxy.fault_next(Fault::Answer(503, "slow down".to_owned()), |request| request.path == "/busy");
    assert_eq!(put("/other").unwrap().0, 200);
    assert!(put("/cut").is_err());
    assert_eq!((server.saw("PUT /cut"), cut.count()), (1, 1), "served, and its reply lost");
    assert_eq!(put("/cut").unwrap().0, 200, "once");
    assert!(put("/lost").is_err() && put("/lost").is_err());
    assert_eq!((server.saw("PUT /lost"), lost.count()), (0, 2));
    assert_eq!(put("/busy").unwrap(), (503, "slow down".to_owned()));
    assert_eq!((server.saw("PUT /busy"), refused.count()), (0, 1));
    let never = proxy.fault_next(Fault::CutRequest, |_| true);
    proxy.disarm();
    assert_eq!(put("/lost").unwrap().0, 200);
    assert_eq!(never.count(), 0);
}

#[test]
fn http_holds_a_request_beyond_its_client() {
    let server = Server::http();
    let proxy = HttpProxy::start(&server.address).unwrap();
    let held = proxy.fault_next(Fault::Hold, |request| request.path == "/late");
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(b"PUT /late HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
    held.wait_struck(SOON).unwrap();
    drop(client);
    assert_eq!(request("PUT", &proxy.address(), "/next", "").unwrap().0, 200, "others pass");
    assert_eq!(server.saw("PUT /late"), 0);
    held.release();
    wait_until("the held request lands", SOON, || server.saw("PUT /late") == 1).unwrap();
    wait_until("its answer is noted", SOON, || proxy.requests()[0].status == Some(200)).unwrap();
    let order: Vec<_> = proxy.requests().iter().map(|request| (request.sent, request.answered)).collect();
    assert_eq!(order, [(Some(1), Some(2)), (Some(0), Some(1))], "the later one was there first");
}

#[test]
fn http_holds_a_reply() {
    let server = Server::http();
    let proxy = HttpProxy::start(&server.address).unwrap();
    let held = proxy.fault_next(Fault::HoldReply, |request| request.path == "/slow");
    thread::scope(|scope| {
        let client = scope.spawn(|| request("PUT", &proxy.address(), "/slow", "").unwrap());
        held.wait_struck(SOON).unwrap();
        assert!(server.saw("PUT /slow") == 1 && !client.is_finished());
        held.release();
        assert_eq!(client.join().unwrap().0, 200);
    });
}

#[test]
fn a_proxy_refuses_and_accepts_again() {
    let server = Server::http();
    let proxy = HttpProxy::start(&server.address).unwrap();
    let mut standing = TcpStream::connect(proxy.address()).unwrap();
    standing.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(request("GET", &proxy.address(), "/", "").unwrap().0, 200);
    proxy.refuse();
    assert_eq!(standing.read(&mut [0]).unwrap(), 0, "cut");
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.accept().unwrap();
    assert_eq!(request("GET", &proxy.address(), "/", "").unwrap().0, 200);
}

#[test]
fn tcp_cuts_the_reply_of_the_nth_request_with_the_bytes() {
    let server = Server::start(|line| Some(format!("re {line}\n")));
    let proxy = TcpProxy::start(&server.address).unwrap();
    let cut = proxy.cut_reply("rename2", 2);
    let dial = || {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        BufReader::new(stream)
    };
    let call = |connection: &mut BufReader<TcpStream>, parts: &[&str]| {
        for part in parts {
            connection.get_ref().write_all(part.as_bytes()).unwrap();
        }
        let mut reply = String::new();
        connection.read_line(&mut reply).map(|_| reply)
    };
    let (mut one, mut two) = (dial(), dial());
    assert_eq!(call(&mut one, &["a rename2 b\n"]).unwrap(), "re a rename2 b\n", "the first passes");
    assert_eq!(call(&mut one, &["create\n"]).unwrap(), "re create\n");
    assert!(!cut.has_struck());
    // The bytes may come in pieces, on another connection.
    assert_eq!(call(&mut two, &["a ren", "ame", "2 c\n"]).unwrap_or_default(), "");
    cut.wait_struck(SOON).unwrap();
    assert_eq!((server.saw("rename2"), cut.matches()), (2, 2), "executed all the same");
    assert_eq!(call(&mut one, &["rename2 d\n"]).unwrap(), "re rename2 d\n", "once, and that connection only");
    assert_eq!(cut.matches(), 3);
    let cut = proxy.cut_reply_about("rename2", ".json", 1);
    assert_eq!(call(&mut one, &["rename2 a.parquet\n"]).unwrap(), "re rename2 a.parquet\n", "another file");
    let far = format!("rename2 {} a.json\n", "a".repeat(200));
    assert!(call(&mut one, &[&far]).is_ok(), "too far behind");
    assert_eq!(call(&mut one, &["create a.json\n"]).unwrap(), "re create a.json\n");
    assert_eq!(call(&mut one, &["rename2 a.json\n"]).unwrap_or_default(), "");
    cut.wait_struck(SOON).unwrap();
    assert_eq!(cut.matches(), 1);
    proxy.refuse();
    assert!(TcpStream::connect(proxy.address()).is_err());
}
