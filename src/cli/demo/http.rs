//! The demo's side of the worker's REST API: one JSON request, one answer.

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Status and body of `GET http://<address><path>`.
pub(super) async fn get(address: &str, path: &str) -> anyhow::Result<(u16, Value)> {
    request(Method::GET, address, path, Bytes::new()).await
}

/// Status and body of a `POST` of `body`.
pub(super) async fn post(address: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    request(Method::POST, address, path, Bytes::from(body.to_string())).await
}

async fn request(method: Method, address: &str, path: &str, body: Bytes) -> anyhow::Result<(u16, Value)> {
    let url = format!("http://{address}{path}");
    let request = Request::builder()
        .method(method)
        .uri(&url)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.with_context(|| url.clone())?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.with_context(|| url.clone())?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
