//! A setting is declared once: its [`ConfigKey`] gives parsing, default, validation, the REST answer and the docs.
//!
//! Raw settings are a string map ([`Config`]); they are lowered once, at `start`, into a [`ParsedConfig`] and from
//! there into a connector's own struct. Below that line there are no string keys. The words of the messages are
//! those of Kafka's `ConfigDef`, because scripts match them.

mod parsed;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{ConnectError, Result};

pub use parsed::{Parsed, ParsedConfig};

/// Raw settings: key to text.
pub type Config = BTreeMap<String, String>;

/// A setting's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// 32-bit integer.
    Int,
    /// 16-bit integer.
    Short,
    /// 64-bit integer.
    Long,
    /// Floating point.
    Double,
    /// Comma-separated list.
    List,
    /// Name of a plug-in class.
    Class,
    /// Text that is never shown.
    Password,
}

/// How much a setting matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Importance {
    /// Nearly everybody sets it.
    High,
    /// Some set it.
    Medium,
    /// Few set it.
    Low,
}

/// How wide a form shows the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Not said.
    None,
    /// A few letters.
    Short,
    /// A name.
    Medium,
    /// A line.
    Long,
}

/// What holds where a setting is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Default {
    /// It must be given.
    Required,
    /// It has no value.
    Null,
    /// This text.
    Text(String),
}

/// A check beyond the type; the error is the detail behind `Invalid value V for configuration K: `.
pub type Check = fn(&Parsed) -> std::result::Result<(), String>;

/// Values to suggest, computed from the other settings.
pub type Recommender = fn(&Config) -> Vec<String>;

/// One row of a [`ConfigDef`].
#[derive(Debug, Clone)]
pub struct ConfigKey {
    /// The key.
    pub name: String,
    /// Its type.
    pub kind: ConfigType,
    /// Its default.
    pub default: Default,
    /// Least value of a number.
    pub min: Option<i64>,
    /// Greatest value of a number.
    pub max: Option<i64>,
    /// The only values allowed, where not empty.
    pub one_of: Vec<String>,
    /// True where [`ConfigKey::one_of`] ignores case.
    pub ignore_case: bool,
    /// True where a list must not repeat an item nor have an empty one.
    pub distinct: bool,
    /// Further checks.
    pub checks: Vec<Check>,
    /// What to suggest.
    pub recommender: Option<Recommender>,
    /// How much it matters.
    pub importance: Importance,
    /// What it means: one paragraph.
    pub doc: String,
    /// The group it is shown in.
    pub group: Option<String>,
    /// Its place in the group; -1 without group.
    pub order_in_group: i32,
    /// Its width in a form.
    pub width: Width,
    /// Its name in a form.
    pub display_name: String,
    /// Keys that depend on it.
    pub dependents: Vec<String>,
    /// True where it stays out of REST answers and docs.
    pub internal: bool,
}

/// The settings of one plug-in or of the worker, in order of declaration.
#[derive(Debug, Clone, std::default::Default)]
pub struct ConfigDef {
    keys: Vec<ConfigKey>,
    place_by_name: BTreeMap<String, usize>,
}

/// What `validate` says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigValue {
    /// The key.
    pub name: String,
    /// The parsed value as text, also where a check refused it; passwords are `[hidden]`; `None` where unset or
    /// unparsable.
    pub value: Option<String>,
    /// What to suggest.
    pub recommended_values: Vec<String>,
    /// What is wrong.
    pub errors: Vec<String>,
    /// False where the key does not apply.
    pub visible: bool,
}

/// What stands in place of a password in every answer and log.
pub const HIDDEN: &str = "[hidden]";

impl ConfigKey {
    /// A required key; say the rest with the methods below.
    pub fn new(name: impl Into<String>, kind: ConfigType) -> Self {
        let name = name.into();
        Self {
            display_name: name.clone(),
            name,
            kind,
            default: Default::Required,
            min: None,
            max: None,
            one_of: Vec::new(),
            ignore_case: false,
            distinct: false,
            checks: Vec::new(),
            recommender: None,
            importance: Importance::Medium,
            doc: String::new(),
            group: None,
            order_in_group: -1,
            width: Width::None,
            dependents: Vec::new(),
            internal: false,
        }
    }

    /// Optional, with this default.
    #[must_use]
    pub fn default(mut self, text: impl Into<String>) -> Self {
        self.default = Default::Text(text.into());
        self
    }

    /// Optional, without value by default.
    #[must_use]
    pub fn default_null(mut self) -> Self {
        self.default = Default::Null;
        self
    }

    /// A number of at least `min`.
    #[must_use]
    pub fn at_least(mut self, min: i64) -> Self {
        self.min = Some(min);
        self
    }

    /// A number of at most `max`.
    #[must_use]
    pub fn at_most(mut self, max: i64) -> Self {
        self.max = Some(max);
        self
    }

    /// One of these words.
    #[must_use]
    pub fn one_of(mut self, words: &[&str]) -> Self {
        self.one_of = words.iter().map(ToString::to_string).collect();
        self
    }

    /// One of these words in any case.
    #[must_use]
    pub fn one_of_ignoring_case(mut self, words: &[&str]) -> Self {
        self.ignore_case = true;
        self.one_of(words)
    }

    /// A list that repeats no item and has no empty one.
    #[must_use]
    pub fn distinct(mut self) -> Self {
        self.distinct = true;
        self
    }

    /// A further check.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Suggestions.
    #[must_use]
    pub fn recommend(mut self, recommender: Recommender) -> Self {
        self.recommender = Some(recommender);
        self
    }

    /// How much it matters.
    #[must_use]
    pub fn importance(mut self, importance: Importance) -> Self {
        self.importance = importance;
        self
    }

    /// What it means.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }

    /// Group, place in it, width and display name.
    #[must_use]
    pub fn shown(mut self, group: &str, order_in_group: i32, width: Width, display_name: &str) -> Self {
        self.group = Some(group.to_owned());
        self.order_in_group = order_in_group;
        self.width = width;
        self.display_name = display_name.to_owned();
        self
    }

    /// True where no default exists.
    pub fn is_required(&self) -> bool {
        self.default == Default::Required
    }

    /// Parses `text` (or the default where it is absent).
    ///
    /// # Errors
    /// The whole message, as Kafka words it.
    pub fn parse(&self, text: Option<&str>) -> std::result::Result<Parsed, String> {
        let (parsed, errors) = self.examine(text);
        errors.into_iter().next().map_or(Ok(parsed), Err)
    }

    /// The value of `text` (or the default) and everything that is wrong with it. A value that parses but breaks a
    /// check is still given, and a check sees [`Parsed::Null`] for text that does not parse: so Kafka's answers to
    /// `validate` come out.
    pub fn examine(&self, text: Option<&str>) -> (Parsed, Vec<String>) {
        let mut errors = Vec::new();
        let parsed = match (text, &self.default) {
            (Some(text), _) => self.parse_type(trim(text)).unwrap_or_else(|detail| {
                errors.push(self.invalid(if self.kind == ConfigType::Password { HIDDEN } else { text }, &detail));
                Parsed::Null
            }),
            (None, Default::Text(default)) => self.parse_type(trim(default)).unwrap_or(Parsed::Null),
            (None, Default::Null) => return (Parsed::Null, errors),
            (None, Default::Required) => {
                errors.push(missing(&self.name));
                Parsed::Null
            }
        };
        errors.extend(self.check_value(&parsed).err());
        (parsed, errors)
    }

    fn parse_type(&self, text: &str) -> std::result::Result<Parsed, String> {
        let integer = |min: i64, max: i64, name: &str| match text.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Parsed::Integer(number)),
            _ => Err(format!("Not a number of type {name}")),
        };
        match self.kind {
            ConfigType::Boolean if text.eq_ignore_ascii_case("true") => Ok(Parsed::Boolean(true)),
            ConfigType::Boolean if text.eq_ignore_ascii_case("false") => Ok(Parsed::Boolean(false)),
            ConfigType::Boolean => Err("Expected value to be either true or false".to_owned()),
            ConfigType::Short => integer(i16::MIN.into(), i16::MAX.into(), "SHORT"),
            ConfigType::Int => integer(i32::MIN.into(), i32::MAX.into(), "INT"),
            ConfigType::Long => integer(i64::MIN, i64::MAX, "LONG"),
            ConfigType::Double => {
                text.parse().map(Parsed::Double).map_err(|_| "Not a number of type DOUBLE".to_owned())
            }
            ConfigType::List if text.is_empty() => Ok(Parsed::List(Vec::new())),
            ConfigType::List => Ok(Parsed::List(text.split(',').map(|item| trim(item).to_owned()).collect())),
            ConfigType::String | ConfigType::Class | ConfigType::Password => Ok(Parsed::Text(text.to_owned())),
        }
    }

    fn invalid(&self, shown: &str, detail: &str) -> String {
        format!("Invalid value {shown} for configuration {}: {detail}", self.name)
    }

    fn check_value(&self, parsed: &Parsed) -> std::result::Result<(), String> {
        let shown = match parsed {
            Parsed::List(items) => format!("[{}]", items.join(", ")),
            _ if self.kind == ConfigType::Password => HIDDEN.to_owned(),
            other => other.to_string(),
        };
        let detail = self.check_range(parsed).and_then(|()| self.check_word(parsed));
        let detail = detail.and_then(|()| self.checks.iter().try_for_each(|check| check(parsed)));
        detail.map_err(|detail| self.invalid(&shown, &detail))?;
        self.check_items(parsed)
    }

    fn check_range(&self, parsed: &Parsed) -> std::result::Result<(), String> {
        let Parsed::Integer(number) = parsed else {
            let bounded = self.min.is_some() || self.max.is_some();
            return if bounded { Err("Value must be non-null".to_owned()) } else { Ok(()) };
        };
        if let Some(min) = self.min.filter(|min| number < min) {
            return Err(format!("Value must be at least {min}"));
        }
        self.max.filter(|max| number > max).map_or(Ok(()), |max| Err(format!("Value must be no more than {max}")))
    }

    fn check_items(&self, parsed: &Parsed) -> std::result::Result<(), String> {
        let Parsed::List(items) = parsed else { return Ok(()) };
        if self.distinct && items.iter().collect::<BTreeSet<_>>().len() != items.len() {
            return Err(format!("Configuration '{}' values must not be duplicated.", self.name));
        }
        if self.distinct && items.iter().any(String::is_empty) {
            return Err(format!("Configuration '{}' values must not be empty.", self.name));
        }
        Ok(())
    }

    fn check_word(&self, parsed: &Parsed) -> std::result::Result<(), String> {
        if self.one_of.is_empty() || *parsed == Parsed::Null {
            return Ok(());
        }
        let text = parsed.to_string();
        let words = self.one_of.join(", ");
        if self.ignore_case {
            let known = self.one_of.iter().any(|word| word.eq_ignore_ascii_case(&text));
            return if known { Ok(()) } else { Err(format!("String must be one of (case insensitive): {words}")) };
        }
        if self.one_of.contains(&text) { Ok(()) } else { Err(format!("String must be one of: {words}")) }
    }
}

impl ConfigDef {
    /// No settings yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key; one of the same name is replaced in its place.
    #[must_use]
    pub fn define(mut self, key: ConfigKey) -> Self {
        match self.place_by_name.get(&key.name) {
            Some(place) => self.keys[*place] = key,
            None => {
                self.place_by_name.insert(key.name.clone(), self.keys.len());
                self.keys.push(key);
            }
        }
        self
    }

    /// Adds every key of `other`.
    #[must_use]
    pub fn define_all(self, other: Self) -> Self {
        other.keys.into_iter().fold(self, Self::define)
    }

    /// The keys in order of declaration.
    pub fn keys(&self) -> &[ConfigKey] {
        &self.keys
    }

    /// The groups of its keys in order of first use.
    pub fn groups(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.keys.iter().filter_map(|key| key.group.as_ref()).filter(|group| seen.insert(*group)).cloned().collect()
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&ConfigKey> {
        self.place_by_name.get(name).map(|place| &self.keys[*place])
    }

    /// One answer for each key, errors included.
    pub fn validate(&self, config: &Config) -> Vec<ConfigValue> {
        self.keys.iter().map(|key| key_value(key, config)).collect()
    }

    /// Parses every defined key; keys without definition are left alone.
    ///
    /// # Errors
    /// `Config` with every message, one a line.
    pub fn parse(&self, config: &Config) -> Result<ParsedConfig> {
        let mut values = BTreeMap::new();
        let mut errors = Vec::new();
        for key in &self.keys {
            match key.parse(config.get(&key.name).map(String::as_str)) {
                Ok(parsed) => drop(values.insert(key.name.clone(), parsed)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(ParsedConfig { values }) } else { Err(ConnectError::config(errors.join("\n"))) }
    }
}

fn key_value(key: &ConfigKey, config: &Config) -> ConfigValue {
    let (parsed, errors) = key.examine(config.get(&key.name).map(String::as_str));
    let value = match parsed {
        Parsed::Null => None,
        _ if key.kind == ConfigType::Password => Some(HIDDEN.to_owned()),
        parsed => Some(parsed.to_string()),
    };
    let recommended_values = key.recommender.map(|recommend| recommend(config)).unwrap_or_default();
    ConfigValue { name: key.name.clone(), value, recommended_values, errors, visible: true }
}

fn missing(name: &str) -> String {
    format!("Missing required configuration \"{name}\" which has no default value.")
}

/// As Java's `String.trim`: everything up to the space, and nothing beyond ASCII.
fn trim(text: &str) -> &str {
    text.trim_matches(|letter| letter <= ' ')
}

impl ConfigType {
    /// Its name in REST answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }
}

impl Importance {
    /// Its name in REST answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "HIGH",
            Self::Medium => "MEDIUM",
            Self::Low => "LOW",
        }
    }
}

impl Width {
    /// Its name in REST answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Short => "SHORT",
            Self::Medium => "MEDIUM",
            Self::Long => "LONG",
        }
    }
}

#[cfg(test)]
mod tests;
