//! One HTTP/1.1 message, read whole from a socket and written as it was: head and body, framing included.
//!
//! Knows the four ways in which a message ends (no body, a length, chunks, the end of the connection) and the interim
//! `100 Continue`. Changes nothing, since requests are signed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::kit::{Error, Result};

#[derive(Debug)]
pub(super) struct Message {
    /// Start line and headers up to and with the empty line, as on the wire.
    raw_head: Vec<u8>,
    /// The same to look into; header values need not be UTF-8.
    head: String,
    /// As on the wire: with the sizes of its chunks, if it has them.
    body: Vec<u8>,
    /// Whether the connection ends after it.
    pub(super) closes: bool,
}

impl Message {
    pub(super) fn answer(status: u16, body: &str) -> Message {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Fault\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        Message { body: body.as_bytes().to_vec(), ..Message::of_head(head.into_bytes()) }
    }

    fn of_head(raw_head: Vec<u8>) -> Message {
        let head = String::from_utf8_lossy(&raw_head).into_owned();
        Message { raw_head, head, body: Vec::new(), closes: false }
    }

    pub(super) fn first_line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    pub(super) fn status(&self) -> Result<u16> {
        let status = self.first_line().split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| Error::failed(format!("no status line: `{}`", self.first_line())))
    }

    pub(super) fn write(&self, mut to: &TcpStream) -> Result<()> {
        to.write_all(&self.raw_head)?;
        Ok(to.write_all(&self.body)?)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn says(&self, header: &str, word: &str) -> bool {
        self.header(header).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    }
}

pub(super) struct Reader<'a> {
    stream: &'a TcpStream,
    buffered: BufReader<&'a TcpStream>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Reader<'a> {
        Reader { stream, buffered: BufReader::new(stream) }
    }

    /// The next request, or `None` when the client has closed between two.
    pub(super) fn request(&mut self) -> Result<Option<Message>> {
        let Some(mut message) = self.head()? else { return Ok(None) };
        if message.says("expect", "100-continue") {
            // The client waits for this before it sends its body; the server will say it once more, to us.
            let mut client = self.stream;
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        self.framed_body(&mut message)?;
        message.closes = message.says("connection", "close");
        Ok(Some(message))
    }

    /// The final reply to `request`.
    pub(super) fn reply(&mut self, request: &Message) -> Result<Message> {
        loop {
            let message = self.head()?.ok_or_else(|| Error::failed("the server closed without a reply"))?;
            if message.status()? / 100 != 1 {
                return self.reply_body(message, request);
            }
        }
    }

    fn reply_body(&mut self, mut message: Message, request: &Message) -> Result<Message> {
        message.closes = message.says("connection", "close");
        let bodiless = matches!(message.status()?, 204 | 304) || request.first_line().starts_with("HEAD ");
        if !bodiless && !self.framed_body(&mut message)? {
            self.buffered.read_to_end(&mut message.body)?;
            message.closes = true;
        }
        Ok(message)
    }

    fn head(&mut self) -> Result<Option<Message>> {
        let mut head = Vec::new();
        loop {
            let start = head.len();
            if self.buffered.read_until(b'\n', &mut head)? == 0 {
                let closed = head.is_empty();
                return if closed { Ok(None) } else { Err(Error::failed("a connection closed within a head")) };
            }
            if &head[start..] == b"\r\n" {
                return Ok(Some(Message::of_head(head)));
            }
        }
    }

    /// Reads a body whose end the head announces; false if it announces none.
    fn framed_body(&mut self, message: &mut Message) -> Result<bool> {
        if message.says("transfer-encoding", "chunked") {
            self.chunks(&mut message.body)?;
            return Ok(true);
        }
        let Some(length) = message.header("content-length") else { return Ok(false) };
        let length: usize = length.parse().map_err(|_| Error::failed(format!("a length of `{length}`")))?;
        message.body.resize(length, 0);
        self.buffered.read_exact(&mut message.body)?;
        Ok(true)
    }

    /// Chunks, the last one of size 0, and the trailer up to its empty line.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<()> {
        loop {
            let line = self.line(body)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| Error::failed(format!("a chunk of `{size}`")))?;
            if size == 0 {
                while !self.line(body)?.trim().is_empty() {}
                return Ok(());
            }
            let start = body.len();
            body.resize(start + size + 2, 0);
            self.buffered.read_exact(&mut body[start..])?;
        }
    }

    fn line(&mut self, body: &mut Vec<u8>) -> Result<String> {
        let start = body.len();
        if self.buffered.read_until(b'\n', body)? == 0 {
            return Err(Error::failed("a connection closed within a body"));
        }
        Ok(String::from_utf8_lossy(&body[start..]).into_owned())
    }
}
