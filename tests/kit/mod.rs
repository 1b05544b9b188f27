//! The kit: real services for tests and for trying the worker by hand.
//!
//! An integration test includes it at the root of its crate (`#[path = "../kit/mod.rs"] mod kit;`) and asks for what it
//! needs: `let kafka = kit::need!(kit::kafka());`. The first asker provisions (jars, binaries and a Python venv under
//! `target/kit`, once per machine) and starts the service; the rest of the process shares it. A test that kills or
//! configures a service starts its own: `Kafka::start(..)`, `S3::start(..)`, `Hdfs::start(..)`; only an owner can stop
//! one.
//!
//! Invariants: everything listens on 127.0.0.1; no service outlives the process that started it, whatever kills that
//! process; every wait has a deadline; a missing toolchain is the one failure that may skip a test (see [`need!`]).
//! The kit uses the standard library only and blocks, so it works inside and outside a runtime. It deliberately knows
//! nothing of the worker, and it is no mock of anything. `README.md` beside this file tells how to use it by hand.

#![allow(clippy::disallowed_methods, reason = "the kit polls the outside world by the wall clock, with deadlines")]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "each including crate uses its own part of the kit"
)]

mod archive;
mod error;
mod java;
mod poll;
mod python;
#[cfg(test)]
mod tests;

pub mod connect;
pub mod hdfs;
pub mod home;
pub mod http;
pub mod kafka;
pub mod process;
pub mod provision;
pub mod proxy;
pub mod s3;

pub use connect::{ConnectOptions, ConnectWorker};
pub use error::{Error, Missing, Result};
pub use hdfs::{Hdfs, HdfsOptions};
pub use home::{Port, instance_dir, run_dir};
pub use kafka::{Kafka, KafkaOptions};
pub use poll::{poll_until, wait_until};
pub use process::{Launch, Process};
pub use python::Python;
pub use s3::{S3, S3Options, S3Server};

use std::sync::OnceLock;

/// The broker that this process shares, started by the first who asks.
pub fn kafka() -> Result<&'static Kafka> {
    static SHARED: OnceLock<Result<Kafka>> = OnceLock::new();
    shared(&SHARED, || Kafka::start(KafkaOptions::default()))
}

/// The S3 server that this process shares. Tests keep apart by their buckets.
pub fn s3() -> Result<&'static S3> {
    static SHARED: OnceLock<Result<S3>> = OnceLock::new();
    shared(&SHARED, || S3::start(S3Options::default()))
}

/// The HDFS that this process shares. Tests keep apart by their folders.
pub fn hdfs() -> Result<&'static Hdfs> {
    static SHARED: OnceLock<Result<Hdfs>> = OnceLock::new();
    shared(&SHARED, || Hdfs::start(HdfsOptions::default()))
}

/// The JVM Connect worker that this process shares, on the shared broker. Tests keep apart by their connectors' names.
pub fn connect_worker() -> Result<&'static ConnectWorker> {
    static SHARED: OnceLock<Result<ConnectWorker>> = OnceLock::new();
    shared(&SHARED, || ConnectWorker::start(ConnectOptions::new(kafka()?.bootstrap())))
}

/// The Python of this machine's kit, with the readers that judge our files.
pub fn python() -> Result<&'static Python> {
    static SHARED: OnceLock<Result<Python>> = OnceLock::new();
    shared(&SHARED, Python::provision)
}

/// Takes what the kit offers out of its `Result`, or ends the test: as skipped, by name, when a toolchain is missing,
/// as failed when anything else is wrong or when `LAKEFERRY_KIT=require` forbids skipping.
///
/// libtest cannot ignore a test that already runs, so a skipped one passes; its name and reason go past the capture.
macro_rules! need {
    ($service:expr) => {
        match $service {
            Ok(service) => service,
            Err(error) => {
                fn here() {}
                $crate::kit::skip_or_fail(::std::any::type_name_of_val(&here), &error);
                return;
            }
        }
    };
}
pub(crate) use need;

/// What [`need!`] does with an error; `test` is the path of a function inside the test.
pub fn skip_or_fail(test: &str, error: &Error) {
    let test = test.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let required = std::env::var("LAKEFERRY_KIT").is_ok_and(|value| value == "require");
    match error {
        Error::Missing(missing) if !required => home::say(&format!("test {test} ... skipped: {missing}")),
        Error::Missing(missing) => panic!("{test} needs the whole kit (LAKEFERRY_KIT=require): {missing}"),
        Error::Failed(why) => panic!("{test}: {why}"),
    }
}

fn shared<T>(cell: &'static OnceLock<Result<T>>, start: impl FnOnce() -> Result<T>) -> Result<&'static T> {
    cell.get_or_init(start).as_ref().map_err(Error::clone)
}
