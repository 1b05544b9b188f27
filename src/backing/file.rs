//! Source offsets in one file, `offset.storage.file.filename` of a standalone worker: a JSON document of our own with
//! the same keys and values as the records of Connect's offsets topic.
//!
//! Invariants: the file is whole at every moment (written beside, fsynced, renamed, directory fsynced), so a crash
//! leaves the old or the new offsets; a file that this code cannot read to its last byte is refused and never written
//! over; one process at a time has it open. All file work happens on threads that may block.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use lakeferry_api::error::Context as _;
use lakeferry_api::{ConnectError, Kind, Result, SourceOffset, SourcePartition};
use serde_json::Value;

use super::records::{offset_key, offset_value, parse_offset_key, parse_offset_value};
use super::{OffsetLog, SourceOffsets};

const FORMAT: &str = "lakeferry.offsets";
const VERSION: u64 = 1;
/// A larger file is not read: it would be millions of offsets.
const LIMIT_BYTES: u64 = 1 << 30;
/// How a file of Java's serialisation begins.
const JAVA_SERIALISED: &[u8] = &[0xAC, 0xED];

/// Source offsets in a file.
#[derive(Debug)]
pub struct FileOffsetLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    offsets: RwLock<Arc<Offsets>>,
    /// Held (by a blocking thread) while the file is replaced.
    writer: Mutex<()>,
    /// Locked as long as the log lives.
    _lock: File,
}

type Offsets = std::collections::BTreeMap<String, SourceOffsets>;
type Change = Vec<(SourcePartition, Option<SourceOffset>)>;

impl FileOffsetLog {
    /// Opens the offsets at `path`; a missing or empty file has none.
    ///
    /// # Errors
    /// `Config` where the file is damaged, is not ours, is open in another worker, or its directory cannot be written.
    pub async fn open(path: PathBuf) -> Result<Self> {
        let inner = blocking(move || {
            let lock = lock(&path)?;
            let offsets = RwLock::new(Arc::new(load(&path)?));
            Ok(Inner { path, offsets, writer: Mutex::new(()), _lock: lock })
        })
        .await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    fn offsets(&self) -> Arc<Offsets> {
        Arc::clone(&self.inner.offsets.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl OffsetLog for FileOffsetLog {
    async fn get(&self, connector: &str, partition: &SourcePartition) -> Result<Option<SourceOffset>> {
        Ok(self.offsets().get(connector).and_then(|offsets| offsets.get(partition)).cloned())
    }

    async fn all(&self, connector: &str) -> Result<SourceOffsets> {
        Ok(self.offsets().get(connector).cloned().unwrap_or_default())
    }

    async fn put(&self, connector: &str, offsets: &[(SourcePartition, Option<SourceOffset>)]) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let (inner, connector, change) = (Arc::clone(&self.inner), connector.to_owned(), offsets.to_vec());
        blocking(move || inner.put(&connector, change)).await
    }
}

impl Inner {
    fn put(&self, connector: &str, change: Change) -> Result<()> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offsets = Offsets::clone(&self.offsets.read().unwrap_or_else(PoisonError::into_inner));
        let of_connector = offsets.entry(connector.to_owned()).or_default();
        for (partition, offset) in change {
            match offset {
                Some(offset) => of_connector.insert(partition, offset),
                None => of_connector.remove(&partition),
            };
        }
        if of_connector.is_empty() {
            offsets.remove(connector);
        }
        replace(&self.path, encode(&offsets).as_bytes())
            .context(Kind::Retriable, || format!("cannot write the source offsets to {}", self.path.display()))?;
        *self.offsets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(offsets);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ConnectError::fatal("the offset file's thread ended").caused_by(error)))
}

/// Takes the lock file beside `path`. Two workers on one file would write over each other's offsets.
fn lock(path: &Path) -> Result<File> {
    let beside = sibling(path, "lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&beside).context(Kind::Config, || {
        format!(
            "cannot write {}: offset.storage.file.filename must name a file in a directory that exists and that the \
             worker may write to",
            beside.display()
        )
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ConnectError::config(format!(
            "the source offsets in {} are in use by another worker; give each worker its own \
             offset.storage.file.filename",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(ConnectError::config(format!("cannot lock {}", beside.display())).caused_by(error))
        }
    }
}

fn load(path: &Path) -> Result<Offsets> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes)) {
        Ok(0) => return Ok(Offsets::new()),
        Ok(length) if length as u64 > LIMIT_BYTES => {
            let message = format!("offset.storage.file.filename={} has more than {LIMIT_BYTES} bytes", path.display());
            return Err(ConnectError::config(message));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Offsets::new()),
        Err(error) => {
            let message = format!("cannot read offset.storage.file.filename={}", path.display());
            return Err(ConnectError::config(message).caused_by(error));
        }
    }
    if bytes.starts_with(JAVA_SERIALISED) {
        return Err(ConnectError::config(format!(
            "{} holds a serialised Java map: it was written by a Java worker and has no portable form. Name another \
             file in offset.storage.file.filename and set the offsets through PATCH /connectors/<name>/offsets",
            path.display()
        )));
    }
    decode(&bytes).map_err(|error| {
        error.context(format!(
            "the source offsets in {} are damaged or not ours, and are left as they are; restore the file from a \
             copy, or move it away to begin without offsets",
            path.display()
        ))
    })
}

fn decode(bytes: &[u8]) -> Result<Offsets> {
    let invalid = |what: String| ConnectError::config(what);
    let mut document: Value = serde_json::from_slice(bytes).context(Kind::Config, || "not JSON".to_owned())?;
    if document["format"] != FORMAT || document["version"] != VERSION {
        let (format, version) = (&document["format"], &document["version"]);
        return Err(invalid(format!("format {format} version {version}, expected \"{FORMAT}\" version {VERSION}")));
    }
    let Value::Array(entries) = document["offsets"].take() else {
        return Err(invalid("\"offsets\" is not a list".to_owned()));
    };
    let mut offsets = Offsets::new();
    for entry in entries {
        let [key, value] = pair(entry)?;
        let (connector, partition) = parse_offset_key(&key).map_err(|error| invalid(error.trace()))?;
        let offset = parse_offset_value(value).map_err(|error| invalid(error.trace()))?;
        if offsets.entry(connector).or_default().insert(partition, offset).is_some() {
            return Err(invalid(format!("{key} stands twice")));
        }
    }
    Ok(offsets)
}

fn pair(entry: Value) -> Result<[Value; 2]> {
    let not_a_pair = |entry: Value| ConnectError::config(format!("{entry} is not a pair of key and value"));
    match entry {
        Value::Array(items) => <[Value; 2]>::try_from(items).map_err(|items| not_a_pair(Value::Array(items))),
        other => Err(not_a_pair(other)),
    }
}

/// One line an offset, so that people and `diff` can read it.
fn encode(offsets: &Offsets) -> String {
    let mut text = format!("{{\"format\":\"{FORMAT}\",\"version\":{VERSION},\"offsets\":[");
    let mut separator = "\n";
    for (connector, partitions) in offsets {
        for (partition, offset) in partitions {
            text.push_str(separator);
            text.push_str(&format!("[{},{}]", offset_key(connector, partition), offset_value(offset)));
            separator = ",\n";
        }
    }
    text.push_str("\n]}\n");
    text
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = sibling(path, "tmp");
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to tell; what is left of the file is written over next time.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests;
