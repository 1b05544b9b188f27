//! A connector's file on the command line, in any of the forms that Kafka's script takes: flat JSON, JSON of a create
//! request, Java properties; tried in this order. Reads text, asks nobody.

use lakeferry_api::{Config, ConnectError, Result};
use serde_json::{Map, Value};

use crate::config::properties;
use crate::herder::TargetState;

/// A connector to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewConnector {
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) target: TargetState,
}

impl NewConnector {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// `Config` where they have none of the forms, or no name.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        match serde_json::from_slice::<Map<String, Value>>(bytes) {
            Ok(json) => match flat(&json) {
                Some(config) if config.contains_key("name") => Self::flat(config),
                _ => Self::request(&json),
            },
            Err(error) => Self::flat(properties::parse(bytes)?).map_err(|unnamed| match looks_like_json(bytes) {
                true => ConnectError::config(format!("the JSON of the connector is damaged: {error}")),
                false => unnamed,
            }),
        }
    }

    fn flat(config: Config) -> Result<Self> {
        match config.get("name").cloned() {
            Some(name) => Ok(Self { name, config, target: TargetState::Started }),
            None => Err(ConnectError::config(
                "no connector is named: write name=... in a properties file, or \"name\" in JSON",
            )),
        }
    }

    fn request(json: &Map<String, Value>) -> Result<Self> {
        let name = json.get("name").and_then(text);
        let config = json.get("config").and_then(Value::as_object).and_then(flat);
        let (Some(name), Some(mut config)) = (name, config) else {
            return Err(ConnectError::config(
                "JSON of a connector is a flat map with a \"name\", or has a \"name\" and a flat map \"config\"",
            ));
        };
        if let Some(other) = config.get("name").filter(|other| **other != name) {
            return Err(ConnectError::config(format!(
                "Connector name configuration in 'config' ({other}) doesn't match the one specified in 'name' at the \
                 top level ({name})"
            )));
        }
        config.insert("name".to_owned(), name.clone());
        let target = match json.get("initial_state").filter(|state| !state.is_null()) {
            None => TargetState::Started,
            Some(state) => text(state).and_then(|state| TargetState::from_initial_state(&state)).ok_or_else(|| {
                ConnectError::config(format!("initial_state is RUNNING, PAUSED or STOPPED, not {state}"))
            })?,
        };
        Ok(Self { name, config, target })
    }
}

/// A damaged JSON document is a properties file by its form, but nobody meant it so.
fn looks_like_json(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// The map as settings, where every value is a text or can be read as one.
fn flat(json: &Map<String, Value>) -> Option<Config> {
    json.iter().map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_api::measure::peak_of;
    use proptest::prelude::*;

    use super::*;

    fn names_what_is_wrong(error: &ConnectError) -> bool {
        let message = error.message();
        let things =
            ["no connector is named", "JSON of a connector", "initial_state is", "Malformed \\uxxxx encoding in"];
        let place =
            message.strip_prefix("the JSON of the connector is damaged: ").is_some_and(|at| at.contains("line"));
        let two_names = message.starts_with("Connector name configuration in 'config'");
        place || two_names || things.iter().any(|thing| message.contains(thing))
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (held, read) = peak_of(|| NewConnector::parse(&bytes));
            prop_assert!(held < (4 << 10) + 400 * bytes.len(), "{held} bytes of {}", bytes.len());
            if let Err(error) = read {
                prop_assert!(names_what_is_wrong(&error), "{}", error);
            }
        }

        #[test]
        fn a_connector_that_comes_of_damage_has_its_name(
            at in any::<prop::sample::Index>(), len in 0..20usize, with in "[\\[\\]{}\",:=\\\\0-9a-z.-]{0,12}",
        ) {
            let mut text = br#"{"name":"c","config":{"connector.class":"X","topics":"t","tasks.max":2},"initial_state":"STOPPED"}"#.to_vec();
            let at = at.index(text.len());
            text.splice(at..(at + len).min(text.len()), with.bytes());
            match NewConnector::parse(&text) {
                Ok(connector) => prop_assert_eq!(connector.config.get("name"), Some(&connector.name)),
                Err(error) => prop_assert!(names_what_is_wrong(&error), "{}", error),
            }
        }
    }

    #[test]
    fn a_file_takes_memory_by_its_length() {
        for item in ["0,", "[],", "{},", "\"\",", "[[[[[[[[", "a\n", "{\"a\":"] {
            let items = item.repeat(400_000 / item.len());
            for text in [items.clone(), format!("{{\"name\":\"c\",\"more\":[{}]}}", items.trim_end_matches(','))] {
                let (held, _) = peak_of(|| NewConnector::parse(text.as_bytes()));
                assert!(held < 400 * text.len(), "{item}: {held} bytes of {}", text.len());
            }
        }
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let forms = [
            "name=c\nconnector.class = FileStreamSink\ntopics: t\ntasks.max 2",
            r#"{"name":"c","connector.class":"FileStreamSink","topics":"t","tasks.max":2}"#,
            r#"{"name":"c","config":{"connector.class":"FileStreamSink","topics":"t","tasks.max":"2"},"more":1}"#,
        ];
        let parsed = forms.map(|form| NewConnector::parse(form.as_bytes()).unwrap());
        assert_eq!(parsed[0], parsed[1]);
        assert_eq!(parsed[0], parsed[2]);
        assert_eq!((parsed[0].name.as_str(), parsed[0].target), ("c", TargetState::Started));
        assert_eq!(parsed[0].config["tasks.max"], "2");
    }

    #[test]
    fn a_request_says_the_initial_state() {
        let request = |state: &str| {
            NewConnector::parse(format!(r#"{{"name":"c","config":{{}},"initial_state":{state}}}"#).as_bytes())
        };
        assert_eq!(request("\"stopped\"").unwrap().target, TargetState::Stopped);
        assert_eq!(request("null").unwrap().target, TargetState::Started);
        assert!(request("\"BOGUS\"").is_err() && request("1").is_err());
    }

    #[test]
    fn damaged_json_is_told_as_such() {
        let error = NewConnector::parse(b"\n {\"name\":\"a\",\n\"topics\":}").unwrap_err();
        assert!(error.message().contains("the JSON of the connector is damaged") && error.message().contains("line 3"));
        // Java takes it for properties, and so it is where it has a name.
        assert_eq!(NewConnector::parse(b"{\nname=c").unwrap().name, "c");
    }

    #[test]
    fn what_has_no_name_or_two_is_refused() {
        let refused = ["connector.class=X", "{\"a\":\"b\"}", "{\"name\":\"a\",\"config\":{\"name\":\"b\"}}"];
        for text in refused {
            let error = NewConnector::parse(text.as_bytes()).unwrap_err();
            assert!(error.message().contains("name"), "{text}: {error}");
        }
    }
}
