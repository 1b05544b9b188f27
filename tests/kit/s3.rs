//! An S3 server with conditional puts: versitygw over a plain folder, or MinIO on request.
//!
//! A folder under `root()` is a bucket; with versitygw an object is a file in it, so a test can look at objects,
//! damage them and remove them behind the server's back. Ports, root and credentials survive kill and restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::home::{self, Port};
use super::process::{Launch, Process};
use super::{Error, Result, http, provision};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Which program serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum S3Server {
    /// Objects are plain files. Has no keys `a` and `a/b` side by side.
    #[default]
    Versitygw,
    /// True flat keys, the quicker data path; for load and for peers that expect it. A long build.
    Minio,
}

#[derive(Debug, Clone, Default)]
pub struct S3Options {
    pub server: S3Server,
    /// Keeps old versions of objects where a bucket asks for it (versitygw; MinIO always can).
    pub versioning: bool,
    /// Speaks TLS, with the key and the certificates that this PEM file holds (versitygw).
    pub tls: Option<PathBuf>,
}

#[derive(Debug)]
pub struct S3 {
    server: S3Server,
    program: PathBuf,
    dir: PathBuf,
    port: Port,
    versioning: bool,
    tls: Option<PathBuf>,
    process: Option<Process>,
}

impl S3 {
    pub const REGION: &'static str = "us-east-1";
    pub const ACCESS_KEY: &'static str = "lakeferry";
    pub const SECRET_KEY: &'static str = "lakeferry-secret";

    /// A server of one's own, ready for clients, without buckets. It ends when the value is dropped.
    pub fn start(options: S3Options) -> Result<S3> {
        let program = match options.server {
            S3Server::Versitygw => {
                provision::go_program("versitygw-1.8.0", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
            }
            S3Server::Minio => {
                let version = "v0.0.0-20260212201848-7aac2a2c5b7c";
                provision::go_program("minio-20260212", "github.com/minio/minio", version)
            }
        }?;
        let dir = home::instance_dir("s3")?;
        let S3Options { server, versioning, tls } = options;
        let mut s3 = S3 { server, program, dir, port: Port::claim()?, versioning, tls, process: None };
        fs::create_dir_all(s3.root())?;
        fs::create_dir_all(s3.versions())?;
        s3.restart()?;
        Ok(s3)
    }

    /// `http://127.0.0.1:port`, with TLS `https://`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The folder whose folders are the buckets.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Makes a bucket, and says where its objects are (as plain files, if the server is versitygw).
    pub fn create_bucket(&self, name: &str) -> Result<PathBuf> {
        let bucket = self.root().join(name);
        fs::create_dir(&bucket).map_err(|error| Error::failed(format!("bucket {name}: {error}")))?;
        Ok(bucket)
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL, and gone when this returns. Port and objects stay.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and gone when this returns.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.terminate(STOP_LIMIT))
    }

    /// Starts the server, unless it runs, on its old port and objects.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let (launch, ready) = match self.server {
            S3Server::Versitygw => (self.versitygw(), "/health"),
            S3Server::Minio => (self.minio(), "/minio/health/ready"),
        };
        let (address, is_secret) = (self.address(), self.tls.is_some());
        // The kit does not speak TLS: whoever takes connections is taken for ready.
        let is_ready = || if is_secret { http::connect(&address).is_ok() } else { http::is_ok(&address, ready) };
        let process = self.process.insert(launch.start()?);
        process.wait_ready(&format!("S3 at {address}"), START_LIMIT, is_ready)
    }

    fn versitygw(&self) -> Launch {
        let launch = Launch::new(&self.program, self.log())
            .env("ROOT_ACCESS_KEY_ID", S3::ACCESS_KEY)
            .env("ROOT_SECRET_ACCESS_KEY", S3::SECRET_KEY)
            .args(["-q", "--port", &self.address(), "--health", "/health"]);
        let launch = match &self.tls {
            Some(pem) => launch.args([Path::new("--cert"), pem, Path::new("--key"), pem]),
            None => launch,
        };
        let launch = launch.args(["posix"]);
        let launch =
            if self.versioning { launch.args([Path::new("--versioning-dir"), &self.versions()]) } else { launch };
        launch.args([self.root()])
    }

    fn minio(&self) -> Launch {
        Launch::new(&self.program, self.log())
            .env("MINIO_ROOT_USER", S3::ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", S3::SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .args(["server", "--quiet", "--address", &self.address()])
            .args([self.root()])
    }

    fn versions(&self) -> PathBuf {
        self.dir.join("versions")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            // The logs stay. A leftover is swept with its run.
            let _ = fs::remove_dir_all(self.root());
            let _ = fs::remove_dir_all(self.versions());
        }
    }
}
