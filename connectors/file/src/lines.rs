//! Cuts a stream of bytes into lines and says where each ends. Pure: the source task reads, this counts.
//!
//! A line ends with LF, CR or CRLF; what follows the last of them waits for its end. Positions count UTF-16 units from
//! the start of the file, as Kafka's connector does, so that its stored offsets go on working. Kafka itself skips as
//! many *bytes* on a restart and so repeats text after any letter beyond ASCII; here the same units are skipped.

use std::collections::VecDeque;

/// Lines not yet taken, bytes not yet a line, and the position between the two.
pub(crate) struct Lines {
    unread: Vec<u8>,
    position: u64,
    resume_at: u64,
    ready: VecDeque<Line>,
}

/// A line without its end, and the position after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) position: u64,
}

impl Lines {
    /// Of a stream that is read from its start; what stands before `resume_at` is passed over.
    pub(crate) fn resuming_at(resume_at: u64) -> Self {
        Self { unread: Vec::new(), position: 0, resume_at, ready: VecDeque::new() }
    }

    /// Takes the bytes that follow those of the last call.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let mut start = 0;
        while let Some((end, next)) = line_end(&self.unread, start) {
            let line = String::from_utf8_lossy(&self.unread[start..end]).into_owned();
            let line = self.advance(line, (next - end) as u64);
            self.ready.extend(line);
            start = next;
        }
        self.unread.drain(..start);
    }

    /// At most `count` of the lines that are whole.
    pub(crate) fn take(&mut self, count: usize) -> Vec<Line> {
        self.ready.drain(..count.min(self.ready.len())).collect()
    }

    /// Moves behind the line; `None` where it lies before the point to resume at. A line across that point is cut.
    fn advance(&mut self, text: String, end_len: u64) -> Option<Line> {
        let start = self.position;
        self.position += text.encode_utf16().count() as u64 + end_len;
        if self.position <= self.resume_at {
            return None;
        }
        let skipped = usize::try_from(self.resume_at.saturating_sub(start)).unwrap_or(usize::MAX);
        let text = match skipped {
            0 => text,
            skipped => String::from_utf16_lossy(&text.encode_utf16().skip(skipped).collect::<Vec<_>>()),
        };
        Some(Line { text, position: self.position })
    }
}

/// Where the line from `start` on ends and where the next one begins. A CR at the very end may be half of a CRLF.
fn line_end(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let end = start + bytes[start..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
    match (bytes[end], bytes.get(end + 1)) {
        (b'\n', _) => Some((end, end + 1)),
        (_, Some(b'\n')) => Some((end, end + 2)),
        (_, Some(_)) => Some((end, end + 1)),
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(chunks: &[&[u8]], resume_at: u64) -> Vec<(String, u64)> {
        let mut lines = Lines::resuming_at(resume_at);
        chunks.iter().for_each(|chunk| lines.push(chunk));
        lines.take(usize::MAX).into_iter().map(|line| (line.text, line.position)).collect()
    }

    fn line(text: &str, position: u64) -> (String, u64) {
        (text.to_owned(), position)
    }

    #[test]
    fn knows_every_end_of_line() {
        let all = [line("a", 2), line("b", 4), line("", 5), line("c", 8)];
        assert_eq!(lines(&[b"a\nb\r\rc\r\nrest"], 0), all);
        assert_eq!(lines(&[b"a\r"], 0), [], "the CR may be half of a CRLF");
        assert_eq!(lines(&[b"a\r", b"\nb\r", b"c"], 0), [line("a", 3), line("b", 5)]);
    }

    #[test]
    fn counts_utf16_units_and_resumes_by_them() {
        let text = "\u{1f600}\u{e9}\nb\n".as_bytes();
        assert_eq!(lines(&[text], 0), [line("\u{1f600}\u{e9}", 4), line("b", 6)]);
        assert_eq!(lines(&[text], 4), [line("b", 6)]);
        assert_eq!(lines(&[text], 2), [line("\u{e9}", 4), line("b", 6)]);
        assert_eq!(lines(&[b"a\r\nb\n"], 2), [line("", 3), line("b", 5)]);
        assert_eq!(lines(&[text], 99), []);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "[ab\r\n\u{e9}]{0,40}", cut in 0..40usize) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(lines(&[&bytes[..cut], &bytes[cut..]], 0), lines(&[bytes], 0));
        }

        #[test]
        fn resuming_after_any_line_gives_the_rest(text in "[ab\r\n\u{e9}\u{1f600}]{0,40}", skip in 0..10usize) {
            let all = lines(&[text.as_bytes()], 0);
            let skip = skip.min(all.len());
            let resume_at = if skip == 0 { 0 } else { all[skip - 1].1 };
            prop_assert_eq!(&lines(&[text.as_bytes()], resume_at), &all[skip..]);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), resume_at in 0..80u64) {
            lines(&[&bytes], resume_at);
        }
    }
}
