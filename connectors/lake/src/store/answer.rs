//! What a store answered over HTTP, out of the text of its error: request, status, and the code and message that S3 and
//! its like put into a body of XML. Called by [`explain`](super::explain). Pure.
//!
//! Invariant: nothing of a body but its code and its message is told; the rest (what was signed, hashes, ids of hosts)
//! is of use to nobody who reads a status or a command's last line.

use std::borrow::Cow;
use std::fmt;

/// Longer messages are cut.
const MAX_MESSAGE_CHARS: usize = 400;

/// An answer that is an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// `Code` and `Message` of the body, as far as it has them.
    said: Option<String>,
    /// Method and address, without its query.
    request: Option<String>,
    /// Number and name.
    status: Option<String>,
    /// How often it was asked again.
    retries: Option<String>,
}

impl Answer {
    /// The answer that `text`, the words of a store's error, tells of; `None` where it tells of none.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (head, body) = split(text);
        let status = after(head, "status code: ").map(|status| status.trim_end_matches([':', ' ']).to_owned());
        // Of an error within an error the inner one is of the request itself.
        let request = head.rsplit_once("Error performing ").and_then(|(_, rest)| Some(rest.split_once(" in ")?.0));
        if body.is_none() && (status.is_none() || request.is_none()) {
            return None;
        }
        let request = request.map(|request| request.split('?').next().unwrap_or(request).to_owned());
        let retries = after(head, ", after ").and_then(|rest| Some(rest.split_once(" retries")?.0.to_owned()));
        Some(Self { said: body.and_then(said), request, status, retries })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { said, request, status, retries } = self;
        let status = status.as_deref();
        // Where the body says nothing, the status does.
        let first = said.as_deref().or(status).unwrap_or("the store answered with an error");
        let rest = status.filter(|status| *status != first);
        f.write_str(first)?;
        match (rest, request) {
            (Some(status), Some(request)) => write!(f, " ({request}: {status}")?,
            (Some(only), None) => write!(f, " ({only}")?,
            (None, Some(only)) => write!(f, " ({only}")?,
            (None, None) => return Ok(()),
        }
        if let Some(retries) = retries {
            write!(f, ", after {retries} retries")?;
        }
        f.write_str(")")
    }
}

/// The words before a body, and the body. It comes last: errors are told from the outside in.
fn split(text: &str) -> (&str, Option<&str>) {
    let begins = |at: usize| {
        let opening: String = text[at..].chars().take(9).collect::<String>().to_ascii_lowercase();
        ["<?xml", "<error", "<!doctype", "<html"].iter().any(|tag| opening.starts_with(tag))
    };
    match text.match_indices('<').map(|(at, _)| at).find(|at| begins(*at)) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    }
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

fn said(body: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        let text = quick_xml::escape::unescape(text).unwrap_or(Cow::Borrowed(text));
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(text.chars().take(MAX_MESSAGE_CHARS).collect::<String>()).filter(|text| !text.is_empty())
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (code, message) => code.or(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<String> {
        Answer::of(text).map(|answer| answer.to_string())
    }

    #[test]
    fn code_and_message_come_first_and_nothing_else_of_the_body_comes_at_all() {
        let text = "The operation lacked the necessary privileges to complete for path pre/a: Error performing PUT \
            http://127.0.0.1:7070/lake/pre/a in 2.5ms - Server returned non-2xx status code: 403 Forbidden: <?xml \
            version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature \
            we calculated\ndoes not match: key &amp; method</Message><StringToSign>AWS4-HMAC-SHA256 2026</StringToSign>\
            <CanonicalRequest>PUT</CanonicalRequest></Error>";
        let expected = "SignatureDoesNotMatch: The request signature we calculated does not match: key & method (PUT \
            http://127.0.0.1:7070/lake/pre/a: 403 Forbidden)";
        assert_eq!(told(text).as_deref(), Some(expected));
    }

    #[test]
    fn whatever_an_answer_lacks_the_rest_is_told() {
        let failed =
            |rest: &str| format!("Generic S3 error: Error performing GET http://s/lake?list-type=2 in 9s{rest}");
        let status = " - Server returned non-2xx status code: 502 Bad Gateway: ";
        let cases = [
            (failed(&format!("{status}<html><h1>no</h1></html>")), "502 Bad Gateway (GET http://s/lake)"),
            (failed(status), "502 Bad Gateway (GET http://s/lake)"),
            (
                failed(&format!(", after 9 retries, max_retries: 9, retry_timeout: 15s {status}")),
                "502 Bad Gateway (GET http://s/lake, after 9 retries)",
            ),
            (
                failed(" - Server returned error response: <Error><Code>InternalError</Code></Error>"),
                "InternalError (GET http://s/lake)",
            ),
            (
                format!("Generic S3 error: Error performing list request: {}", failed(status)),
                "502 Bad Gateway (GET http://s/lake)",
            ),
            ("404 Not Found: <Error><Code>NoSuchBucket</Code><Message/></Error>".to_owned(), "NoSuchBucket"),
        ];
        for (text, expected) in cases {
            assert_eq!(told(&text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_left_alone() {
        for text in [
            "Generic S3 error: Error performing GET http://s/lake in 15s, after 10 retries - HTTP error: error sending request",
            "Object at location topics/a<b not found: No such file or directory",
            "",
        ] {
            assert_eq!(told(text), None);
        }
        let long = format!("<Error><Message>{}</Message></Error>", "é".repeat(5_000));
        assert!(told(&long).unwrap().chars().count() <= MAX_MESSAGE_CHARS);
    }
}
