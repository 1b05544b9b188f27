//! `/connector-plugins`: what this worker has built in, what it understands, and whether a config would do.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{get, put};
use lakeferry_api::Config;

use super::body::{self, Body};
use super::entities::{ConfigInfos, ConfigKeyInfo, Json, PluginInfo};
use super::error::ApiError;
use super::{Api, Pairs, flag, parameter};
use crate::config::catalog::PluginKind;
use crate::herder::validate;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/connector-plugins", get(list))
        .route("/connector-plugins/{plugin}/config", get(config))
        .route("/connector-plugins/{plugin}/config/validate", put(validate_config))
}

async fn list(State(api): State<Api>, Query(query): Query<Pairs>) -> Json<Vec<PluginInfo>> {
    let connectors_only = flag(&query, "connectorsOnly", true);
    let shown = |kind| !connectors_only || matches!(kind, PluginKind::Sink | PluginKind::Source);
    let plugins = api.herder.catalog().plugins().iter().filter(|plugin| shown(plugin.kind));
    Json(plugins.map(PluginInfo::from).collect())
}

async fn config(
    State(api): State<Api>,
    Path(plugin): Path<String>,
    Query(query): Query<Pairs>,
) -> Result<Json<Vec<ConfigKeyInfo>>, ApiError> {
    let keys = validate::plugin_config(api.herder.catalog(), &plugin, parameter(&query, "version"))?;
    Ok(Json(keys.into_iter().filter(|key| !key.internal).map(ConfigKeyInfo::from).collect()))
}

async fn validate_config(
    State(api): State<Api>,
    Path(plugin): Path<String>,
    Body(body): Body,
) -> Result<Json<ConfigInfos>, ApiError> {
    let config = body::text_map(body, "")?;
    let config = config.ok_or_else(|| ApiError::internal("Cannot read the config: the body is empty"))?;
    let nulls: Vec<_> = config.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.clone()).collect();
    let config: Config = config.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    if let Some(class) = config.get("connector.class") {
        check_class(class, &plugin)?;
    }
    let validation = api.within(api.herder.validate(config)).await?;
    Ok(Json(validation.with_nulls(api.herder.catalog(), &nulls).into()))
}

/// The path may name the class, its alias, or the end of either.
fn check_class(class: &str, plugin: &str) -> Result<(), ApiError> {
    let trimmed = |name: &str| name.strip_suffix("Connector").unwrap_or(name).to_owned();
    if trimmed(class).ends_with(&trimmed(plugin)) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("Included connector type {class} does not match request type {plugin}")))
}
