//! The Java runtime and how the kit starts it: small heap, serial collector, first compiler tier only.
//!
//! These are test services on machines with few cores; start-up time and footprint count, peak speed does not.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::Launch;
use super::{Error, Missing, Result, provision};

/// Kafka 4 and Hadoop 3.5 both want it.
const OLDEST: u32 = 17;
const REMEDY: &str = "a Java runtime of version 17 or newer, on the PATH or in JAVA_HOME";

#[derive(Debug)]
pub struct Java {
    program: PathBuf,
    /// As the runtime tells it, e.g. `17.0.15`; part of the names of class data archives.
    version: String,
}

/// A main class with its class path and settings, ready to be started.
#[derive(Debug, Clone)]
pub struct Jvm<'a> {
    pub class_path: OsString,
    pub main: &'a str,
    /// `-D...`, `-X...`
    pub options: Vec<OsString>,
    pub max_heap_mb: u32,
}

impl Java {
    /// The machine's Java, looked at once per process.
    pub fn find() -> Result<&'static Java> {
        static JAVA: OnceLock<Result<Java>> = OnceLock::new();
        JAVA.get_or_init(look).as_ref().map_err(Error::clone)
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn launch(&self, jvm: &Jvm<'_>, log: &Path) -> Launch {
        let heap = format!("-Xmx{}m", jvm.max_heap_mb);
        self.launch_with(jvm, log, &["-Xms64m", heap.as_str(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
    }

    /// With the options of Kafka's own start scripts: for measurements, where peak speed counts.
    pub fn launch_as_shipped(&self, jvm: &Jvm<'_>, log: &Path) -> Launch {
        let memory = ["-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"];
        let collector = ["-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"];
        self.launch_with(jvm, log, &[&memory[..], &collector[..]].concat())
    }

    fn launch_with(&self, jvm: &Jvm<'_>, log: &Path, options: &[&str]) -> Launch {
        Launch::new(&self.program, log)
            .args(options)
            .args(["-Djava.net.preferIPv4Stack=true", "-Djava.awt.headless=true"])
            .args(&jvm.options)
            .args([OsString::from("-cp"), jvm.class_path.clone(), jvm.main.into()])
    }
}

fn look() -> Result<Java> {
    let home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let program = match home.filter(|program| program.is_file()) {
        Some(program) => program,
        None => provision::find("java", "the kit", REMEDY)?,
    };
    let told = Command::new(&program).arg("-version").output()?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    // The first quoted word: openjdk version "17.0.15" 2025-04-15
    let version = told.split('"').nth(1).unwrap_or_default().to_owned();
    let major = version.split(['.', '-', '+']).next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST) {
        let purpose = format!("the kit (found {} of version `{version}`)", program.display());
        return Err(Error::Missing(Missing { tool: "java", purpose, remedy: REMEDY }));
    }
    Ok(Java { program, version })
}
