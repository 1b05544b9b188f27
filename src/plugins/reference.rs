//! `docs/config-reference.md`, generated from the definitions that parse and validate: a row a key. The test holds
//! the page in step; `LAKEFERRY_BLESS=1 cargo test --lib config_reference` writes it anew.

use std::fmt::Write;
use std::path::PathBuf;

use lakeferry_api::ConfigDef;
use lakeferry_api::config_def::{ConfigKey, Default};

use crate::config::catalog::{Catalog, Make, PluginKind};
use crate::config::{connector, worker};

fn page(catalog: &Catalog) -> String {
    let mut page = "# Configuration reference\n\nGenerated from the definitions in the code; do not edit.\n".to_owned();
    section(&mut page, "The worker, standalone", &worker::config_def());
    let prefixes = "Besides: options of converters below `key.converter.`, `value.converter.` and `header.converter.`; settings \
                    of Kafka clients, unprefixed for the worker's own and below `producer.`, `consumer.` and `admin.` for \
                    those of connectors; `config.providers.<name>.class` and `config.providers.<name>.param.<key>`.";
    let _ = writeln!(page, "\n{prefixes}");
    let common = connector::common_def();
    section(&mut page, "Every connector", &common);
    let without_common = |def: ConfigDef| {
        let added = def.keys().iter().filter(|key| common.key(&key.name).is_none()).cloned();
        added.fold(ConfigDef::new(), ConfigDef::define)
    };
    section(&mut page, "Sinks, in addition", &without_common(connector::sink_def()));
    section(&mut page, "Sources, in addition", &without_common(connector::source_def()));
    let client = "Besides, for every connector: overrides of its Kafka clients' settings below `producer.override.`, \
                  `consumer.override.` and `admin.override.`. Numbers that Java's clients take and the client library \
                  here does not, alone (`max.poll.interval.ms=2147483647`) or beside another (`fetch.max.bytes` below \
                  1000000), become the nearest that it takes, and the log says so.";
    let _ = writeln!(page, "\n{client}");
    for plugin in catalog.plugins() {
        let def = match plugin.make {
            Make::Connector(make) => make().config_def(),
            Make::Converter(make) => make().config_def(),
            Make::HeaderConverter(_)
                if catalog.find_kind(plugin.class, |kind| kind == PluginKind::Converter).is_some() =>
            {
                continue;
            }
            Make::HeaderConverter(make) => make().config_def(),
        };
        section(&mut page, &format!("`{}`", plugin.class), &def);
    }
    page
}

fn section(page: &mut String, title: &str, def: &ConfigDef) {
    let _ = write!(page, "\n## {title}\n\n");
    let shown: Vec<_> = def.keys().iter().filter(|key| !key.internal && key.name != "converter.type").collect();
    if shown.is_empty() {
        page.push_str("No keys of its own.\n");
        return;
    }
    page.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    shown.into_iter().for_each(|key| page.push_str(&row(key)));
}

fn row(key: &ConfigKey) -> String {
    let default = match &key.default {
        Default::Required => "required".to_owned(),
        Default::Null => "none".to_owned(),
        Default::Text(text) if text.is_empty() => "empty".to_owned(),
        Default::Text(text) => format!("`{text}`"),
    };
    let bounds = match (key.min, key.max) {
        (Some(min), Some(max)) => format!(" From {min} to {max}."),
        (Some(min), None) => format!(" At least {min}."),
        (None, Some(max)) => format!(" At most {max}."),
        (None, None) => String::new(),
    };
    let words = match key.one_of.join(", ") {
        words if words.is_empty() => words,
        words => format!(" One of: {words}."),
    };
    let doc = key.doc.replace('|', "\\|").replace('<', "\\<").replace('\n', " ");
    format!("| `{}` | {} | {default} | {doc}{bounds}{words} |\n", key.name, key.kind.name().to_lowercase())
}

#[test]
fn the_config_reference_is_in_step() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/config-reference.md");
    let page = page(&super::catalog());
    if std::env::var_os("LAKEFERRY_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let different = page.lines().zip(written.lines().chain(std::iter::repeat(""))).find(|(new, old)| new != old);
    assert!(page == written, "run LAKEFERRY_BLESS=1 cargo test --lib config_reference: {different:?} differ");
}
