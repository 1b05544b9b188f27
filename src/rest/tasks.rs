//! `/connectors/{c}/tasks`: the tasks of a connector.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};

use super::Api;
use super::entities::{Json, TaskInfo, TaskState};
use super::error::ApiError;
use super::internal::put_task_configs;
use crate::herder::TaskId;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/connectors/{connector}/tasks", get(list).post(put_task_configs))
        .route("/connectors/{connector}/tasks/{task}/status", get(status))
        .route("/connectors/{connector}/tasks/{task}/restart", post(restart))
}

async fn list(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Vec<TaskInfo>>, ApiError> {
    let tasks = api.within(api.herder.tasks(&name)).await?;
    Ok(Json(tasks.into_iter().map(TaskInfo::from).collect()))
}

async fn status(
    State(api): State<Api>,
    Path((connector, task)): Path<(String, String)>,
) -> Result<Json<TaskState>, ApiError> {
    let number = task_number(&task)?;
    let id = u32::try_from(number).ok().map(|task| TaskId { connector: connector.clone(), task });
    let status = id.and_then(|id| Some((id.task, api.herder.statuses().task(&id)?)));
    let not_found = || ApiError::not_found(format!("No status found for task {connector}-{number}"));
    Ok(Json(status.ok_or_else(not_found)?.into()))
}

async fn restart(
    State(api): State<Api>,
    Path((connector, task)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let number = task_number(&task)?;
    let Ok(task) = u32::try_from(number) else {
        api.within(api.herder.connector(&connector)).await?;
        return Err(ApiError::not_found(format!("Task {connector}-{number} not found")));
    };
    api.within(api.herder.restart_task(TaskId { connector, task })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A path that names no number names nothing.
fn task_number(text: &str) -> Result<i32, ApiError> {
    text.parse().map_err(|_| ApiError::plain(StatusCode::NOT_FOUND))
}
