//! The JSON that goes over the wire, one shape a type; made from what the herder answers. Knows no request.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use lakeferry_api::Config;
use lakeferry_api::config_def::{ConfigKey, ConfigValue, Default as KeyDefault};
use lakeferry_api::connector::ConnectorType;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::catalog::Plugin;
use crate::herder::TaskId;
use crate::herder::validate::Validation;
use crate::herder::{self, ConnectorStatus, Status};
use crate::logging;

/// A JSON response.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// What `GET /` says.
#[derive(Serialize)]
pub(super) struct ServerInfo {
    pub(super) version: &'static str,
    pub(super) commit: String,
    pub(super) kafka_cluster_id: Option<String>,
}

/// What `GET /health` says.
#[derive(Serialize)]
pub(super) struct WorkerStatus {
    pub(super) status: &'static str,
    pub(super) message: &'static str,
}

/// A connector.
#[derive(Serialize)]
pub(super) struct ConnectorInfo {
    name: String,
    config: Config,
    tasks: Vec<ConnectorTaskId>,
    r#type: &'static str,
}

/// A task's name.
#[derive(Serialize)]
pub(super) struct ConnectorTaskId {
    connector: String,
    task: u32,
}

/// A task's config.
#[derive(Serialize)]
pub(super) struct TaskInfo {
    id: ConnectorTaskId,
    config: Config,
}

/// A connector's status.
#[derive(Serialize)]
pub(super) struct ConnectorStateInfo {
    name: String,
    connector: ConnectorState,
    tasks: Vec<TaskState>,
    r#type: &'static str,
}

/// The status of the connector's own instance.
#[derive(Serialize)]
pub(super) struct ConnectorState {
    state: &'static str,
    worker_id: String,
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

/// A task's status.
#[derive(Serialize)]
pub(super) struct TaskState {
    id: u32,
    #[serde(flatten)]
    state: ConnectorState,
}

/// A plug-in.
#[derive(Serialize)]
pub(super) struct PluginInfo {
    class: &'static str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

/// The definition of one setting.
#[derive(Serialize)]
pub(super) struct ConfigKeyInfo {
    name: String,
    r#type: &'static str,
    required: bool,
    default_value: Option<String>,
    importance: &'static str,
    documentation: String,
    group: Option<String>,
    width: &'static str,
    display_name: String,
    dependents: Vec<String>,
    order_in_group: i32,
}

/// What validation says of one setting.
#[derive(Serialize)]
pub(super) struct ConfigInfo {
    definition: Option<ConfigKeyInfo>,
    value: Option<ConfigValueInfo>,
}

/// The value of one setting.
#[derive(Serialize)]
pub(super) struct ConfigValueInfo {
    name: String,
    value: Option<String>,
    recommended_values: Vec<String>,
    errors: Vec<String>,
    visible: bool,
}

/// What validation says of a config.
#[derive(Serialize)]
pub(super) struct ConfigInfos {
    name: String,
    error_count: usize,
    groups: Vec<String>,
    configs: Vec<ConfigInfo>,
}

/// The offsets of a connector.
#[derive(Serialize)]
pub(super) struct ConnectorOffsets {
    offsets: Vec<ConnectorOffset>,
}

/// The offset of one partition.
#[derive(Serialize)]
pub(super) struct ConnectorOffset {
    partition: Map<String, Value>,
    offset: Value,
}

/// A sentence.
#[derive(Serialize)]
pub(super) struct Message {
    pub(super) message: &'static str,
}

/// A logger.
#[derive(Serialize)]
pub(super) struct LoggerLevel {
    level: String,
    last_modified: Option<i64>,
}

impl From<herder::ConnectorInfo> for ConnectorInfo {
    fn from(info: herder::ConnectorInfo) -> Self {
        let tasks = info.tasks.into_iter().map(ConnectorTaskId::from).collect();
        Self { name: info.name, config: info.config, tasks, r#type: type_name(info.kind) }
    }
}

impl From<TaskId> for ConnectorTaskId {
    fn from(id: TaskId) -> Self {
        Self { connector: id.connector, task: id.task }
    }
}

impl From<(TaskId, Config)> for TaskInfo {
    fn from((id, config): (TaskId, Config)) -> Self {
        Self { id: id.into(), config }
    }
}

impl ConnectorStateInfo {
    pub(super) fn new(name: &str, status: ConnectorStatus, kind: Option<ConnectorType>) -> Self {
        Self {
            name: name.to_owned(),
            connector: status.connector.into(),
            tasks: status.tasks.into_iter().map(TaskState::from).collect(),
            r#type: type_name(kind),
        }
    }
}

impl From<Status> for ConnectorState {
    fn from(status: Status) -> Self {
        let trace = status.trace.filter(|trace| !trace.is_empty());
        Self { state: status.state.name(), worker_id: status.worker_id, version: status.version, trace }
    }
}

impl From<(u32, Status)> for TaskState {
    fn from((id, status): (u32, Status)) -> Self {
        Self { id, state: status.into() }
    }
}

impl From<&Plugin> for PluginInfo {
    fn from(plugin: &Plugin) -> Self {
        Self { class: plugin.class, r#type: plugin.kind.name(), version: plugin.version.clone() }
    }
}

impl From<ConfigKey> for ConfigKeyInfo {
    fn from(key: ConfigKey) -> Self {
        let required = key.is_required();
        let default_value = match key.default {
            KeyDefault::Text(text) => Some(text),
            KeyDefault::Required | KeyDefault::Null => None,
        };
        Self {
            name: key.name,
            r#type: key.kind.name(),
            required,
            default_value,
            importance: key.importance.name(),
            documentation: key.doc,
            group: key.group,
            width: key.width.name(),
            display_name: key.display_name,
            dependents: key.dependents,
            order_in_group: key.order_in_group,
        }
    }
}

impl From<ConfigValue> for ConfigValueInfo {
    fn from(value: ConfigValue) -> Self {
        let ConfigValue { name, value, recommended_values, errors, visible } = value;
        Self { name, value, recommended_values, errors, visible }
    }
}

impl From<Validation> for ConfigInfos {
    fn from(validation: Validation) -> Self {
        let info = |(definition, value): (Option<ConfigKey>, Option<ConfigValue>)| ConfigInfo {
            definition: definition.map(Into::into),
            value: value.map(Into::into),
        };
        Self {
            name: validation.name,
            error_count: validation.error_count,
            groups: validation.groups,
            configs: validation.configs.into_iter().map(info).collect(),
        }
    }
}

impl From<herder::Offsets> for ConnectorOffsets {
    fn from(offsets: herder::Offsets) -> Self {
        let offsets = match offsets {
            herder::Offsets::Source(offsets) => offsets
                .into_iter()
                .map(|(partition, offset)| ConnectorOffset {
                    partition: partition.to_map(),
                    offset: Value::Object(offset.as_map().clone()),
                })
                .collect(),
            herder::Offsets::Sink(offsets) => offsets
                .into_iter()
                .map(|(partition, offset)| ConnectorOffset {
                    partition: Map::from_iter([
                        ("kafka_topic".to_owned(), json!(&*partition.topic)),
                        ("kafka_partition".to_owned(), json!(partition.partition)),
                    ]),
                    offset: json!({"kafka_offset": offset}),
                })
                .collect(),
        };
        Self { offsets }
    }
}

impl From<logging::LoggerLevel> for LoggerLevel {
    fn from(logger: logging::LoggerLevel) -> Self {
        Self { level: logger.level.to_string(), last_modified: logger.last_modified }
    }
}

/// The topics of one connector, under its name.
pub(super) fn active_topics(connector: &str, topics: impl IntoIterator<Item = String>) -> Value {
    let topics: Vec<String> = topics.into_iter().collect();
    Value::Object(Map::from_iter([(connector.to_owned(), json!({"topics": topics}))]))
}

fn type_name(kind: Option<ConnectorType>) -> &'static str {
    match kind {
        Some(ConnectorType::Sink) => "sink",
        Some(ConnectorType::Source) => "source",
        None => "unknown",
    }
}
