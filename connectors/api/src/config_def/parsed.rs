//! What a setting's text became: [`Parsed`] is one value, [`ParsedConfig`] all of a [`ConfigDef`](super::ConfigDef).
//! A connector lowers it into its own struct at `start`; the getters name the key in their errors.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{ConnectError, Result};

/// A parsed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// No value.
    Null,
    /// A boolean.
    Boolean(bool),
    /// Any integer type.
    Integer(i64),
    /// Floating point.
    Double(f64),
    /// String, class or password.
    Text(String),
    /// A list.
    List(Vec<String>),
}

/// Settings that were checked against a [`ConfigDef`].
#[derive(Debug, Clone, std::default::Default)]
pub struct ParsedConfig {
    pub(super) values: BTreeMap<String, Parsed>,
}

impl ParsedConfig {
    /// The value of a defined key; [`Parsed::Null`] where it has none or is not defined.
    pub fn get(&self, name: &str) -> &Parsed {
        self.values.get(name).unwrap_or(&Parsed::Null)
    }

    /// A string, class or password that has a value.
    ///
    /// # Errors
    /// `Config` where it has none.
    pub fn text(&self, name: &str) -> Result<&str> {
        self.text_if_set(name).ok_or_else(|| no_value(name))
    }

    /// A string, class or password; `None` where it has no value.
    pub fn text_if_set(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Parsed::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number of any integer type that has a value.
    ///
    /// # Errors
    /// `Config` where it has none.
    pub fn integer(&self, name: &str) -> Result<i64> {
        self.integer_if_set(name).ok_or_else(|| no_value(name))
    }

    /// A number of any integer type; `None` where it has no value.
    pub fn integer_if_set(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Parsed::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// A boolean; false where it has no value.
    pub fn boolean(&self, name: &str) -> bool {
        matches!(self.get(name), Parsed::Boolean(true))
    }

    /// A list; empty where it has no value.
    pub fn list(&self, name: &str) -> &[String] {
        match self.get(name) {
            Parsed::List(items) => items,
            _ => &[],
        }
    }
}

fn no_value(name: &str) -> ConnectError {
    ConnectError::config(format!("Missing required configuration \"{name}\" which has no default value."))
}

impl fmt::Display for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Text(value) => f.write_str(value),
            Self::List(items) => f.write_str(&items.join(",")),
        }
    }
}
