//! The REST API of Kafka Connect. One file a resource, each exporting `router()`; this one merges them.
//!
//! `listener` opens the sockets, `server` serves them, `layers` holds what every request passes, `body` reads requests,
//! `entities` is the wire's JSON and `error` the one status map. Knows the herder's handle and nothing below it: no
//! task, no Kafka.
//!
//! A request: socket, CORS and extra headers, path (trailing slash), route, media types, handler, herder, answer.

mod body;
mod connectors;
mod entities;
mod error;
mod health;
mod internal;
mod layers;
mod listener;
mod loggers;
mod metrics;
mod offsets;
mod plugins;
mod root;
mod server;
mod tasks;
mod topics;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use futures::future::join_all;
use lakeferry_api::{Clock, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::error::ApiError;
use self::layers::Layers;
use self::server::Limits;
use crate::config::rest::RestConfig;
use crate::herder;
use crate::logging::Loggers;
use crate::spawn::{Spawned, spawn, within};

pub use self::listener::Sockets;

/// How long an answer of the herder may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// What the handlers work with.
#[derive(Clone)]
pub struct Api {
    /// Does everything.
    pub herder: herder::Handle,
    /// The Kafka Connect release whose API this is; clients decide by it what they may ask.
    pub version: &'static str,
    /// The id of the Kafka cluster, once it is known.
    pub cluster_id: watch::Receiver<Option<String>>,
    /// The levels of the log.
    pub loggers: Loggers,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The worker's id, `host:port`.
    pub worker_id: String,
}

/// The parameters of a query, in order.
type Pairs = Vec<(String, String)>;

/// Serves the API on `sockets` until `stop` is cancelled, then lets requests under way end.
pub fn serve(sockets: Sockets, api: Api, config: &RestConfig, stop: CancellationToken) -> Spawned<()> {
    let layers = Layers::new(config, Arc::clone(&api.clock));
    let admin = admin_router();
    let (main, on_admin) = match &sockets.admin {
        Some(_) => (main_router(), Some(admin)),
        None => (main_router().merge(admin), None),
    };
    let clock = Arc::clone(&api.clock);
    let main = layers.around(finish(main, &api).merge(metrics::router()), true);
    let mut servers: Vec<_> = sockets.main.into_iter().map(|socket| (socket, main.clone())).collect();
    if let Some(admin) = on_admin {
        let admin = layers.around(finish(admin, &api), false);
        servers.extend(sockets.admin.into_iter().flatten().map(|socket| (socket, admin.clone())));
    }
    spawn("rest", async move {
        let serve =
            |(socket, router)| server::serve(socket, router, Limits::default(), Arc::clone(&clock), stop.clone());
        join_all(servers.into_iter().map(serve)).await;
    })
}

fn main_router() -> Router<Api> {
    Router::new()
        .merge(root::router())
        .merge(health::router())
        .merge(connectors::router())
        .merge(tasks::router())
        .merge(offsets::router())
        .merge(topics::router())
        .merge(plugins::router())
        .merge(internal::router())
}

fn admin_router() -> Router<Api> {
    loggers::router()
}

fn finish(router: Router<Api>, api: &Api) -> Router {
    // A method that a path does not know is refused before its media types are looked at, so that comes after.
    router
        .route_layer(axum::middleware::from_fn(layers::media_types))
        .method_not_allowed_fallback(async || ApiError::plain(StatusCode::METHOD_NOT_ALLOWED))
        .fallback(async || ApiError::plain(StatusCode::NOT_FOUND))
        .with_state(api.clone())
}

impl Api {
    /// The herder's answer, or what is said where it takes too long.
    async fn within<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T, ApiError> {
        match within(REQUEST_TIMEOUT, self.clock.as_ref(), answer).await {
            Some(result) => result.map_err(ApiError::from),
            None => Err(ApiError::internal("Request timed out")),
        }
    }

    /// The URL that the client used for this worker, with a slash at its end.
    fn base_url(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(&self.worker_id);
        format!("http://{host}/")
    }
}

/// The first value of a query parameter.
fn parameter<'a>(query: &'a Pairs, name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A boolean query parameter: whatever is not `true` is false, nothing is `default`.
fn flag(query: &Pairs, name: &str, default: bool) -> bool {
    match parameter(query, name) {
        None | Some("") => default,
        Some(value) => value.eq_ignore_ascii_case("true"),
    }
}

/// `name` as one segment of a URL's path.
fn segment(name: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
    let letter = |byte: u8| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_one_segment() {
        assert_eq!(segment("a b/c%d;ü&'"), "a%20b%2Fc%25d;%C3%BC&'");
    }

    #[test]
    fn only_true_is_true() {
        let query = |value: &str| vec![("f".to_owned(), value.to_owned()), ("f".to_owned(), "true".to_owned())];
        let cases = [("TRUE", true), ("true", true), ("bogus", false), ("1", false)];
        for (value, expected) in cases {
            assert_eq!(flag(&query(value), "f", !expected), expected, "{value}");
        }
        assert!(flag(&query(""), "f", true) && !flag(&query(""), "f", false));
        assert!(flag(&Vec::new(), "f", true));
    }
}
