//! The plug-ins of this worker, looked up by class name or alias. `plugins.rs` fills it; the herder and the REST
//! layer only ask. Invariant: one row a plug-in, and an alias that two plug-ins share belongs to neither (as in
//! Connect, which drops ambiguous aliases).

use std::collections::BTreeMap;

use lakeferry_api::convert::{Converter, HeaderConverter};
use lakeferry_api::{ConnectError, Connector, Result};

/// What a plug-in is. The order is that of `GET /connector-plugins`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginKind {
    /// A sink connector.
    Sink,
    /// A source connector.
    Source,
    /// A converter of keys, values or headers.
    Converter,
    /// A header converter.
    HeaderConverter,
}

/// Makes a new instance.
#[derive(Clone, Copy)]
pub enum Make {
    /// A connector.
    Connector(fn() -> Box<dyn Connector>),
    /// A converter.
    Converter(fn() -> Box<dyn Converter>),
    /// A header converter.
    HeaderConverter(fn() -> Box<dyn HeaderConverter>),
}

/// One row of the table.
#[derive(Clone)]
pub struct Plugin {
    /// The full class name, as Java configs write it.
    pub class: &'static str,
    /// What it is.
    pub kind: PluginKind,
    /// Its version; `None` where it has none.
    pub version: Option<String>,
    /// How to make one.
    pub make: Make,
}

/// Every plug-in, by class and alias.
#[derive(Clone, Default)]
pub struct Catalog {
    plugins: Vec<Plugin>,
    index_by_alias: BTreeMap<String, usize>,
}

impl PluginKind {
    /// Its name in REST answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Source => "source",
            Self::Converter => "converter",
            Self::HeaderConverter => "header_converter",
        }
    }

    /// True for sinks and sources.
    pub fn is_connector(self) -> bool {
        matches!(self, Self::Sink | Self::Source)
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Sink | Self::Source => "Connector",
            Self::Converter => "Converter",
            Self::HeaderConverter => "HeaderConverter",
        }
    }
}

impl Catalog {
    /// The catalog of these rows.
    pub fn new(mut plugins: Vec<Plugin>) -> Self {
        plugins.sort_by(|a, b| (a.kind, a.class).cmp(&(b.kind, b.class)));
        let mut candidates: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, plugin) in plugins.iter().enumerate() {
            for alias in aliases(plugin) {
                candidates.entry(alias).or_default().push(index);
            }
        }
        let unique = |(alias, indexes): (String, Vec<usize>)| {
            let same_class = indexes.iter().all(|index| plugins[*index].class == plugins[indexes[0]].class);
            same_class.then(|| (alias, indexes[0]))
        };
        let index_by_alias = candidates.into_iter().filter_map(unique).collect();
        Self { plugins, index_by_alias }
    }

    /// All rows: sinks, sources, converters, header converters, each by class name.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The plug-in of this class name or alias; of a class that is several kinds, the first.
    pub fn find(&self, name: &str) -> Option<&Plugin> {
        self.index_by_alias.get(name.trim()).map(|index| &self.plugins[*index])
    }

    /// The plug-in of this class name or alias that is of a kind that `wanted` picks.
    pub fn find_kind(&self, name: &str, wanted: impl Fn(PluginKind) -> bool) -> Option<&Plugin> {
        let class = self.find(name)?.class;
        self.plugins.iter().find(|plugin| plugin.class == class && wanted(plugin.kind))
    }

    /// The versions of every plug-in of this class.
    pub fn versions(&self, class: &str) -> Vec<String> {
        self.plugins.iter().filter(|plugin| plugin.class == class).filter_map(|plugin| plugin.version.clone()).collect()
    }

    /// The connector of this class or alias.
    ///
    /// # Errors
    /// `Config` naming what exists, in Connect's words.
    pub fn connector_plugin(&self, name: &str) -> Result<&Plugin> {
        self.find_kind(name, PluginKind::is_connector).ok_or_else(|| {
            ConnectError::config(format!(
                "Failed to find any class that implements Connector and which name matches {name}, available \
                 connectors are: {}",
                self.classes(PluginKind::is_connector).join(", ")
            ))
        })
    }

    /// A new connector of this class or alias.
    ///
    /// # Errors
    /// `Config` naming what exists, in Connect's words.
    pub fn connector(&self, name: &str) -> Result<Box<dyn Connector>> {
        match self.connector_plugin(name)?.make {
            Make::Connector(make) => Ok(make()),
            _ => Err(ConnectError::config(format!("{name} is no connector"))),
        }
    }

    /// A new converter of this class or alias.
    ///
    /// # Errors
    /// `Config` where there is none of that name.
    pub fn converter(&self, name: &str) -> Result<Box<dyn Converter>> {
        match self.find_kind(name, |kind| kind == PluginKind::Converter).map(|plugin| plugin.make) {
            Some(Make::Converter(make)) => Ok(make()),
            _ => Err(ConnectError::config(format!("Class {name} could not be found."))),
        }
    }

    /// A new header converter of this class or alias.
    ///
    /// # Errors
    /// `Config` where there is none of that name.
    pub fn header_converter(&self, name: &str) -> Result<Box<dyn HeaderConverter>> {
        match self.find_kind(name, |kind| kind == PluginKind::HeaderConverter).map(|plugin| plugin.make) {
            Some(Make::HeaderConverter(make)) => Ok(make()),
            _ => Err(ConnectError::config(format!("Class {name} could not be found."))),
        }
    }

    /// The class names of the kinds that `wanted` picks.
    pub fn classes(&self, wanted: impl Fn(PluginKind) -> bool) -> Vec<&'static str> {
        self.plugins.iter().filter(|plugin| wanted(plugin.kind)).map(|plugin| plugin.class).collect()
    }
}

fn aliases(plugin: &Plugin) -> Vec<String> {
    let simple = plugin.class.rsplit('.').next().unwrap_or(plugin.class);
    let mut names = vec![plugin.class.to_owned(), simple.to_owned()];
    if let Some(short) = simple.strip_suffix(plugin.kind.suffix()).filter(|short| !short.is_empty()) {
        names.push(short.to_owned());
    }
    names
}
