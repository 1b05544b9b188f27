//! `/connectors/{c}/topics`: which topics a connector has used (KIP-558).

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use serde_json::Value;

use super::Api;
use super::entities::{self, Json};
use super::error::ApiError;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/connectors/{connector}/topics", get(active_topics))
        .route("/connectors/{connector}/topics/reset", put(reset))
}

async fn active_topics(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    check_tracking(&api)?;
    Ok(Json(entities::active_topics(&name, api.herder.statuses().topics(&name))))
}

async fn reset(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    check_tracking(&api)?;
    if !api.herder.worker().topic_tracking_allow_reset {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "Topic tracking reset is disabled."));
    }
    api.herder.statuses().reset_topics(&name);
    Ok(StatusCode::ACCEPTED)
}

fn check_tracking(api: &Api) -> Result<(), ApiError> {
    if api.herder.worker().topic_tracking_enable {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, "Topic tracking is disabled."))
}
