//! Class data archives (AppCDS): a JVM that maps its classes instead of loading them starts in half the time.
//!
//! An archive is written by a JVM that ends in good order, so it is recorded once, by a service started for that
//! purpose when the jars are provisioned. It is only ever an optimisation: a JVM to which it does not fit ignores it,
//! and a machine on which it cannot be recorded goes on without.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::Result;
use super::home::{self, say};
use super::java::Java;

/// The archive of one program, named by the runtime that it fits.
#[derive(Debug, Clone)]
pub struct Archive {
    name: String,
    file: PathBuf,
}

impl Archive {
    /// `<folder>/cds/<name>-<java version>.jsa`; it goes when the jars' folder is made anew.
    pub fn new(folder: &Path, name: &str, java: &Java) -> Archive {
        let file = folder.join("cds").join(format!("{name}-{}.jsa", java.version()));
        Archive { name: name.to_owned(), file }
    }

    /// The options with which a JVM uses the archive, if there is one.
    pub fn options(&self) -> Vec<OsString> {
        if fs::metadata(&self.file).map_or(0, |file| file.len()) == 0 {
            return Vec::new();
        }
        vec![option("-XX:SharedArchiveFile=", &self.file), "-Xlog:cds*=off".into()]
    }

    /// Records the archive unless that was done or tried before. `train` gets the options of the JVM that writes it,
    /// and returns when that JVM has ended. An empty file says: tried, does not work here.
    pub fn record(&self, train: impl FnOnce(Vec<OsString>) -> Result<()>) -> Result<()> {
        if self.file.exists() {
            return Ok(());
        }
        let _one_at_a_time = home::lock(&format!("cds-{}", self.name))?;
        if self.file.exists() {
            return Ok(());
        }
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let fresh = self.file.with_extension("part");
        let trained = train(vec![option("-XX:ArchiveClassesAtExit=", &fresh), "-Xlog:cds*=off".into()]);
        let written = trained.and_then(|()| Ok(fs::rename(&fresh, &self.file)?));
        if let Err(error) = written {
            say(&format!("kit: no class data archive {} ({error}); services start slower", self.file.display()));
            fs::write(&self.file, "")?;
        }
        Ok(())
    }
}

fn option(flag: &str, file: &Path) -> OsString {
    let mut option = OsString::from(flag);
    option.push(file);
    option
}
