//! Config providers: `${provider:path:key}` in a config is replaced by what a file, a directory or the environment
//! holds, each time the config is used. Stored configs, REST answers and logs keep the reference.
//!
//! The three providers are Kafka's own, under its class names. One pass, never recursive; a reference to an unknown
//! provider or key stays as it is, as in Connect. Nothing here logs a value. Whoever may send a config chooses what is
//! read: only regular files, files and resolved values of bounded size, and a bounded number of references in a value.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock};

use fancy_regex::{Captures, Regex};
use lakeferry_api::{Config, ConnectError, Result};
use tracing::warn;

use super::{properties, with_prefix};

const PACKAGE: &str = "org.apache.kafka.common.config.provider.";

/// The largest file that is read, and the longest value that references make.
const LIMIT_BYTES: usize = 1 << 20;
/// References in one value.
const LIMIT_REFERENCES: usize = 256;

/// The providers of a worker by name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Providers {
    provider_by_name: Arc<BTreeMap<String, Provider>>,
}

enum Provider {
    File(AllowedPaths),
    Directory(AllowedPaths),
    EnvVar(BTreeMap<String, String>),
}

/// `None`: everything is allowed.
struct AllowedPaths(Option<Vec<PathBuf>>);

impl Providers {
    /// The providers that a worker config names in `config.providers`, `config.providers.<name>.class` and
    /// `config.providers.<name>.param.<key>`.
    ///
    /// # Errors
    /// `Config` for a class or parameter that cannot be used.
    pub fn new(worker: &Config) -> Result<Self> {
        let names = worker.get("config.providers").map(String::as_str).unwrap_or_default();
        let provider = |name: &str| {
            let prefix = format!("config.providers.{name}.");
            let settings = with_prefix(worker, &prefix);
            let class = settings.get("class").ok_or_else(|| {
                ConnectError::config(format!(
                    "Missing required configuration \"{prefix}class\": the provider '{name}' of config.providers needs one"
                ))
            })?;
            let provider = Provider::new(class, &with_prefix(&settings, "param.")).map_err(|error| {
                let message = format!("Cannot use the config provider '{name}' of {prefix}class: {}", error.message());
                ConnectError::config(message).caused_by(error)
            })?;
            Ok((name.to_owned(), provider))
        };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self { provider_by_name: Arc::new(names.map(provider).collect::<Result<_>>()?) })
    }

    /// `config` with every reference replaced that can be.
    ///
    /// # Errors
    /// `Config` naming the key whose file or directory cannot be read; never its value.
    pub fn resolve(&self, config: &Config) -> Result<Config> {
        let resolve = |(key, value): (&String, &String)| {
            let value = self.resolve_text(value).map_err(|error| {
                let message = format!("{} (the value of {key} refers to it)", error.message());
                ConnectError::config(message).caused_by(error)
            })?;
            Ok((key.clone(), value))
        };
        config.iter().map(resolve).collect()
    }

    /// The keys of `config` whose values hold a reference to anything.
    pub fn keys_with_references(config: &Config) -> impl Iterator<Item = &String> {
        config.iter().filter(|(_, value)| REFERENCE.is_match(value).unwrap_or(false)).map(|(key, _)| key)
    }

    fn resolve_text(&self, text: &str) -> Result<String> {
        let mut resolved = String::with_capacity(text.len());
        let mut end = 0;
        for (count, captures) in REFERENCE.captures_iter(text).flatten().enumerate() {
            let Some(whole) = captures.get(0) else { continue };
            let Some(value) = self.look_up(&captures)? else { continue };
            resolved.push_str(&text[end..whole.start()]);
            resolved.push_str(&value);
            end = whole.end();
            if count >= LIMIT_REFERENCES || resolved.len() > LIMIT_BYTES {
                return Err(ConnectError::config(format!(
                    "A value may hold {LIMIT_REFERENCES} references and {LIMIT_BYTES} bytes of what they stand for"
                )));
            }
        }
        resolved.push_str(&text[end..]);
        Ok(resolved)
    }

    fn look_up(&self, captures: &Captures<'_>) -> Result<Option<String>> {
        let group = |index| captures.get(index).map(|found| found.as_str()).unwrap_or_default();
        match self.provider_by_name.get(group(1)) {
            Some(provider) => provider.get(group(3), group(4)),
            None => Ok(None),
        }
    }
}

#[expect(clippy::unwrap_used, reason = "a literal; the tests compile it")]
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\$\{([^}]*?):(([^}]*?):)?([^}]*?)\}").unwrap());

impl Provider {
    fn new(class: &str, params: &Config) -> Result<Self> {
        let simple = class.strip_prefix(PACKAGE).unwrap_or(class);
        match simple.strip_suffix("ConfigProvider").unwrap_or(simple) {
            "File" => Ok(Self::File(AllowedPaths::new(params)?)),
            "Directory" => Ok(Self::Directory(AllowedPaths::new(params)?)),
            "EnvVar" => Ok(Self::EnvVar(allowed_variables(params)?)),
            _ => Err(ConnectError::config(format!(
                "Class {class} could not be found. The providers are {PACKAGE}FileConfigProvider, \
                 {PACKAGE}DirectoryConfigProvider and {PACKAGE}EnvVarConfigProvider"
            ))),
        }
    }

    fn get(&self, path: &str, key: &str) -> Result<Option<String>> {
        match self {
            Self::File(allowed) => match allowed.admit(path) {
                Some(path) => {
                    let unread = || format!("Could not read properties from file {}", path.display());
                    let bytes = read(&path).map_err(|error| ConnectError::config(unread()).caused_by(error))?;
                    let mut entries = properties::parse(&bytes)
                        .map_err(|error| ConnectError::config(format!("{}: {}", unread(), error.message())))?;
                    Ok(entries.remove(key))
                }
                None => Ok(None),
            },
            Self::Directory(allowed) => allowed.admit(path).map_or(Ok(None), |directory| file_of(&directory, key)),
            Self::EnvVar(_) if !path.is_empty() => Err(ConnectError::config(format!(
                "Path is not supported for EnvVarConfigProvider, invalid value '{path}'; write ${{provider:{key}}}"
            ))),
            Self::EnvVar(variables) => Ok(variables.get(key).cloned()),
        }
    }
}

impl AllowedPaths {
    fn new(params: &Config) -> Result<Self> {
        let Some(paths) = params.get("allowed.paths").filter(|paths| !paths.is_empty()) else { return Ok(Self(None)) };
        let allowed = |path: &str| {
            let path = normalize(Path::new(path));
            if !path.is_absolute() {
                return Err(ConnectError::config(format!("Path {} of allowed.paths is not absolute", path.display())));
            }
            if !path.exists() {
                return Err(ConnectError::config(format!("Path {} of allowed.paths does not exist", path.display())));
            }
            Ok(path)
        };
        Ok(Self(Some(paths.split(',').map(allowed).collect::<Result<_>>()?)))
    }

    /// The path to read; `None` (and a line in the log) where it must not be.
    fn admit(&self, path: &str) -> Option<PathBuf> {
        let allowed = match &self.0 {
            _ if path.is_empty() => return None,
            None => return Some(PathBuf::from(path)),
            Some(allowed) => allowed,
        };
        let path = normalize(Path::new(path));
        if allowed.iter().any(|parent| path.starts_with(parent)) {
            return Some(path);
        }
        warn!(path = %path.display(), "the path is not allowed to be accessed: it is outside of allowed.paths");
        None
    }
}

/// Resolves `.` and `..` by name alone, as Java's `Path.normalize`.
fn normalize(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(normal.components().next_back(), Some(Component::Normal(_))) => {
                normal.pop();
            }
            Component::ParentDir if normal.has_root() => {}
            other => normal.push(other),
        }
        normal
    })
}

/// The content of the regular file `name` directly in `directory`.
fn file_of(directory: &Path, name: &str) -> Result<Option<String>> {
    let is_a_name =
        matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(only)] if only == name);
    let path = directory.join(name);
    if !is_a_name || !path.is_file() {
        return Ok(None);
    }
    let text = read(&path).and_then(|bytes| String::from_utf8(bytes).map_err(Error::other));
    text.map(Some).map_err(|error| {
        ConnectError::config(format!("Could not read file {} for property {name}", path.display())).caused_by(error)
    })
}

/// The bytes of a regular file of bounded size. A device would never end, and a pipe would keep the worker waiting.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let refused = |why: &str| Err(Error::new(ErrorKind::InvalidInput, why));
    if !std::fs::metadata(path)?.is_file() {
        return refused("it is no regular file");
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LIMIT_BYTES { refused("it has more than 1048576 bytes") } else { Ok(bytes) }
}

fn allowed_variables(params: &Config) -> Result<BTreeMap<String, String>> {
    let pattern = params.get("allowlist.pattern").map(String::as_str).unwrap_or(".*");
    let pattern = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        ConnectError::config(format!("Invalid value {pattern} for allowlist.pattern: not a regular expression"))
            .caused_by(error)
    })?;
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(variables.filter(|(name, _)| pattern.is_match(name).unwrap_or(false)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lakeferry-provider-{test}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("below")).unwrap();
            std::fs::write(path.join("secrets.properties"), "user=ferry\npassword = s3:cret}\n").unwrap();
            std::fs::write(path.join("token"), "abc\n").unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn providers(extra: &[(&str, &str)]) -> Result<Providers> {
        let mut worker = config(&[
            ("config.providers", "file, dir ,env"),
            ("config.providers.file.class", "org.apache.kafka.common.config.provider.FileConfigProvider"),
            ("config.providers.dir.class", "DirectoryConfigProvider"),
            ("config.providers.env.class", "EnvVar"),
            ("config.providers.env.param.allowlist.pattern", "CARGO_PKG_N.*"),
        ]);
        worker.extend(config(extra));
        Providers::new(&worker)
    }

    #[test]
    fn resolves_what_kafka_resolves() {
        let folder = Folder::new("resolve");
        let path = folder.0.display();
        let resolve = |text: &str| providers(&[]).unwrap().resolve_text(text).unwrap();
        assert_eq!(resolve(&format!("${{file:{path}/secrets.properties:user}}")), "ferry");
        assert_eq!(resolve(&format!("a${{file:{path}/secrets.properties:password}}b")), "as3:cret}b");
        assert_eq!(resolve(&format!("${{dir:{path}:token}}")), "abc\n");
        assert_eq!(resolve("${env:CARGO_PKG_NAME}-${env:CARGO_PKG_NAME}"), "lakeferry-lakeferry");
        let literal = [
            "${env:CARGO_MANIFEST_DIR}".to_owned(),
            format!("${{dir:{path}:below}}"),
            format!("${{dir:{path}/below:../token}}"),
            format!("${{file:{path}/secrets.properties:none}}"),
            "${file:key}".to_owned(),
            "${vault:path:key}".to_owned(),
            "$env:CARGO_PKG_NAME ${} ${x}".to_owned(),
        ];
        for text in literal {
            assert_eq!(resolve(&text), text);
        }
    }

    #[test]
    fn an_allowed_path_keeps_the_rest_out() {
        let folder = Folder::new("allowed");
        let below = folder.0.join("below").display().to_string();
        let file = folder.0.join("secrets.properties").display().to_string();
        let providers = providers(&[
            ("config.providers.file.param.allowed.paths", &below),
            ("config.providers.dir.param.allowed.paths", &below),
        ]);
        let providers = providers.unwrap();
        for text in [format!("${{file:{file}:user}}"), format!("${{dir:{below}/..:token}}")] {
            assert_eq!(providers.resolve_text(&text).unwrap(), text);
        }
    }

    #[test]
    fn errors_name_the_key_and_never_the_value() {
        let resolved = providers(&[]).unwrap().resolve(&config(&[("password", "pre${file:/none/such:key}")]));
        let error = resolved.unwrap_err();
        let message = "Could not read properties from file /none/such (the value of password refers to it)";
        assert_eq!(error.message(), message);
        assert!(!error.trace().contains("pre$"), "{}", error.trace());
        assert!(providers(&[]).unwrap().resolve_text("${env:path:KEY}").is_err());
    }

    #[test]
    fn a_damaged_file_is_named_with_the_key_in_it_and_without_the_value() {
        let folder = Folder::new("damaged");
        let file = folder.0.join("damaged.properties").display().to_string();
        std::fs::write(&file, "user=me\npassword=\\ufoo").unwrap();
        let error =
            providers(&[]).unwrap().resolve(&config(&[("a.user", &format!("${{file:{file}:user}}"))])).unwrap_err();
        let trace = error.trace();
        for word in ["a.user", &file, "the value of the key \"password\""] {
            assert!(trace.contains(word), "{word}: {trace}");
        }
        assert!(!trace.contains("foo"), "{trace}");
    }

    #[test]
    fn what_never_ends_or_is_too_large_is_refused_by_name() {
        let folder = Folder::new("endless");
        let (large, many) = (folder.0.join("large"), folder.0.join("many.properties"));
        std::fs::write(&large, vec![b'x'; LIMIT_BYTES + 1]).unwrap();
        std::fs::write(&many, format!("half={}", "x".repeat(LIMIT_BYTES / 2))).unwrap();
        let (dir, large, many) = (folder.0.display(), large.display(), many.display());
        let half = format!("${{file:{many}:half}}");
        let cases = [
            ("${file:/dev/zero:key}".to_owned(), "no regular file"),
            ("${file:/:key}".to_owned(), "no regular file"),
            (format!("${{file:{large}:key}}"), "more than 1048576 bytes"),
            (format!("${{dir:{dir}:large}}"), "more than 1048576 bytes"),
            (half.repeat(3), "1048576 bytes of what they stand for"),
            ("${env:CARGO_PKG_NAME}".repeat(LIMIT_REFERENCES + 1), "256 references"),
        ];
        let providers = providers(&[]).unwrap();
        for (value, why) in cases {
            let error = providers.resolve(&config(&[("database.password", &value)])).unwrap_err();
            let trace = error.trace();
            assert!(trace.contains(why) && trace.contains("database.password"), "{trace}");
        }
        assert_eq!(providers.resolve_text(&half).unwrap().len(), LIMIT_BYTES / 2);
        assert_eq!(providers.resolve_text(&"${env:CARGO_PKG_NAME}".repeat(200)).unwrap(), "lakeferry".repeat(200));
    }

    proptest! {
        #[test]
        fn no_text_of_references_panics(text in "[${}:/.a]{0,40}|(\\$\\{(env|file|dir)?:?[a/.:]{0,6}\\}?){0,8}") {
            let _ = providers(&[]).unwrap().resolve_text(&text);
            let _ = Providers::keys_with_references(&config(&[("key", &text)])).count();
        }
    }

    #[test]
    fn refuses_providers_that_cannot_be_used() {
        let cases = [
            ("config.providers.file.class", "com.example.Vault", "com.example.Vault"),
            ("config.providers.file.param.allowed.paths", "relative", "not absolute"),
            ("config.providers.file.param.allowed.paths", "/none/such", "does not exist"),
            ("config.providers.env.param.allowlist.pattern", "(", "allowlist.pattern"),
            ("config.providers", "vault", "config.providers.vault.class"),
        ];
        for (key, value, named) in cases {
            let trace = providers(&[(key, value)]).err().unwrap().trace();
            assert!(trace.contains(named), "{key}={value}: {trace}");
        }
    }

    #[test]
    fn finds_the_keys_that_hold_references() {
        let config = config(&[("a", "${file:p:k}"), ("b", "plain"), ("c", "x${env:K}"), ("d", "${}")]);
        assert_eq!(Providers::keys_with_references(&config).collect::<Vec<_>>(), ["a", "c"]);
    }
}
