//! Reads Java `.properties` files exactly as `java.util.Properties.load` does: logical lines, continuations, comments,
//! the three separators and every escape. The worker's and the connectors' files, and the file config provider, come
//! through here.
//!
//! Java takes the bytes as ISO-8859-1; bytes that are valid UTF-8 are read as such here, because people write them so.
//! Invariant: no input panics; the only thing refused is a malformed `\u` escape, as in Java.

use std::fs::File;
use std::io::{self, Read as _};
use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;

use lakeferry_api::{Config, ConnectError, Result};

/// Of a longer key an error shows the beginning.
const MAX_SHOWN_KEY: usize = 80;

/// A larger file is no worker's and no connector's.
const LIMIT_BYTES: u64 = 16 << 20;

/// The bytes of a file that a command was given, which may be a pipe, but is not read without end.
///
/// # Errors
/// The system's, and where it has too many.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {LIMIT_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The entries of a properties file; of a key given twice the last value counts.
///
/// # Errors
/// `Config` for a `\u` that four hexadecimal digits do not follow, with the key it stands in or belongs to.
pub fn parse(bytes: &[u8]) -> Result<Config> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    };
    LogicalLines { letters: text.chars().peekable() }.map(|line| entry(&line)).collect()
}

/// Natural lines joined at continuations, without comments, blank lines and leading white space.
struct LogicalLines<'a> {
    letters: Peekable<Chars<'a>>,
}

impl Iterator for LogicalLines<'_> {
    type Item = Vec<char>;

    fn next(&mut self) -> Option<Vec<char>> {
        let mut line = Vec::new();
        loop {
            self.skip_white_space();
            if line.is_empty() && matches!(self.letters.peek(), Some('#' | '!')) {
                self.skip_rest_of_line();
                continue;
            }
            let continues = self.take_natural_line(&mut line);
            let at_end = self.letters.peek().is_none();
            // Java makes an entry of a file that ends in a lone backslash: the empty key.
            let is_whole = if continues { at_end } else { !line.is_empty() };
            if is_whole {
                return Some(line);
            }
            if at_end {
                return None;
            }
        }
    }
}

impl LogicalLines<'_> {
    fn skip_white_space(&mut self) {
        while self.letters.next_if(|letter| is_space(*letter)).is_some() {}
    }

    fn skip_rest_of_line(&mut self) {
        while self.letters.next_if(|letter| !is_end(*letter)).is_some() {}
    }

    /// Appends up to the line's end; true where an odd number of backslashes stood before it (the last is dropped).
    fn take_natural_line(&mut self, line: &mut Vec<char>) -> bool {
        let mut escaped = false;
        while let Some(letter) = self.letters.next_if(|letter| !is_end(*letter)) {
            escaped = letter == '\\' && !escaped;
            line.push(letter);
        }
        if escaped {
            line.pop();
        }
        if self.letters.next() == Some('\r') {
            self.letters.next_if_eq(&'\n');
        }
        escaped
    }
}

fn entry(line: &[char]) -> Result<(String, String)> {
    let mut escaped = false;
    let ends_key = |letter: &char| {
        let ends = !escaped && (matches!(letter, '=' | ':') || is_space(*letter));
        escaped = *letter == '\\' && !escaped;
        ends
    };
    let key_end = line.iter().position(ends_key).unwrap_or(line.len());
    let mut value = trim_start(&line[key_end..]);
    if let [first, rest @ ..] = value
        && matches!(first, '=' | ':')
    {
        value = trim_start(rest);
    }
    let key = &line[..key_end];
    let name = unescape(key).map_err(|Malformed| malformed("the key", &String::from_iter(key)))?;
    let value = unescape(value).map_err(|Malformed| malformed("the value of the key", &name))?;
    Ok((name, value))
}

/// A `\u` that four hexadecimal digits do not follow.
struct Malformed;

/// What follows the `\u` is not told: it may be a part of a secret.
fn malformed(what: &str, key: &str) -> ConnectError {
    let shown: String = key.chars().take(MAX_SHOWN_KEY).collect();
    let more = if shown.len() < key.len() { "..." } else { "" };
    ConnectError::config(format!(
        "Malformed \\uxxxx encoding in {what} {shown:?}{more}; write four hexadecimal digits behind \\u, or \\\\u where \
         no letter is meant"
    ))
}

fn trim_start(letters: &[char]) -> &[char] {
    let start = letters.iter().position(|letter| !is_space(*letter)).unwrap_or(letters.len());
    &letters[start..]
}

/// Goes by UTF-16 units, because two `\u` escapes may make one letter.
fn unescape(letters: &[char]) -> Result<String, Malformed> {
    let mut units: Vec<u16> = Vec::with_capacity(letters.len());
    let mut rest = letters.iter();
    while let Some(letter) = rest.next() {
        let letter = match letter {
            '\\' => match rest.next() {
                Some('u') => {
                    units.push(unicode_escape(rest.as_slice())?);
                    rest = rest.as_slice()[4..].iter();
                    continue;
                }
                Some('t') => '\t',
                Some('r') => '\r',
                Some('n') => '\n',
                Some('f') => '\u{c}',
                Some(other) => *other,
                None => break,
            },
            plain => *plain,
        };
        units.extend_from_slice(letter.encode_utf16(&mut [0; 2]));
    }
    Ok(String::from_utf16_lossy(&units))
}

fn unicode_escape(rest: &[char]) -> Result<u16, Malformed> {
    let digits: Option<String> = rest.get(..4).map(|digits| digits.iter().collect());
    let digits = digits.filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()));
    digits.and_then(|digits| u16::from_str_radix(&digits, 16).ok()).ok_or(Malformed)
}

fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\u{c}')
}

fn is_end(letter: char) -> bool {
    matches!(letter, '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use lakeferry_api::measure::peak_of;
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text.as_bytes()).unwrap().into_iter().collect()
    }

    fn one(text: &str) -> (String, String) {
        let pairs = pairs(text);
        assert_eq!(pairs.len(), 1, "{text:?} gave {pairs:?}");
        pairs.into_iter().next().unwrap()
    }

    /// What `java.util.Properties.load` of OpenJDK 17 answers.
    #[test]
    fn reads_what_java_reads() {
        let cases = [
            ("Truth = Beauty", "Truth", "Beauty"),
            (" Truth:Beauty", "Truth", "Beauty"),
            ("Truth   \t:Beauty ", "Truth", "Beauty "),
            ("Truth Beauty", "Truth", "Beauty"),
            ("a==b", "a", "=b"),
            ("a = = b", "a", "= b"),
            ("a:=b", "a", "=b"),
            ("cheeses", "cheeses", ""),
            ("=v", "", "v"),
            ("\\", "", ""),
            ("a\\ b\\:c\\=d=e", "a b:c=d", "e"),
            ("a=b\\\n   c", "a", "bc"),
            ("a=b\\\r\n\tc\\\r d", "a", "bcd"),
            ("a=b\\\\\n", "a", "b\\"),
            ("a=b\\", "a", "b"),
            ("a=b\\\n", "a", "b"),
            ("a=b\\\n\n", "a", "b"),
            ("a=b\\\n# c", "a", "b# c"),
            ("# c\\\na=b", "a", "b"),
            ("! c\r\ra=b", "a", "b"),
            ("\\\n# c\na=b", "a", "b"),
            ("a=\\t\\n\\r\\f\\z\\\"", "a", "\t\n\r\u{c}z\""),
            ("a=\\u00e9\\u0020\\uD83D\\uDE00", "a", "\u{e9} \u{1f600}"),
            ("\\#a=\\!b", "#a", "!b"),
            ("a=1\na=2", "a", "2"),
            ("a=b # no comment", "a", "b # no comment"),
            ("a=\u{a0}b", "a", "\u{a0}b"),
        ];
        for (text, key, value) in cases {
            assert_eq!(one(text), (key.to_owned(), value.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn has_no_entry_where_java_has_none() {
        for text in ["", "\n\n", "# a=b", "  ! a=b\\", "\\\n\n", " \t\u{c}\r\n"] {
            assert_eq!(pairs(text), [], "{text:?}");
        }
    }

    #[test]
    fn takes_utf8_where_it_is_valid_and_latin1_where_not() {
        assert_eq!(one("a=\u{e9}").1, "\u{e9}");
        assert_eq!(parse(b"a=\xe9").unwrap()["a"], "\u{e9}");
    }

    #[test]
    fn refuses_malformed_escapes() {
        for text in ["a=\\u12", "a=\\u12g4", "a\\u", "a=\\u+123"] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.message().starts_with("Malformed \\uxxxx encoding"), "{text:?}: {error}");
        }
    }

    fn names_a_key(error: &ConnectError) -> bool {
        let message = error.message();
        let begins = ["the key", "the value of the key"].map(|what| format!("Malformed \\uxxxx encoding in {what} \""));
        begins.iter().any(|begin| message.starts_with(begin)) && message.contains("write four hexadecimal digits")
    }

    fn escaped(text: &str) -> String {
        let plain = |letter: char| letter.is_ascii_alphanumeric();
        let unit = |unit: u16| match u8::try_from(unit).map(char::from) {
            Ok(letter) if plain(letter) => letter.to_string(),
            Ok(letter @ (' ' | ':' | '=' | '#' | '!' | '\\')) => format!("\\{letter}"),
            _ => format!("\\u{unit:04x}"),
        };
        text.encode_utf16().map(unit).collect()
    }

    #[test]
    #[cfg(unix)]
    fn a_file_without_end_is_given_up() {
        let (held, read) = peak_of(|| read(Path::new("/dev/zero")));
        assert_eq!(read.unwrap_err().to_string(), "it has more than 16777216 bytes");
        assert!(held < 64 << 20, "{held} bytes");
    }

    /// Each letter is held as such, as a unit and in the result, and every entry has its place in a map.
    #[test]
    fn a_file_takes_memory_by_its_length() {
        let entries: String = (0..40_000).map(|number| format!("{number:x}\n")).collect();
        let texts = ["a".repeat(1 << 20), "a\\\n".repeat(1 << 18), "\\u0061".repeat(1 << 17), "a=b\n".repeat(1 << 18)];
        for text in texts.iter().chain([&entries]) {
            let (held, read) = peak_of(|| parse(text.as_bytes()));
            read.unwrap();
            assert!(held < 32 * text.len(), "{held} bytes of {} that begin with {:?}", text.len(), &text[..6]);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (held, read) = peak_of(|| parse(&bytes));
            prop_assert!(held < (4 << 10) + 32 * bytes.len(), "{held} bytes of {}", bytes.len());
            if let Err(error) = read {
                prop_assert!(names_a_key(&error), "{}", error);
            }
        }

        #[test]
        fn no_text_of_syntax_panics(text in "[a\\\\=: \t\u{c}\r\n#!u0]{0,60}") {
            if let Err(error) = parse(text.as_bytes()) {
                prop_assert!(names_a_key(&error), "{}", error);
            }
        }

        #[test]
        fn a_malformed_escape_is_told_with_its_key_and_without_its_value(
            key in "[a-z.]{1,100}", digits in "[0-9a-f]{0,3}", before in "[!-~&&[^\\\\]]{0,8}",
        ) {
            let told = format!("{:?}", &key[..key.len().min(MAX_SHOWN_KEY)]);
            for text in [format!("a=b\n{key}={before}\\u{digits}"), format!("a=b\n{key}\\u{digits}=c")] {
                let error = parse(text.as_bytes()).unwrap_err();
                let in_key = format!("{:?}", format!("{key}\\u{digits}").chars().take(MAX_SHOWN_KEY).collect::<String>());
                prop_assert!(error.message().contains(&told) || error.message().contains(&in_key), "{text}: {error}");
                prop_assert!(names_a_key(&error), "{}", error);
            }
        }

        #[test]
        fn reads_back_what_was_escaped(entries in proptest::collection::btree_map(".{1,12}", ".{0,24}", 0..6)) {
            let text: String =
                entries.iter().map(|(key, value)| format!("{} = {}\n", escaped(key), escaped(value))).collect();
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), entries);
        }
    }
}
