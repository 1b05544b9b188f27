//! Java's key and trust stores as librdkafka's files. PEM works as it is, a PKCS12 key store too; what only Java can
//! read (JKS, a PKCS12 trust store) is refused with the command that converts it.

use lakeferry_api::{Config, ConnectError, Result};

use super::Settings;

const TRUST_TYPE: &str = "ssl.truststore.type";
const TRUST_FILE: &str = "ssl.truststore.location";
const KEY_TYPE: &str = "ssl.keystore.type";
const KEY_FILE: &str = "ssl.keystore.location";

/// Letters in a line of PEM.
const PEM_LINE: usize = 64;

const HANDLED: &[&str] = &[
    TRUST_TYPE,
    TRUST_FILE,
    KEY_TYPE,
    KEY_FILE,
    "ssl.truststore.password",
    "ssl.truststore.certificates",
    "ssl.keystore.password",
    "ssl.keystore.key",
    "ssl.keystore.certificate.chain",
];

/// True for the names that [`apply`] reads.
pub(super) fn is_handled(key: &str) -> bool {
    HANDLED.contains(&key)
}

/// Writes librdkafka's names for the stores that `properties` name.
pub(super) fn apply(properties: &Config, settings: &mut Settings) -> Result<()> {
    let given = |key: &str| properties.get(key).filter(|value| !value.trim().is_empty());
    let pem = |key: &str| given(key).map(|text| pem_lines(key, text)).transpose();
    let mut set = |name: &str, value: &str| settings.insert(name.to_owned(), value.to_owned());
    if let Some(file) = given(TRUST_FILE) {
        match store_type(properties, TRUST_TYPE, file).as_str() {
            "PEM" => set("ssl.ca.location", readable(TRUST_FILE, file)?),
            other => return Err(not_readable(TRUST_FILE, file, other, "-exportcert -rfc -file ca.pem")),
        };
    }
    if let Some(pem) = pem("ssl.truststore.certificates")? {
        set("ssl.ca.pem", &pem);
    }
    if let Some(file) = given(KEY_FILE) {
        match store_type(properties, KEY_TYPE, file).as_str() {
            "PEM" => {
                set("ssl.key.location", readable(KEY_FILE, file)?);
                set("ssl.certificate.location", file);
            }
            "PKCS12" => {
                set("ssl.keystore.location", readable(KEY_FILE, file)?);
                if let Some(password) = given("ssl.keystore.password") {
                    set("ssl.keystore.password", password);
                }
            }
            other => {
                return Err(not_readable(KEY_FILE, file, other, "-importkeystore -deststoretype PKCS12"));
            }
        }
    }
    if let Some(pem) = pem("ssl.keystore.key")? {
        set("ssl.key.pem", &pem);
    }
    if let Some(pem) = pem("ssl.keystore.certificate.chain")? {
        set("ssl.certificate.pem", &pem);
    }
    Ok(())
}

/// PEM in the lines that OpenSSL wants. Java takes it on a single line, which is what continued lines of a properties
/// file come to.
fn pem_lines(key: &str, text: &str) -> Result<String> {
    if !text.contains("-----BEGIN ") {
        return Err(ConnectError::config(format!(
            "{key} holds no PEM; write it as -----BEGIN ...----- to -----END ...-----, or name a file in the location"
        )));
    }
    let mut lines = String::new();
    for (number, part) in text.split("-----").enumerate() {
        // Every other part is the inside of a BEGIN or END line; the others are what such lines enclose, and part.
        if number % 2 == 1 {
            lines.extend(["-----", part, "-----\n"]);
            continue;
        }
        // In lines already, which may be headers of an encrypted key, too.
        if part.trim().contains('\n') {
            part.trim().lines().for_each(|line| lines.extend([line.trim(), "\n"]));
            continue;
        }
        let letters: Vec<char> = part.chars().filter(|letter| !letter.is_whitespace()).collect();
        for line in letters.chunks(PEM_LINE) {
            lines.extend(line);
            lines.push('\n');
        }
    }
    Ok(lines)
}

/// The client library would name its own setting, and not the file.
fn readable<'a>(key: &str, file: &'a str) -> Result<&'a str> {
    match std::fs::File::open(file) {
        Ok(_) => Ok(file),
        Err(error) => Err(ConnectError::config(format!(
            "{key} {file} cannot be read: {error}; name a file that the user of this process may read"
        ))),
    }
}

/// The type that is said, else the one that the file's name says, else Java's default.
fn store_type(properties: &Config, key: &str, file: &str) -> String {
    let said = properties.get(key).map(|said| said.trim().to_ascii_uppercase());
    said.filter(|said| !said.is_empty()).unwrap_or_else(|| {
        let extension = file.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "pem" | "crt" | "cer" => "PEM",
            "p12" | "pfx" => "PKCS12",
            _ => "JKS",
        }
        .to_owned()
    })
}

fn not_readable(key: &str, file: &str, kind: &str, remedy: &str) -> ConnectError {
    ConnectError::config(format!(
        "{key} {file} is of type {kind}, which only Java reads; convert it (keytool {remedy}) and set the type of the \
         result (PEM, or PKCS12 for a key store)"
    ))
}
