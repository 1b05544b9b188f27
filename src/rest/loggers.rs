//! `/admin/loggers`: the levels of the log, shown and changed while the worker runs.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::body::{self, Body};
use super::entities::{Json, LoggerLevel};
use super::error::ApiError;
use super::{Api, Pairs, parameter};
use crate::logging::Level;

pub(super) fn router() -> Router<Api> {
    Router::new().route("/admin/loggers", get(list)).route("/admin/loggers/{logger}", get(show).put(set))
}

async fn list(State(api): State<Api>) -> Json<BTreeMap<String, LoggerLevel>> {
    Json(api.loggers.all().into_iter().map(|(name, logger)| (name, logger.into())).collect())
}

async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<LoggerLevel>, ApiError> {
    let logger = api.loggers.get(&name).ok_or_else(|| ApiError::not_found(format!("Logger {name} not found.")))?;
    Ok(Json(logger.into()))
}

/// A change for the whole cluster is one for this worker: there is no other.
async fn set(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Pairs>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let body = body::text_map(body, "")?;
    let mut body = body.ok_or_else(|| ApiError::internal("Cannot read the level: the body is empty"))?;
    let level = body.remove("level").flatten();
    let level =
        level.ok_or_else(|| ApiError::bad_request("Desired 'level' parameter was not specified in request."))?;
    let parsed: Level = level.parse().map_err(|()| ApiError::not_found(format!("invalid log level '{level}'.")))?;
    let changed = api.loggers.set(&name, parsed, api.clock.now_ms());
    if parameter(&query, "scope").is_some_and(|scope| scope.eq_ignore_ascii_case("cluster")) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(changed).into_response())
}
