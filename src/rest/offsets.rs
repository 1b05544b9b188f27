//! `/connectors/{c}/offsets`: how far a connector has got, and setting it back or forward.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use serde_json::Value;

use super::Api;
use super::body::{self, Body};
use super::entities::{ConnectorOffsets, Json, Message};
use super::error::ApiError;
use crate::herder::{Altered, NewOffsets};

pub(super) fn router() -> Router<Api> {
    Router::new().route("/connectors/{connector}/offsets", get(show).patch(alter).delete(reset))
}

async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<ConnectorOffsets>, ApiError> {
    Ok(Json(api.within(api.herder.offsets(&name)).await?.into()))
}

async fn alter(State(api): State<Api>, Path(name): Path<String>, Body(body): Body) -> Result<Json<Message>, ApiError> {
    let altered = api.within(api.herder.alter_offsets(&name, NewOffsets::Some(entries(body)?))).await?;
    Ok(Json(Message { message: said(altered, ALTERED) }))
}

async fn reset(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Message>, ApiError> {
    let altered = api.within(api.herder.alter_offsets(&name, NewOffsets::ResetAll)).await?;
    Ok(Json(Message { message: said(altered, RESET) }))
}

/// What is said where the connector keeps nothing elsewhere, and where it may.
type Messages = [&'static str; 2];

const ALTERED: Messages = [
    "The offsets for this connector have been altered successfully",
    "The Connect framework-managed offsets for this connector have been altered successfully. However, if this \
     connector manages offsets externally, they will need to be manually altered in the system that the connector uses.",
];

const RESET: Messages = [
    "The offsets for this connector have been reset successfully",
    "The Connect framework-managed offsets for this connector have been reset successfully. However, if this connector \
     manages offsets externally, they will need to be manually reset in the system that the connector uses.",
];

fn said(altered: Altered, [completely, in_part]: Messages) -> &'static str {
    if altered.completely { completely } else { in_part }
}

fn entries(body: Value) -> Result<Vec<(Value, Value)>, ApiError> {
    const WHAT: &str = "ConnectorOffsets";
    if body.is_null() {
        return Err(ApiError::internal("Cannot read the offsets: the body is empty"));
    }
    let mut body = body::object(body, WHAT, "")?;
    body::known_fields(&body, WHAT, &["offsets"])?;
    let offsets = match body.remove("offsets").unwrap_or(Value::Null) {
        Value::Null => Vec::new(),
        offsets => body::array(offsets, "List<ConnectorOffset>", "offsets")?,
    };
    let entries = offsets.into_iter().enumerate().map(|(index, entry)| self::entry(index, entry));
    let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    if entries.is_empty() {
        return Err(ApiError::bad_request("Partitions / offsets need to be provided for an alter offsets request"));
    }
    Ok(entries)
}

fn entry(index: usize, entry: Value) -> Result<(Value, Value), ApiError> {
    const WHAT: &str = "ConnectorOffset";
    let at = format!("offsets->{index}");
    if entry.is_null() {
        return Err(ApiError::internal(format!("Cannot read the offsets: entry {index} is null")));
    }
    let mut entry = body::object(entry, WHAT, &at)?;
    body::known_fields(&entry, WHAT, &["partition", "offset"])?;
    let mut part = |field: &str| match entry.remove(field).unwrap_or(Value::Null) {
        Value::Null => Ok(Value::Null),
        map => body::object(map, "Map<String,Object>", &format!("{at}->{field}")).map(Value::Object),
    };
    Ok((part("partition")?, part("offset")?))
}
