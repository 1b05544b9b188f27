//! `GET /metrics`: what was counted, as Prometheus reads it. Connect has no such path, so its rules for media types,
//! which know JSON alone, do not hold here.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use super::error::ApiError;
use crate::metrics;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn router() -> Router {
    Router::new()
        .route("/metrics", get(async || ([(header::CONTENT_TYPE, TEXT)], metrics::text())))
        .method_not_allowed_fallback(async || ApiError::plain(StatusCode::METHOD_NOT_ALLOWED))
}
