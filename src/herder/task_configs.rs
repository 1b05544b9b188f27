//! The configs of a connector's tasks: what the connector says, completed and made fit to be kept. Pure.

use lakeferry_api::config_def::Parsed;
use lakeferry_api::connector::Connector;
use lakeferry_api::{Config, ConnectError, Result};

use crate::config::connector;
use crate::config::provider::Providers;

/// Asks a started connector for its tasks. `raw` is the connector's config as the user gave it, `resolved` the same
/// with the references to config providers replaced.
///
/// # Errors
/// What the connector says, or `Config` where it wants more tasks than it may have, or nobody may have so many.
pub(super) fn generate(connector: &dyn Connector, raw: &Config, resolved: &Config) -> Result<Vec<Config>> {
    let tasks_max = tasks_max(resolved)?;
    let configs = connector.task_configs(tasks_max)?;
    if configs.len() > tasks_max {
        check_tasks_max(resolved, configs.len(), tasks_max)?;
    }
    Ok(configs.into_iter().map(|config| complete(config, connector.task_class(), raw, resolved)).collect())
}

/// Once more within its bounds: what a config provider gives may be another value than when the config was validated.
fn tasks_max(resolved: &Config) -> Result<usize> {
    let keys = connector::common_def();
    let Some(key) = keys.key("tasks.max") else { return Ok(1) };
    match key.parse(resolved.get("tasks.max").map(String::as_str)).map_err(ConnectError::config)? {
        Parsed::Integer(most) => Ok(usize::try_from(most).unwrap_or(1)),
        _ => Ok(1),
    }
}

fn check_tasks_max(config: &Config, generated: usize, tasks_max: usize) -> Result<()> {
    let name = config.get("name").map(String::as_str).unwrap_or_default();
    if config.get("tasks.max.enforce").is_some_and(|enforce| enforce.trim().eq_ignore_ascii_case("false")) {
        tracing::warn!(connector = name, generated, tasks_max, "more tasks than tasks.max; tasks.max.enforce is false");
        return Ok(());
    }
    Err(ConnectError::config(format!(
        "The connector {name} has generated {generated} tasks, which is greater than {tasks_max}, the maximum number \
         of tasks it is configured to create. This behaviour should be considered a bug and is disallowed. If \
         necessary, it can be permitted by reconfiguring the connector with 'tasks.max.enforce' set to false; \
         however, this option will be removed in a future release of Kafka Connect."
    )))
}

/// Adds what every task config has, and puts references back, so that no secret is kept or shown.
fn complete(mut config: Config, task_class: &str, raw: &Config, resolved: &Config) -> Config {
    config.insert("task.class".to_owned(), task_class.to_owned());
    for key in ["topics", "topics.regex"] {
        if let Some(value) = resolved.get(key) {
            config.insert(key.to_owned(), value.clone());
        }
    }
    for key in Providers::keys_with_references(raw) {
        if let (Some(kept), Some(reference)) = (config.get_mut(key), raw.get(key)) {
            kept.clone_from(reference);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_cannot_ask_for_more_tasks_than_there_may_be() {
        let asked = |most: Option<&str>| {
            let most = most.map(|most| ("tasks.max".to_owned(), most.to_owned()));
            tasks_max(&most.into_iter().collect()).map_err(|error| error.message().to_owned())
        };
        assert_eq!((asked(None), asked(Some(" 1000 "))), (Ok(1), Ok(1_000)));
        for bad in ["2147483647", "0", "many"] {
            let error = asked(Some(bad)).unwrap_err();
            assert!(error.contains("tasks.max") && error.contains(bad), "{error}");
        }
    }
}
