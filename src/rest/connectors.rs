//! `/connectors` and `/connectors/{c}`: create, show, configure, pause, resume, stop, restart, delete.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use lakeferry_api::Config;
use serde_json::{Map, Value, json};

use super::body::{self, Body, TextMap};
use super::entities::{ConnectorInfo, ConnectorStateInfo, Json};
use super::error::ApiError;
use super::{Api, Pairs, flag, segment};
use crate::herder::{self, Created, RestartRequest, TargetState};

const NO_CONFIG: &str = "Cannot read the connector's config: the body has none; send a flat JSON object of settings";

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/connectors", get(list).post(create))
        .route("/connectors/{connector}", get(info).delete(delete))
        .route("/connectors/{connector}/config", get(config).put(put_config).patch(patch_config))
        .route("/connectors/{connector}/status", get(status))
        .route("/connectors/{connector}/pause", put(pause))
        .route("/connectors/{connector}/resume", put(resume))
        .route("/connectors/{connector}/stop", put(stop))
        .route("/connectors/{connector}/restart", post(restart))
}

async fn list(State(api): State<Api>, Query(query): Query<Pairs>) -> Result<Json<Value>, ApiError> {
    let expand: Vec<&str> = query.iter().filter(|(key, _)| key == "expand").map(|(_, value)| value.as_str()).collect();
    let connectors = api.within(api.herder.connectors()).await?;
    if expand.is_empty() {
        return Ok(Json(json!(connectors.iter().map(|info| &info.name).collect::<Vec<_>>())));
    }
    let expanded = connectors.into_iter().filter_map(|info| expanded(&api, info, &expand));
    Ok(Json(Value::Object(expanded.collect())))
}

/// What was asked of one connector; `None` where its status is wanted and it has none (yet, or any more).
fn expanded(api: &Api, info: herder::ConnectorInfo, expand: &[&str]) -> Option<(String, Value)> {
    let (name, kind) = (info.name.clone(), info.kind);
    let mut parts = Map::new();
    if expand.contains(&"status") {
        let status = api.herder.statuses().connector(&name)?;
        parts.insert("status".to_owned(), json!(ConnectorStateInfo::new(&name, status, kind)));
    }
    if expand.contains(&"info") {
        parts.insert("info".to_owned(), json!(ConnectorInfo::from(info)));
    }
    Some((name, Value::Object(parts)))
}

async fn create(State(api): State<Api>, headers: HeaderMap, Body(body): Body) -> Result<Response, ApiError> {
    let request = CreateRequest::new(body)?;
    let config = named(&request.name, request.config)?;
    let created = api.within(api.herder.create(&request.name, config, request.target)).await?;
    Ok(answer_created(&api, &headers, created))
}

struct CreateRequest {
    name: String,
    config: TextMap,
    target: TargetState,
}

impl CreateRequest {
    fn new(body: Value) -> Result<Self, ApiError> {
        const WHAT: &str = "CreateConnectorRequest";
        if body.is_null() {
            return Err(ApiError::internal("Cannot read the new connector: the body is empty"));
        }
        let mut body = body::object(body, WHAT, "")?;
        body::known_fields(&body, WHAT, &["name", "config", "initial_state"])?;
        let mut take = |field: &str| body.remove(field).unwrap_or(Value::Null);
        let name = body::text(take("name"), "name")?.unwrap_or_default();
        // As Java trims: other white space than ASCII's is part of the name, and validation looks at it.
        let name = name.trim_matches(|letter| letter <= ' ').to_owned();
        let config = body::text_map(take("config"), "config")?;
        let target = body::text(take("initial_state"), "initial_state")?;
        let target = target.map_or(Ok(TargetState::Started), |state| initial_state(&state))?;
        Ok(Self { name, config: config.ok_or_else(|| ApiError::internal(NO_CONFIG))?, target })
    }
}

fn initial_state(name: &str) -> Result<TargetState, ApiError> {
    TargetState::from_initial_state(name).ok_or_else(|| {
        ApiError::internal(format!(
            "Cannot construct instance of `InitialState`, problem: there is no '{name}'; write RUNNING, PAUSED or \
             STOPPED (through reference chain: initial_state)"
        ))
    })
}

/// The config of the connector `name`, which it must not contradict.
fn named(name: &str, mut config: TextMap) -> Result<Config, ApiError> {
    if let Some(Some(given)) = config.get("name").filter(|given| given.as_deref() != Some(name)) {
        return Err(ApiError::bad_request(format!(
            "Connector name configuration ({given}) doesn't match connector name in the URL ({name})"
        )));
    }
    config.insert("name".to_owned(), Some(name.to_owned()));
    // A class that is null is one that is missing, and validation says so.
    if config.get("connector.class") == Some(&None) {
        config.remove("connector.class");
    }
    without_nulls(config)
}

/// A null would be kept and make the connector fail later; it is refused while somebody listens.
fn without_nulls(config: TextMap) -> Result<Config, ApiError> {
    let nulls: Vec<_> = config.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.clone()).collect();
    if nulls.is_empty() {
        return Ok(config.into_iter().filter_map(|(key, value)| Some((key, value?))).collect());
    }
    let line = |key| format!("Invalid value null for configuration {key}: leave the key out, or give it a value");
    let lines: Vec<_> = nulls.iter().map(line).collect();
    Err(ApiError::bad_request(format!(
        "Connector configuration is invalid and contains the following {} error(s):\n{}",
        nulls.len(),
        lines.join("\n")
    )))
}

async fn info(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<ConnectorInfo>, ApiError> {
    Ok(Json(api.within(api.herder.connector(&name)).await?.into()))
}

async fn config(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Config>, ApiError> {
    Ok(Json(api.within(api.herder.connector(&name)).await?.config))
}

async fn put_config(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let config = body::text_map(body, "")?.ok_or_else(|| ApiError::internal(NO_CONFIG))?;
    let created = api.within(api.herder.put_config(&name, named(&name, config)?)).await?;
    Ok(answer_created(&api, &headers, created))
}

async fn patch_config(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Result<Json<ConnectorInfo>, ApiError> {
    let patch = body::text_map(body, "")?;
    api.within(api.herder.connector(&name)).await?;
    let patch = patch.ok_or_else(|| ApiError::internal("Cannot read the patch: the body is empty"))?;
    Ok(Json(api.within(api.herder.patch_config(&name, &patch)).await?.info.into()))
}

async fn status(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<ConnectorStateInfo>, ApiError> {
    let status = api.herder.statuses().connector(&name);
    let status = status.ok_or_else(|| ApiError::not_found(format!("No status found for connector {name}")))?;
    let kind = api.within(api.herder.kind(&name)).await?;
    Ok(Json(ConnectorStateInfo::new(&name, status, kind)))
}

async fn pause(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.within(api.herder.set_target(&name, TargetState::Paused)).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn resume(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.within(api.herder.set_target(&name, TargetState::Started)).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn stop(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.within(api.herder.set_target(&name, TargetState::Stopped)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Pairs>,
) -> Result<Response, ApiError> {
    let (include_tasks, only_failed) = (flag(&query, "includeTasks", false), flag(&query, "onlyFailed", false));
    if !include_tasks && !only_failed {
        api.within(api.herder.restart_connector(&name)).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let status = api.within(api.herder.restart(&name, RestartRequest { include_tasks, only_failed })).await?;
    let kind = api.within(api.herder.kind(&name)).await?;
    Ok((StatusCode::ACCEPTED, Json(ConnectorStateInfo::new(&name, status, kind))).into_response())
}

async fn delete(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.within(api.herder.delete(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn answer_created(api: &Api, headers: &HeaderMap, created: Created) -> Response {
    let location = format!("{}connectors/{}", api.base_url(headers), segment(&created.info.name));
    let body = Json(ConnectorInfo::from(created.info));
    if created.created {
        (StatusCode::CREATED, [(header::LOCATION, location)], body).into_response()
    } else {
        body.into_response()
    }
}
