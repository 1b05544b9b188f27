//! Clients that send too much, too slowly or not at all, on real sockets.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;
use crate::clock::SystemClock;
use crate::rest::body::Body as JsonBody;
use crate::spawn::within;

const SOON: Duration = Duration::from_secs(30);
/// Longer than any test takes: nobody is closed for being slow.
const PATIENT: Duration = Duration::from_secs(600);

struct Server {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: Spawned<()>,
    /// Lets `/held` answer.
    release: Arc<Notify>,
    /// `/held` was asked.
    asked: Arc<Notify>,
}

impl Server {
    async fn start(connections: usize, patience: Duration) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (release, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let held = async |State((release, asked)): State<(Arc<Notify>, Arc<Notify>)>| {
            asked.notify_one();
            release.notified().await;
            "held"
        };
        let kept = async |State((release, asked)): State<(Arc<Notify>, Arc<Notify>)>, JsonBody(_): JsonBody| {
            asked.notify_one();
            release.notified().await;
        };
        let echo = async |JsonBody(value): JsonBody| value.to_string().len().to_string().into_response();
        let router = Router::new()
            .route("/", get(async || "fine"))
            .route("/large", get(async || vec![b'x'; 64 << 20]))
            .route("/held", get(held))
            .route("/echo", post(echo))
            .route("/kept", post(kept))
            .with_state((Arc::clone(&release), Arc::clone(&asked)));
        let (address, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let limits = Limits { connections, patience };
        let serving = spawn("server", serve(socket, router, limits, Arc::new(SystemClock::new()), stop.clone()));
        Self { address, stop, serving, release, asked }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection on which `text` was sent.
    async fn sent(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        // The server may have seen enough before all is sent.
        let _ = stream.write_all(text.as_bytes()).await;
        stream
    }

    /// The status of a request's answer.
    async fn ask(&self, text: &str) -> StatusCode {
        status(&end_of(self.sent(text).await).await)
    }
}

/// Everything that comes on `stream` until it is closed.
async fn end_of(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = within(SOON, &SystemClock::new(), stream.read_to_end(&mut bytes)).await;
    // A connection may be reset where it was cut off in the middle of a request.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> StatusCode {
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status in '{answer}'"));
    status.parse().unwrap()
}

const GOOD: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const HALF: &str = "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ";

fn posted(length: usize, body: &str) -> String {
    format!(
        "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: \
         {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn slow_clients_make_room_for_others_the_longest_wait_first() {
    let server = Server::start(8, PATIENT).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(server.sent(HALF).await);
    }
    // Ten times as many as there are connections, with slow ones in between: each is answered.
    for n in 0..80 {
        assert_eq!(server.ask(GOOD).await, StatusCode::OK, "{n}");
        slow.push(server.sent(HALF).await);
    }
    let last = slow.pop().unwrap();
    for (n, stream) in slow.drain(..80).enumerate() {
        assert_eq!(end_of(stream).await, "", "{n}");
    }
    // The youngest is still there and can go on.
    let mut last = last;
    last.write_all(b"1\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&end_of(last).await), StatusCode::OK);
}

#[tokio::test]
async fn a_byte_now_and_then_does_not_keep_a_connection() {
    let patience = Duration::from_millis(300);
    let server = Server::start(8, patience).await;
    let clock = SystemClock::new();
    for start in ["", HALF, &posted(1_000, "{"), "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let begun = clock.monotonic();
        let mut stream = server.sent(start).await;
        let mut closed = false;
        while !closed && clock.monotonic() - begun < SOON {
            clock.sleep(Duration::from_millis(20)).await;
            // An idle connection sends nothing; the others a letter at a time.
            let sent =
                if start.is_empty() || start.ends_with("\r\n\r\n") { Ok(()) } else { stream.write_all(b"x").await };
            let mut bytes = [0; 512];
            closed = sent.is_err()
                || within(Duration::from_millis(5), &clock, stream.read(&mut bytes))
                    .await
                    .is_some_and(|read| !matches!(read, Ok(1..)));
        }
        assert!(closed, "{start:?}");
        assert!(clock.monotonic() - begun >= patience, "{start:?}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_does_not_keep_a_connection() {
    let server = Server::start(1, Duration::from_millis(300)).await;
    let mut stream = server.sent("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // There is one connection only, and it is let go.
    assert_eq!(server.ask(GOOD).await, StatusCode::OK);
    assert!(end_of(stream).await.len() < 64 << 20, "cut off");
}

#[tokio::test]
async fn who_is_being_served_is_not_cut_off() {
    let server = Server::start(2, PATIENT).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(server.sent("GET /held HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
        within(SOON, &SystemClock::new(), server.asked.notified()).await.unwrap();
    }
    assert_eq!(end_of(server.sent(GOOD).await).await, "", "there is no room");
    server.release.notify_waiters();
    for stream in held {
        assert!(end_of(stream).await.ends_with("held"));
    }
    assert_eq!(server.ask(GOOD).await, StatusCode::OK);
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_status() {
    let server = Server::start(8, PATIENT).await;
    let headers = |count: usize, length: usize| {
        let header = |n| format!("X-{n}: {}\r\n", "v".repeat(length));
        let headers: String = (0..count).map(header).collect();
        format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
    };
    assert_eq!(server.ask(&headers(60, 100)).await, StatusCode::OK);
    assert_eq!(server.ask(&headers(200, 1)).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(server.ask(&headers(2, HEAD_BYTES)).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(2 * HEAD_BYTES));
    assert_eq!(server.ask(&long).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(server.ask("GET / HTTP/9.9\r\n\r\n").await, StatusCode::BAD_REQUEST);

    let body = |bytes: usize| format!("\"{}\"", "b".repeat(bytes - 2));
    for (bytes, expected) in
        [(1 << 20, StatusCode::OK), (4 << 20, StatusCode::OK), ((4 << 20) + 1, StatusCode::PAYLOAD_TOO_LARGE)]
    {
        assert_eq!(server.ask(&posted(bytes, &body(bytes))).await, expected, "{bytes}");
    }
    // Many times the limit is read to its end, so that the answer is seen, and not kept.
    assert_eq!(server.ask(&posted(40 << 20, &body(40 << 20))).await, StatusCode::PAYLOAD_TOO_LARGE);
    let chunk = format!("100000\r\n{}\r\n", "c".repeat(1 << 20));
    let chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let chunked = format!("{chunked}{}0\r\n\r\n", chunk.repeat(5));
    assert_eq!(server.ask(&chunked).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(server.ask(&chunked.replace("100000\r\n", "fffffffffffffffff\r\n")).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn large_bodies_are_few_at_a_time_and_small_ones_pass() {
    let server = Server::start(100, PATIENT).await;
    let mut large = Vec::new();
    for _ in 0..LARGE_BODIES {
        let mut stream = server.sent(&posted(1 << 20, "\"")).await;
        stream.write_all(&vec![b'b'; 512 << 10]).await.unwrap();
        large.push(stream);
    }
    let refused = async || {
        let body = format!("\"{}\"", "b".repeat((1 << 20) - 2));
        (server.ask(&posted(1 << 20, &body)).await == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    };
    // The server may not have read all of the others yet.
    let clock = SystemClock::new();
    let found = within(SOON, &clock, async { while refused().await.is_none() {} }).await;
    assert!(found.is_some());
    assert_eq!(server.ask(&posted(2, "{}")).await, StatusCode::OK);
    // One that is finished makes room.
    let mut done = large.pop().unwrap();
    done.write_all(&vec![b'b'; (512 << 10) - 2]).await.unwrap();
    done.write_all(b"\"").await.unwrap();
    assert_eq!(status(&end_of(done).await), StatusCode::OK);
    let body = format!("\"{}\"", "b".repeat((1 << 20) - 2));
    assert_eq!(server.ask(&posted(1 << 20, &body)).await, StatusCode::OK);
}

#[tokio::test]
async fn a_large_body_counts_until_it_is_answered_or_its_client_is_gone() {
    let server = Server::start(100, PATIENT).await;
    let body = format!("\"{}\"", "b".repeat((1 << 20) - 2));
    let (large, kept) = (posted(1 << 20, &body), posted(1 << 20, &body).replace("/echo", "/kept"));
    let held = async || {
        let mut streams = Vec::new();
        for _ in 0..LARGE_BODIES {
            let asked = server.asked.notified();
            streams.push(server.sent(&kept).await);
            within(SOON, &SystemClock::new(), asked).await.unwrap();
        }
        streams
    };
    let streams = held().await;
    assert_eq!(server.ask(&large).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.ask(&posted(2, "{}")).await, StatusCode::OK);
    server.release.notify_waiters();
    for stream in streams {
        assert_eq!(status(&end_of(stream).await), StatusCode::OK);
    }
    assert_eq!(server.ask(&large).await, StatusCode::OK);
    drop(held().await);
    let passes = async { while server.ask(&large).await != StatusCode::OK {} };
    assert!(within(SOON, &SystemClock::new(), passes).await.is_some());
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_idle_clients_go() {
    let mut server = Server::start(8, PATIENT).await;
    let idle = server.connect().await;
    let held = server.sent("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    within(SOON, &SystemClock::new(), server.asked.notified()).await.unwrap();
    server.stop.cancel();
    assert_eq!(end_of(idle).await, "");
    assert!(!server.serving.is_finished());
    server.release.notify_waiters();
    assert!(end_of(held).await.ends_with("held"));
    within(SOON, &SystemClock::new(), server.serving.join()).await.unwrap().unwrap();
}
