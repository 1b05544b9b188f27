//! The tokens of a header's text: delimiters by themselves, and what stands between them. A backslash keeps the next
//! letter from being a delimiter. Walks forward with one token of look-ahead; a mark can be returned to.

/// See the module's head.
pub(super) struct Tokens {
    letters: Vec<char>,
    at: usize,
    next: Option<String>,
    previous: Option<String>,
}

impl Tokens {
    pub(super) fn new(text: &str) -> Self {
        Self { letters: text.chars().collect(), at: 0, next: None, previous: None }
    }

    /// Where the next token begins.
    pub(super) fn mark(&self) -> usize {
        self.at - self.next.as_ref().map_or(0, |next| next.chars().count())
    }

    pub(super) fn rewind(&mut self, mark: usize) {
        self.at = mark;
        self.next = None;
        self.previous = None;
    }

    pub(super) fn has_next(&self) -> bool {
        self.next.is_some() || self.at < self.letters.len()
    }

    pub(super) fn next(&mut self) -> String {
        let token = self.next.take().unwrap_or_else(|| self.consume());
        self.previous = Some(token.clone());
        token
    }

    /// The text of the next `count` tokens; `None`, and nothing consumed, where there are fewer.
    pub(super) fn next_text(&mut self, count: usize) -> Option<String> {
        let start = self.mark();
        for _ in 0..count {
            if !self.has_next() {
                self.rewind(start);
                return None;
            }
            self.next();
        }
        Some(self.letters[start..self.at].iter().collect())
    }

    /// Passes the next token that is not blank where it is `expected`, white space around it aside.
    pub(super) fn accept(&mut self, expected: &str) -> bool {
        if self.next.is_none() {
            if !self.has_next() {
                return false;
            }
            self.next = Some(self.consume());
        }
        while self.next.as_ref().is_some_and(|next| is_blank(next)) && self.at < self.letters.len() {
            self.next = Some(self.consume());
        }
        let accepted = self.next.as_ref().is_some_and(|next| trim(next) == expected);
        if accepted {
            self.next = None;
        }
        accepted
    }

    fn consume(&mut self) -> String {
        let start = self.at;
        let mut escaped = false;
        while let Some(letter) = self.letters.get(self.at) {
            let is_delimiter = matches!(letter, ':' | ',' | '{' | '}' | '[' | ']' | '"') && !escaped;
            if is_delimiter && start == self.at {
                self.at += 1;
                break;
            }
            if is_delimiter {
                break;
            }
            escaped = *letter == '\\' && !escaped;
            self.at += 1;
        }
        self.letters[start..self.at].iter().collect()
    }
}

/// As Java's `String.trim`.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|letter| letter <= ' ')
}

pub(super) fn is_blank(text: &str) -> bool {
    trim(text).is_empty()
}
