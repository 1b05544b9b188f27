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
        vec![option("-XX:SharedArchiveFile=", &self.file), quiet()]
    }

    /// Records the archives of programs that run together, unless that was done or tried before. `train` gets for each
    /// the options of the JVM that writes it, and returns when these JVMs have ended. An empty file says: tried twice,
    /// does not work here.
    pub fn record<const N: usize>(
        archives: [&Archive; N],
        train: impl Fn([Vec<OsString>; N]) -> Result<()>,
    ) -> Result<()> {
        let [first, ..] = archives.as_slice() else { return Ok(()) };
        let all_there = || archives.iter().all(|archive| archive.file.exists());
        if all_there() {
            return Ok(());
        }
        let _one_at_a_time = home::lock(&format!("cds-{}", first.name))?;
        if all_there() {
            return Ok(());
        }
        say(&format!(
            "kit: recording class data of {} (once)",
            archives.map(|archive| archive.name.as_str()).join(", ")
        ));
        if let Some(folder) = first.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let try_once = || {
            let options = |archive: &Archive| vec![option("-XX:ArchiveClassesAtExit=", &archive.part()), quiet()];
            train(archives.map(options))
        };
        // A JVM that did not end in good order may do so the next time.
        let trained = try_once().or_else(|_| try_once());
        if let Err(error) = &trained {
            say(&format!("kit: no class data archives, services start slower: {error}"));
        }
        for archive in archives {
            let kept = trained.is_ok() && fs::rename(archive.part(), &archive.file).is_ok();
            if !kept {
                fs::write(&archive.file, "")?;
            }
        }
        Ok(())
    }

    fn part(&self) -> PathBuf {
        self.file.with_extension("part")
    }
}

/// An archive that does not fit is no news.
fn quiet() -> OsString {
    "-Xlog:cds*=off".into()
}

fn option(flag: &str, file: &Path) -> OsString {
    let mut option = OsString::from(flag);
    option.push(file);
    option
}
