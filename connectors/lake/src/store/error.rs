//! What a store's error means for the worker: the one mapping from `object_store::Error` to a [`ConnectError`].
//!
//! Called wherever the lake talks to a store. Invariant: the message says what was being done, to which object, and
//! the remedy where the user has one, all in its first line and none of it in XML; wrong settings are `Config`,
//! whatever may pass is `Retriable`, and an absent object is `NotFound`. It never says "absent" of an error: only
//! [`object_store::Error::NotFound`] is.

use std::error::Error as StdError;
use std::io;

use hdfs_native::HdfsError;
use lakeferry_api::{ConnectError, Kind};
use object_store::Error;

use super::answer::Answer;

/// The error of `doing` (for example "list topics/orders") in the worker's terms.
pub fn explain(doing: &str, error: Error) -> ConnectError {
    let (kind, remedy) = classify(&error);
    let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let text = error.to_string();
    match Answer::of(&text) {
        Some(answer) => {
            tracing::debug!(text, "cannot {doing}");
            ConnectError::new(kind, format!("cannot {doing}: {answer}{remedy}"))
        }
        None => ConnectError::new(kind, format!("cannot {doing}: {text}{remedy}")).caused_by(error),
    }
}

/// The error for people: what the store answered, where that is what it tells of.
pub(crate) fn words(error: &Error) -> String {
    let text = error.to_string();
    Answer::of(&text).map_or(text, |answer| answer.to_string())
}

/// What S3 and its like say in the `Code` of an answer, whatever status and error they end up as (an error of a listing
/// is always `Generic`).
const S3_CODES: [(&[&str], &str); 3] = [
    (&["NoSuchBucket"], "there is no such bucket: create it, or correct the bucket in store.url"),
    (
        // The last is what versitygw calls the second.
        &["SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "XAdminUserNotFound"],
        "check store.aws_access_key_id, store.aws_secret_access_key and store.aws_session_token",
    ),
    (&["AuthorizationHeaderMalformed", "PermanentRedirect"], "check store.aws_region and store.aws_endpoint"),
];

/// S3 answers 403 for a missing permission and, where listing is not allowed, for an absent object.
const NO_PERMISSION: &str = "check the credentials in store.<option>, and that they may get, put, delete and list here \
    (without the permission to list, S3 answers 403 for an object that does not exist)";

const UNKNOWN_AUTHORITY: &str = "the server's certificate is not trusted: name the PEM file of the authority that issued \
    it in the environment variable SSL_CERT_FILE, or make it known to the system, and see that the certificate has the \
    name in the endpoint";

fn classify(error: &Error) -> (Kind, Option<&'static str>) {
    let text = error.to_string();
    let said = |code: &&str| text.contains(&format!("<Code>{code}</Code>"));
    if let Some((_, remedy)) = S3_CODES.iter().find(|(codes, _)| codes.iter().any(said)) {
        return (Kind::Config, Some(remedy));
    }
    match error {
        Error::NotFound { .. } => (Kind::NotFound, None),
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => (Kind::Conflict, None),
        Error::PermissionDenied { .. } => (Kind::Config, Some(NO_PERMISSION)),
        Error::Generic { .. } if said(&"AccessDenied") => (Kind::Config, Some(NO_PERMISSION)),
        Error::Unauthenticated { .. } => (Kind::Config, Some("check the credentials in store.<option>")),
        Error::NotImplemented { .. } | Error::NotSupported { .. } => {
            (Kind::Config, Some("this store lacks what an archive needs; use another one"))
        }
        Error::UnknownConfigurationKey { .. } | Error::InvalidPath { .. } => {
            (Kind::Config, Some("correct store.url or store.<option>"))
        }
        Error::Generic { source, .. } => classify_cause(&**source),
        _ => (Kind::Retriable, None),
    }
}

fn classify_cause(mut cause: &(dyn StdError + 'static)) -> (Kind, Option<&'static str>) {
    loop {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return classify_io(error);
        }
        if let Some(error) = cause.downcast_ref::<HdfsError>() {
            return classify_hdfs(error);
        }
        // OpenSSL's words; its error has no type of its own for this.
        if cause.to_string().contains("certificate verify failed") {
            return (Kind::Config, Some(UNKNOWN_AUTHORITY));
        }
        match cause.source() {
            Some(deeper) => cause = deeper,
            None => return (Kind::Retriable, None),
        }
    }
}

fn classify_io(error: &io::Error) -> (Kind, Option<&'static str>) {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Kind::Retriable, Some("the disk is full: free space there, the archive goes on by itself"))
        }
        io::ErrorKind::PermissionDenied => {
            (Kind::Config, Some("give the worker's user the right to read and write there"))
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            (Kind::Config, Some("the file system is mounted read-only: mount it for writing"))
        }
        io::ErrorKind::NotADirectory => (Kind::Config, Some("a file stands where a folder should: move it away")),
        _ => (Kind::Retriable, None),
    }
}

fn classify_hdfs(error: &HdfsError) -> (Kind, Option<&'static str>) {
    match error {
        HdfsError::IOError(error) => classify_io(error),
        HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _) => match class.rsplit(['.', '$']).next() {
            Some("AccessControlException" | "AuthorizationException") => {
                (Kind::Config, Some("give the worker's HDFS user the right to read and write there"))
            }
            Some("QuotaExceededException" | "NSQuotaExceededException" | "DSQuotaExceededException") => {
                (Kind::Retriable, Some("the HDFS quota is used up: raise it, the archive goes on by itself"))
            }
            _ => (Kind::Retriable, None),
        },
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            (Kind::Config, Some("check the Kerberos login of the worker"))
        }
        HdfsError::InvalidPath(_) | HdfsError::InvalidArgument(_) | HdfsError::UrlParseError(_) => {
            (Kind::Config, Some("correct store.url"))
        }
        HdfsError::XmlParseError(_) => {
            (Kind::Config, Some("correct core-site.xml and hdfs-site.xml in hadoop.conf.dir"))
        }
        _ => (Kind::Retriable, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::Generic { store: "test", source: source.into() }
    }

    fn rpc(class: &str) -> Error {
        generic(HdfsError::RPCError(class.into(), "text".into()))
    }

    #[test]
    fn every_error_has_its_kind_and_remedy() {
        let missing = |text: &str| Error::NotFound { path: "a".into(), source: text.into() };
        let denied = |text: &str| Error::PermissionDenied { path: "a".into(), source: text.into() };
        let os = |code| generic(io::Error::from_raw_os_error(code));
        let cases = [
            (missing("no such key"), Kind::NotFound, ""),
            (missing("404: <Code>NoSuchBucket</Code>"), Kind::Config, "create it"),
            (Error::AlreadyExists { path: "a".into(), source: "".into() }, Kind::Conflict, ""),
            (denied("<Code>SignatureDoesNotMatch</Code>"), Kind::Config, "store.aws_secret_access_key"),
            (denied("403"), Kind::Config, "permission to list"),
            (generic("GET ?list: 403: <Code>AccessDenied</Code>"), Kind::Config, "permission to list"),
            (generic("GET ?list: 404: <Code>NoSuchBucket</Code>"), Kind::Config, "create it"),
            (generic("GET /NoSuchBucket/SignatureDoesNotMatch: 500"), Kind::Retriable, ""),
            (Error::NotImplemented { operation: "x".into(), implementer: "y".into() }, Kind::Config, "another"),
            (os(28), Kind::Retriable, "the disk is full"),
            (os(13), Kind::Config, "right to read and write"),
            (os(30), Kind::Config, "read-only"),
            (os(5), Kind::Retriable, ""),
            (rpc("org.apache.hadoop.security.AccessControlException"), Kind::Config, "HDFS user"),
            (rpc("org.apache.hadoop.hdfs.server.namenode.SafeModeException"), Kind::Retriable, ""),
            (rpc("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException"), Kind::Retriable, "quota"),
            (generic(HdfsError::NoSASLMechanism), Kind::Config, "Kerberos"),
            (generic("connection refused"), Kind::Retriable, ""),
            (generic("error:0A000086:SSL routines::certificate verify failed"), Kind::Config, "SSL_CERT_FILE"),
        ];
        for (error, kind, remedy) in cases {
            let text = error.to_string();
            let explained = explain("write topics/a", error);
            assert_eq!(explained.kind(), kind, "{text}");
            assert!(explained.message().starts_with("cannot write topics/a: "), "{}", explained.message());
            assert!(explained.message().contains(remedy), "{}", explained.message());
        }
    }

    #[test]
    fn the_first_line_says_it_all_and_nothing_says_xml() {
        let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>The specified bucket does not \
            exist</Message><BucketName>lake</BucketName></Error>";
        let text = format!(
            "Error performing PUT http://s/lake/a in 2ms - Server returned non-2xx status code: 404 Not Found: {body}"
        );
        let error = || Error::NotFound { path: "a".into(), source: text.clone().into() };
        let explained = explain("write a", error());
        let expected = "cannot write a: NoSuchBucket: The specified bucket does not exist (PUT http://s/lake/a: 404 Not \
            Found); there is no such bucket: create it, or correct the bucket in store.url";
        assert_eq!(explained.trace(), expected);
        assert!(words(&error()).starts_with("NoSuchBucket: The specified bucket"), "{}", words(&error()));
    }
}
