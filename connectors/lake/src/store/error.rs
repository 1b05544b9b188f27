//! What a store's error means for the worker: the one mapping from `object_store::Error` to a [`ConnectError`].
//!
//! Called wherever the lake talks to a store. Invariant: the message says what was being done, to which object, and
//! the remedy where the user has one; wrong settings are `Config`, whatever may pass is `Retriable`, and an absent
//! object is `NotFound`. It never says "absent" of an error: only [`object_store::Error::NotFound`] is.

use std::error::Error as StdError;
use std::io;

use hdfs_native::HdfsError;
use lakeferry_api::{ConnectError, Kind};
use object_store::Error;

/// The error of `doing` (for example "list topics/orders") in the worker's terms.
pub fn explain(doing: &str, error: Error) -> ConnectError {
    let (kind, remedy) = classify(&error);
    let message = match remedy {
        Some(remedy) => format!("cannot {doing}: {error}; {remedy}"),
        None => format!("cannot {doing}: {error}"),
    };
    ConnectError::new(kind, message).caused_by(error)
}

fn classify(error: &Error) -> (Kind, Option<String>) {
    match error {
        Error::NotFound { source, .. } if source.to_string().contains("NoSuchBucket") => {
            (Kind::Config, Some("there is no such bucket: create it, or correct the bucket in store.url".into()))
        }
        Error::NotFound { .. } => (Kind::NotFound, None),
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => (Kind::Conflict, None),
        Error::PermissionDenied { source, .. } => (Kind::Config, Some(permission_remedy(&source.to_string()))),
        Error::Unauthenticated { .. } => (Kind::Config, Some("check the credentials in store.<option>".into())),
        Error::NotImplemented { .. } | Error::NotSupported { .. } => {
            (Kind::Config, Some("this store lacks what an archive needs; use another one".into()))
        }
        Error::UnknownConfigurationKey { .. } | Error::InvalidPath { .. } => {
            (Kind::Config, Some("correct store.url or store.<option>".into()))
        }
        Error::Generic { source, .. } => classify_cause(&**source),
        _ => (Kind::Retriable, None),
    }
}

/// S3 answers 403 for wrong keys, for a missing permission, and, where listing is not allowed, for an absent object.
fn permission_remedy(text: &str) -> String {
    let wrong_keys = ["SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken"];
    if wrong_keys.iter().any(|code| text.contains(code)) {
        return "check store.aws_access_key_id, store.aws_secret_access_key and store.aws_session_token".into();
    }
    "check the credentials in store.<option>, and that they may get, put, delete and list here (without the permission \
     to list, S3 answers 403 for an object that does not exist)"
        .into()
}

fn classify_cause(mut cause: &(dyn StdError + 'static)) -> (Kind, Option<String>) {
    loop {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return classify_io(error);
        }
        if let Some(error) = cause.downcast_ref::<HdfsError>() {
            return classify_hdfs(error);
        }
        match cause.source() {
            Some(deeper) => cause = deeper,
            None => return (Kind::Retriable, None),
        }
    }
}

fn classify_io(error: &io::Error) -> (Kind, Option<String>) {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Kind::Retriable, Some("the disk is full: free space there, the archive goes on by itself".into()))
        }
        io::ErrorKind::PermissionDenied => {
            (Kind::Config, Some("give the worker's user the right to read and write there".into()))
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            (Kind::Config, Some("the file system is mounted read-only: mount it for writing".into()))
        }
        io::ErrorKind::NotADirectory => {
            (Kind::Config, Some("a file stands where a folder should: move it away".into()))
        }
        _ => (Kind::Retriable, None),
    }
}

fn classify_hdfs(error: &HdfsError) -> (Kind, Option<String>) {
    match error {
        HdfsError::IOError(error) => classify_io(error),
        HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _) => match class.rsplit(['.', '$']).next() {
            Some("AccessControlException" | "AuthorizationException") => {
                (Kind::Config, Some("give the worker's HDFS user the right to read and write there".into()))
            }
            Some("QuotaExceededException" | "NSQuotaExceededException" | "DSQuotaExceededException") => {
                (Kind::Retriable, Some("the HDFS quota is used up: raise it, the archive goes on by itself".into()))
            }
            _ => (Kind::Retriable, None),
        },
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            (Kind::Config, Some("check the Kerberos login of the worker".into()))
        }
        HdfsError::InvalidPath(_) | HdfsError::InvalidArgument(_) | HdfsError::UrlParseError(_) => {
            (Kind::Config, Some("correct store.url".into()))
        }
        HdfsError::XmlParseError(_) => {
            (Kind::Config, Some("correct core-site.xml and hdfs-site.xml in hadoop.conf.dir".into()))
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
        ];
        for (error, kind, remedy) in cases {
            let text = error.to_string();
            let explained = explain("write topics/a", error);
            assert_eq!(explained.kind(), kind, "{text}");
            assert!(explained.message().starts_with("cannot write topics/a: "), "{}", explained.message());
            assert!(explained.message().contains(remedy), "{}", explained.message());
        }
    }
}
