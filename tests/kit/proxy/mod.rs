//! Proxies between the worker and a service, for faults that a service does not make by itself.
//!
//! `HttpProxy` understands requests (S3, WebHDFS, a REST API): it counts them and can hold, answer or cut those that a
//! test names. `TcpProxy` understands nothing and looks for bytes (HDFS RPC). Both can refuse connections for a while.
//! A fault strikes a request that a test describes, never "after some time": tests with them are as exact as without.

mod front;
mod http;
mod message;
mod tcp;
#[cfg(test)]
mod tests;

pub use http::{Fault, HttpProxy, HttpRequest, Strike};
pub use tcp::{Cut, TcpProxy};
