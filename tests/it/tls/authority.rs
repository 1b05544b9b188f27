//! A certificate authority of a test's own, which nobody on the machine knows, and what it vouches for: the key and
//! the certificate of a server on 127.0.0.1. Both are PEM, which Kafka, versitygw and the worker read alike.

use std::path::PathBuf;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};

use crate::kit;

/// The files of one authority.
pub(super) struct Authority {
    /// Its own certificate: what a client has to be told.
    pub(super) certificate: PathBuf,
    /// A server's key and certificates.
    pub(super) server: PathBuf,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let dir = kit::home::instance_dir("tls").unwrap();
        let [certificate, server] = ["authority.pem", "server.pem"].map(|name| dir.join(name));
        let root = sign("An authority of a test", None);
        let (signed, key) = sign("A server of a test", Some(&root));
        let own = root.0.to_pem().unwrap();
        std::fs::write(&server, [key.private_key_to_pem_pkcs8().unwrap(), signed.to_pem().unwrap()].concat()).unwrap();
        std::fs::write(&certificate, own).unwrap();
        Authority { certificate, server }
    }
}

/// A new key and its certificate: a server's by `issuer`, or one that is its own issuer.
fn sign(name: &str, issuer: Option<&(X509, PKey<Private>)>) -> (X509, PKey<Private>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(1 + u32::from(issuer.is_some())).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&subject, |(certificate, _)| certificate.subject_name())).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(7).unwrap()).unwrap();
    let extension = match issuer {
        Some(_) => SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)),
        None => BasicConstraints::new().critical().ca().build(),
    };
    builder.append_extension(extension.unwrap()).unwrap();
    builder.sign(issuer.map_or(&key, |(_, key)| key), MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}
