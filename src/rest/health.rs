//! `GET /health` (KIP-1017): does the herder's loop answer?

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::Api;
use super::entities::{Json, WorkerStatus};
use crate::spawn::within;

/// How long the loop may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn router() -> Router<Api> {
    Router::new().route("/health", get(health))
}

async fn health(State(api): State<Api>) -> (StatusCode, Json<WorkerStatus>) {
    let (code, status, message) = match within(TIMEOUT, api.clock.as_ref(), api.herder.ping()).await {
        Some(Ok(())) => (StatusCode::OK, "healthy", "Worker has completed startup and is ready to handle requests."),
        _ if !api.herder.is_ready() => (StatusCode::SERVICE_UNAVAILABLE, "starting", "Worker is still starting up."),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "unhealthy",
            "Worker was unable to handle this request and may be unable to handle other requests.",
        ),
    };
    (code, Json(WorkerStatus { status, message }))
}
