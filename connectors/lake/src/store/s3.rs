//! `s3://bucket/prefix`: S3 and what speaks its language, with the option names of the `object_store` crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lakeferry_api::{ConnectError, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::ClientConfigKey;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use url::Url;

use super::leftovers::Leftovers;
use super::names::S3Names;
use super::uploads::{KeepingConnector, S3Uploads};
use super::{Checked, Opened, Refusal, path_of};

/// How long a request is tried again here; the task tries again after that.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// What is the address of a service. The client takes each on trust, and panics where it is none.
const ENDPOINTS: [AmazonS3ConfigKey; 4] = [
    AmazonS3ConfigKey::Endpoint,
    AmazonS3ConfigKey::S3Endpoint,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::MetadataEndpoint,
];

/// Opens the bucket and prefix that `url` names. The usual `AWS_` variables and the credentials of the machine hold
/// where `options` say nothing else.
///
/// # Errors
/// `Config` where an option is unknown or has a wrong value.
pub(super) fn open(url: &Url, options: &BTreeMap<String, String>) -> Result<Opened> {
    let bucket = bucket_of(url)?;
    let mut builder = builder(options).map_err(Refusal::into_error)?.with_retry(RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(3), ..BackoffConfig::default() },
        max_retries: 10,
        retry_timeout: RETRY_TIMEOUT,
    });
    for key in &ENDPOINTS {
        if let Some(value) = builder.get_config_value(key) {
            // Those of options were looked at above: this one is of a variable.
            refuse_endpoint(&key.as_ref().to_uppercase(), &value)?;
        }
    }
    let insecure = |key| builder.get_config_value(&key).is_some_and(|value| value.starts_with("http://"));
    if insecure(AmazonS3ConfigKey::Endpoint) || insecure(AmazonS3ConfigKey::S3Endpoint) {
        builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    let connector = KeepingConnector::default();
    let builder = builder.with_http_connector(connector.clone()).with_bucket_name(bucket);
    let store = builder.build().map_err(|error| {
        let names = options.keys().map(|option| format!("store.{option}")).collect::<Vec<_>>().join(", ");
        ConnectError::config(format!("store.url={url} cannot be opened with the options {names}: {error}"))
            .caused_by(error)
    })?;
    let root = path_of(url)?;
    let uploads = S3Uploads::new(store.clone(), &connector, root.clone()).map(|uploads| Arc::new(uploads) as _);
    let names = S3Names::new(store.clone(), root.clone());
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, root));
    Ok(Opened { store, leftovers: Leftovers { uploads, staging: None }, names: Some(Arc::new(names)) })
}

/// Looks at the settings alone.
///
/// # Errors
/// As [`open`].
pub(super) fn check(url: &Url, options: &BTreeMap<String, String>) -> Checked<()> {
    bucket_of(url).map_err(Refusal::at("store.url"))?;
    builder(options).map(drop)
}

fn bucket_of(url: &Url) -> Result<&str> {
    url.host_str()
        .ok_or_else(|| ConnectError::config(format!("store.url={url} names no bucket; write it as s3://bucket/prefix")))
}

/// What the environment says, and `options` before it.
fn builder(options: &BTreeMap<String, String>) -> Checked<AmazonS3Builder> {
    let mut builder = AmazonS3Builder::from_env();
    for (option, value) in options {
        let key = option.parse::<AmazonS3ConfigKey>().map_err(|_| Refusal::of_option("s3", option))?;
        let name = format!("store.{option}");
        if ENDPOINTS.contains(&key) {
            refuse_endpoint(&name, value).map_err(Refusal::at(&name))?;
        }
        builder = builder.with_config(key, value);
    }
    let has = |key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
    let (id, secret) = (AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey);
    let (given, missing) = match (has(id), has(secret)) {
        (true, false) => ("aws_access_key_id", "aws_secret_access_key"),
        (false, true) => ("aws_secret_access_key", "aws_access_key_id"),
        _ => return Ok(builder),
    };
    let why = format!(
        "store.{missing} is missing beside store.{given} (or {} in the worker's environment): set both, or neither where \
         the machine's role gives credentials",
        given.to_uppercase()
    );
    Err(Refusal::at(format!("store.{missing}"))(ConnectError::config(why)))
}

/// Looks at the address of a service.
///
/// # Errors
/// The remedy where it is none.
pub fn check_endpoint(value: &str) -> std::result::Result<(), String> {
    let has_scheme = ["http://", "https://"].iter().any(|scheme| value.starts_with(scheme));
    if !has_scheme {
        let host = value.split_once("://").map_or(value, |(_, host)| host).trim();
        return Err(format!("must begin with http:// or https://: write http://{host} or https://{host}"));
    }
    // The client reads it more narrowly: what a parser of URLs mends or escapes is none there.
    let url = Url::parse(value).map_err(|error| format!("is no URL ({error}): write it as http://host:port"))?;
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(format!("holds characters that no address has: write it as {url}"))
    }
}

fn refuse_endpoint(name: &str, value: &str) -> Result<()> {
    check_endpoint(value).map_err(|why| ConnectError::config(format!("{name}={value} cannot be used: it {why}")))
}
