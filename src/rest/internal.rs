//! What workers of one group ask of each other. A worker by itself has no others and says so.

use axum::Router;
use axum::routing::put;

use super::Api;
use super::body::{self, Body};
use super::error::ApiError;

pub(super) fn router() -> Router<Api> {
    Router::new().route("/connectors/{connector}/fence", put(fence))
}

/// `POST /connectors/{c}/tasks`; its path belongs to `tasks`.
pub(super) async fn put_task_configs(Body(body): Body) -> ApiError {
    match body::array(body, "List<Map<String,String>>", "") {
        Ok(_) => ApiError::internal(
            "Kafka Connect in standalone mode does not support externally setting task configurations.",
        ),
        Err(error) => error,
    }
}

async fn fence() -> ApiError {
    ApiError::internal("Kafka Connect in standalone mode does not support exactly-once source connectors.")
}
