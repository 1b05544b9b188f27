//! `GET /`: what answers here.

use axum::Router;
use axum::extract::State;
use axum::routing::get;

use super::Api;
use super::entities::{Json, ServerInfo};

pub(super) fn router() -> Router<Api> {
    Router::new().route("/", get(server_info))
}

async fn server_info(State(api): State<Api>) -> Json<ServerInfo> {
    Json(ServerInfo {
        version: api.version,
        commit: format!("lakeferry-{}", env!("CARGO_PKG_VERSION")),
        kafka_cluster_id: api.cluster_id.borrow().clone(),
    })
}
