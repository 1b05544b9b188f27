//! The REST part of a worker's settings: listeners, the advertised address, CORS and extra response headers.
//! Lowered by [`super::worker`], read by the REST server.

use std::fmt;

use lakeferry_api::config_def::{ConfigDef, ConfigKey, ConfigType, Importance, Parsed, ParsedConfig};
use lakeferry_api::{ConnectError, Result};

/// Settings of the REST server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestConfig {
    /// Where the API is served; at least one.
    pub listeners: Vec<Listener>,
    /// Where the admin resources are served: `None` on the same listeners, empty: nowhere.
    pub admin_listeners: Option<Vec<Listener>>,
    /// The host that other workers and clients are told.
    pub advertised_host_name: Option<String>,
    /// The port that they are told.
    pub advertised_port: Option<u16>,
    /// The scheme of the listener that is advertised.
    pub advertised_listener: Option<Scheme>,
    /// Origins that a browser may call from; empty: CORS is off.
    pub access_control_allow_origin: String,
    /// Methods that such a browser may use; empty: GET, POST, HEAD.
    pub access_control_allow_methods: String,
    /// Headers on every response.
    pub response_headers: Vec<HeaderRule>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The host; empty: all interfaces.
    pub host: String,
    /// The port; 0: any free one.
    pub port: u16,
}

/// A listener's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// One rule of `response.http.headers.config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    /// What to do with the header.
    pub action: HeaderAction,
    /// Its name.
    pub name: String,
    /// Its value; of the date actions milliseconds to add to now.
    pub value: String,
}

/// What a [`HeaderRule`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderAction {
    /// Replaces.
    Set,
    /// Adds one more.
    Add,
    /// Replaces with a date.
    SetDate,
    /// Adds a date.
    AddDate,
}

/// The rows of these settings.
pub fn config_def() -> ConfigDef {
    let low = |name: &str, kind, doc: &str| ConfigKey::new(name, kind).importance(Importance::Low).doc(doc);
    ConfigDef::new()
        .define(low("listeners", ConfigType::List, "Where the REST API listens: URLs such as http://localhost:8083, separated by commas. No host means all interfaces, port 0 any free port.").default("http://:8083").check(check_listeners))
        .define(low("admin.listeners", ConfigType::List, "Where /admin listens. Unset: on the same listeners; empty: nowhere; URLs: there and only there.").default_null().check(check_admin_listeners))
        .define(low("rest.advertised.host.name", ConfigType::String, "The host name that other workers and clients are told.").default_null())
        .define(low("rest.advertised.port", ConfigType::Int, "The port that other workers and clients are told.").default_null().check(check_port))
        .define(low("rest.advertised.listener", ConfigType::String, "Which listener other workers are told: http or https.").default_null().check(check_scheme))
        .define(low("access.control.allow.origin", ConfigType::String, "Origins that a browser may call the API from, or *. Empty: CORS is off.").default(""))
        .define(low("access.control.allow.methods", ConfigType::String, "Methods that a browser of another origin may use. Empty: GET, POST, HEAD.").default(""))
        .define(low("response.http.headers.config", ConfigType::String, "Headers on every response: rules '[set|add|setDate|addDate] name:value' separated by commas, in double quotes where a rule has a comma.").default("").check(check_headers))
        .define(low("rest.extension.classes", ConfigType::List, "REST extensions of the JVM worker; none can be loaded here.").default(""))
        .define(low("ssl.client.auth", ConfigType::String, "Whether https listeners ask for a client certificate.").default("none").one_of(&["required", "requested", "none"]))
}

impl RestConfig {
    /// Lowers settings that [`config_def`] has parsed.
    pub(super) fn new(parsed: &ParsedConfig) -> Result<Self> {
        let listeners = |name| parsed.list(name).iter().map(|url| listener(url)).collect::<Result<Vec<_>, _>>();
        let admin_listeners = match parsed.get("admin.listeners") {
            Parsed::List(_) => Some(listeners("admin.listeners")),
            _ => None,
        };
        let text = |name| parsed.text_if_set(name).unwrap_or_default().to_owned();
        Ok(Self {
            listeners: listeners("listeners").map_err(ConnectError::config)?,
            admin_listeners: admin_listeners.transpose().map_err(ConnectError::config)?,
            advertised_host_name: parsed.text_if_set("rest.advertised.host.name").map(str::to_owned),
            advertised_port: parsed.integer_if_set("rest.advertised.port").and_then(|port| port.try_into().ok()),
            advertised_listener: parsed.text_if_set("rest.advertised.listener").and_then(scheme),
            access_control_allow_origin: text("access.control.allow.origin"),
            access_control_allow_methods: text("access.control.allow.methods"),
            response_headers: header_rules(&text("response.http.headers.config")).map_err(ConnectError::config)?,
        })
    }
}

impl Scheme {
    /// Its name in URLs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        match host.contains(':') {
            true => write!(f, "{}://[{host}]:{port}", scheme.name()),
            false => write!(f, "{}://{host}:{port}", scheme.name()),
        }
    }
}

fn scheme(name: &str) -> Option<Scheme> {
    [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.name().eq_ignore_ascii_case(name))
}

fn listener(url: &str) -> Result<Listener, String> {
    let refuse = || format!("the listener '{url}' is not of the form http://host:port or https://host:port");
    let (name, address) = url.split_once("://").ok_or_else(refuse)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let known = |letter: char| letter.is_ascii_alphanumeric() || "-%._:".contains(letter);
    let port = port.parse().ok().filter(|_| host.chars().all(known)).ok_or_else(refuse)?;
    Ok(Listener { scheme: scheme(name).ok_or_else(refuse)?, host: host.to_owned(), port })
}

fn check_listeners(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::List(urls) if urls.is_empty() => {
            Err("at least one URL is expected, ex: http://localhost:8080,https://localhost:8443.".to_owned())
        }
        other => check_admin_listeners(other),
    }
}

fn check_admin_listeners(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::List(urls) => urls.iter().try_for_each(|url| listener(url).map(drop)),
        _ => Ok(()),
    }
}

fn check_port(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Integer(port) if u16::try_from(*port).is_err() => Err("a port is a number from 0 to 65535".to_owned()),
        _ => Ok(()),
    }
}

fn check_scheme(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Text(name) if scheme(name).is_none() => Err("String must be one of: http, https".to_owned()),
        _ => Ok(()),
    }
}

fn check_headers(value: &Parsed) -> Result<(), String> {
    match value {
        Parsed::Text(rules) => header_rules(rules).map(drop),
        _ => Ok(()),
    }
}

fn header_rules(rules: &str) -> Result<Vec<HeaderRule>, String> {
    split_quoted(rules).iter().filter(|rule| !rule.is_empty()).map(|rule| header_rule(rule)).collect()
}

fn header_rule(rule: &str) -> Result<HeaderRule, String> {
    let format = "Expected: '[action] [header name]:[header value]'";
    let (action, header) = rule
        .split_once(char::is_whitespace)
        .ok_or_else(|| format!("Invalid format of header config '{rule}'. {format}"))?;
    let action = match action.to_ascii_lowercase().as_str() {
        "set" => HeaderAction::Set,
        "add" => HeaderAction::Add,
        "setdate" => HeaderAction::SetDate,
        "adddate" => HeaderAction::AddDate,
        _ => {
            let known = "[set, add, setDate, addDate]";
            return Err(format!("Invalid header config action: '{action}'. Expected one of {known}"));
        }
    };
    let pair = header.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
    let (name, value) = pair
        .filter(|(_, value)| !value.is_empty() && !value.contains(':'))
        .ok_or_else(|| format!("Invalid format of header name and header value pair '{header}'. {format}"))?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("Invalid header name '{name}'. The '[header name]' cannot contain whitespace"));
    }
    Ok(HeaderRule { action, name: name.to_owned(), value: value.to_owned() })
}

/// Splits at commas outside of double quotes and takes the quotes away.
fn split_quoted(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(String::new()),
            other => items.last_mut().into_iter().for_each(|item| item.push(other)),
        }
    }
    items.iter().map(|item| item.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use lakeferry_api::Config;

    use super::*;

    fn lowered(key: &str, value: &str) -> Result<RestConfig> {
        let config = Config::from([(key.to_owned(), value.to_owned())]);
        RestConfig::new(&config_def().parse(&config)?)
    }

    #[test]
    fn reads_listeners() {
        let listeners = lowered("listeners", "HTTP://:8083, https://[::1]:0,http://0.0.0.0:1").unwrap().listeners;
        let shown: Vec<_> = listeners.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://:8083", "https://[::1]:0", "http://0.0.0.0:1"]);
        assert_eq!(lowered("listeners", "http://:0").unwrap().admin_listeners, None);
        assert_eq!(lowered("admin.listeners", "").unwrap().admin_listeners, Some(vec![]));
    }

    #[test]
    fn refuses_what_is_no_listener() {
        for value in ["", "ftp://h:1", "http://h", "h:1", "http://h:70000", "http://h:1,", "http://a/b:1"] {
            let error = lowered("listeners", value).unwrap_err();
            assert!(error.message().contains("for configuration listeners"), "{value}: {error}");
        }
    }

    #[test]
    fn reads_header_rules() {
        let rules = lowered("response.http.headers.config", "add X-A: 1, \"set Cache-Control:no-cache, no-store\"");
        let rules = rules.unwrap().response_headers;
        assert_eq!(rules[0], HeaderRule { action: HeaderAction::Add, name: "X-A".into(), value: "1".into() });
        assert_eq!(rules[1].value, "no-cache, no-store");
        for value in ["add", "put X:1", "set X", "set :1", "set X Y:1", "set X:1:2"] {
            assert!(lowered("response.http.headers.config", value).is_err(), "{value}");
        }
    }
}
