//! The least of HTTP: one request, one answer, connection closed. For readiness checks and small assertions.
//!
//! It speaks HTTP/1.0, to which no server answers in chunks. It is no client for the worker's REST API tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Error, Result};

const LIMIT: Duration = Duration::from_secs(10);

/// Status and body of `GET http://<address><path>`; `address` is `127.0.0.1:port`.
pub fn get(address: &str, path: &str) -> Result<(u16, String)> {
    request("GET", address, path, "")
}

/// Whether `GET` is answered by 200.
pub fn is_ok(address: &str, path: &str) -> bool {
    get(address, path).is_ok_and(|(status, _)| status == 200)
}

pub fn request(method: &str, address: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n");
    let mut stream = connect(address)?;
    write!(stream, "{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let answer = String::from_utf8_lossy(&bytes);
    let (mut head, mut body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    // A DataNode says `100 Continue` to whoever sends a body.
    while let Some(rest) = head.starts_with("HTTP/1.1 100").then(|| body.split_once("\r\n\r\n")).flatten() {
        (head, body) = rest;
    }
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Error::failed(format!("{method} {path} at {address}: no HTTP in `{head}`")))?;
    Ok((status, body.to_owned()))
}

/// A connection whose every step has a limit.
pub fn connect(address: &str) -> Result<TcpStream> {
    let parsed: SocketAddr = address.parse().map_err(|_| Error::failed(format!("`{address}` is no address")))?;
    let stream = TcpStream::connect_timeout(&parsed, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
