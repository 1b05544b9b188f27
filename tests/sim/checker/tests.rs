//! Proof that the checker can fail: every row of the table damages an archive that it finds in order, seals it again,
//! and names what the checker has to say of it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lakeferry_api::batch::NO_TIMESTAMP;
use lakeferry_api::{BatchBuilder, TimestampType, TopicPartition};
use lakeferry_lake::format::{FORMATS, FileHeader};
use serde_json::{Map, Value, json};

use super::*;
use crate::broker::log::Stamp;
use crate::plan::Plan;

mod damages;

use damages::DAMAGES;

/// Seeds among whose archives one is looked for that can be damaged so.
const SEEDS: std::ops::Range<u64> = 0..48;

/// An archive, its chains taken apart.
#[derive(Clone)]
struct Specimen {
    objects: Objects,
    chains: BTreeMap<TopicPartition, Vec<Value>>,
    broker: Arc<Broker>,
}

/// Changes an archive where it can.
type Damage = fn(&mut Specimen) -> Option<()>;

impl Specimen {
    fn entries(&mut self) -> impl Iterator<Item = &mut Value> {
        self.chains.values_mut().flatten()
    }

    /// The first entry that `fits`.
    fn entry(&mut self, fits: impl Fn(&Value) -> bool) -> Option<&mut Value> {
        self.entries().find(|entry| fits(entry))
    }

    fn commit(&mut self) -> Option<&mut Value> {
        self.entry(|entry| entry["kind"] == "commit" && !entry["files"].as_array().unwrap().is_empty())
    }

    /// The first file that `fits`, by its line.
    fn file(&mut self, fits: impl Fn(&Value) -> bool) -> Option<&mut Value> {
        self.entries().flat_map(|entry| entry["files"].as_array_mut().unwrap()).find(|file| fits(file))
    }

    /// Writes the rows of a file again, changed, and makes its line fit the new bytes.
    fn rewrite(&mut self, change: impl Fn(&mut Rows, &mut FileHeader)) -> Option<()> {
        let (partition, entry) = self.chains.iter_mut().find_map(|(partition, chain)| {
            let has_file = |entry: &&mut Value| !entry["files"].as_array().unwrap().is_empty();
            Some((partition, chain.iter_mut().find(has_file)?))
        })?;
        let topic_id = entry["source"]["topic_id"].as_str().map(str::to_owned);
        let file = &mut entry["files"][0];
        let path = format!("{ROOT}/{}", file["path"].as_str()?);
        let format = FORMATS.iter().find(|format| file["format"] == format.name)?;
        let mut rows: Rows = rows::read(format.name, &self.objects[&path], partition).ok()?.rows.into_iter().collect();
        let mut header =
            FileHeader { partition: partition.clone(), cluster_id: Some("simulated".to_owned()), topic_id };
        change(&mut rows, &mut header);
        let mut builder = BatchBuilder::new(header.partition.clone(), *rows.first_key_value()?.0);
        for (offset, rec) in &rows {
            let kind = rec.stamp.map(|stamp| match stamp {
                Stamp::Create => TimestampType::Create,
                Stamp::Append => TimestampType::Append,
            });
            let stamp = (rec.timestamp.unwrap_or(NO_TIMESTAMP), kind);
            builder.push(*offset, stamp, rec.key.as_deref(), rec.value.as_deref());
            rec.headers.iter().for_each(|(key, value)| builder.header(key, value.as_deref()));
        }
        let batch = builder.build(rows.last_key_value()?.0 + 1);
        let codec = file["codec"].as_str()?.to_owned();
        let mut encoder = format.encoder(header, format.compression(&codec, None).ok()?).ok()?;
        encoder.append(&batch).ok()?;
        let tail = encoder.finish().ok()?;
        let bytes = encoder.take_encoded();
        let grown = bytes.len() as i64 - file["stored_bytes"].as_i64()?;
        file["stored_bytes"] = json!(bytes.len());
        file["sha256"] = json!(hex(&bytes));
        file["blocks"] = tail
            .blocks
            .iter()
            .map(|block| {
                let (at, len) = (block.at as usize, block.len as usize);
                json!({"at": at, "len": len, "sha256": hex(&bytes[at..at + len])})
            })
            .collect();
        let (chain, lineage) = (partition.clone(), entry["source"]["lineage"].clone());
        self.objects.insert(path, bytes);
        let mut begun = false;
        for entry in self.chains.get_mut(&chain)? {
            begun |= !entry["files"].as_array()?.is_empty();
            if begun && entry["source"]["lineage"] == lineage {
                entry["totals"]["stored_bytes"] = json!(entry["totals"]["stored_bytes"].as_i64()? + grown);
            }
        }
        Some(())
    }

    /// Seals every entry, each with the hash of the one before it.
    fn seal(mut self) -> (Objects, Arc<Broker>) {
        self.objects.retain(|path, _| !path.contains("/_manifests/"));
        for (partition, chain) in &mut self.chains {
            let mut previous = Value::Null;
            for (at, entry) in chain.iter_mut().enumerate() {
                entry["previous_sha256"] = previous;
                let members: &mut Map<String, Value> = entry.as_object_mut().unwrap();
                members.shift_remove("self_sha256");
                let body = entry.to_string();
                let seal = hex(body.as_bytes());
                let text = format!("{},\"self_sha256\":\"{seal}\"}}", &body[..body.len() - 1]);
                previous = json!(hex(text.as_bytes()));
                let folder = format!("{ROOT}/{}/_manifests/partition={}", partition.topic, partition.partition);
                self.objects.insert(format!("{folder}/{at:020}.json"), Bytes::from(text));
            }
        }
        (self.objects, self.broker)
    }
}

/// The archives of the first seeds, all in order.
fn specimens() -> &'static [Specimen] {
    static SPECIMENS: OnceLock<Vec<Specimen>> = OnceLock::new();
    SPECIMENS.get_or_init(|| {
        let specimen = |seed| {
            let (objects, broker) = crate::archive(&Plan::of(seed));
            let chains = chain::read_all(&objects).unwrap();
            Specimen { objects, chains, broker }
        };
        SEEDS.map(specimen).collect()
    })
}

#[test]
fn what_is_not_damaged_is_in_order() {
    for specimen in specimens() {
        let (objects, broker) = specimen.clone().seal();
        assert_eq!(objects, specimen.objects, "sealing again changes nothing");
        check(&objects, &broker).unwrap();
    }
}

#[test]
fn every_damage_is_found() {
    let mut unseen = Vec::new();
    for (damage, law, inflict) in DAMAGES {
        let damaged = specimens().iter().find_map(|specimen| {
            let mut specimen = specimen.clone();
            inflict(&mut specimen).map(|()| specimen.seal())
        });
        match damaged.map(|(objects, broker)| check(&objects, &broker)) {
            Some(Err(said)) if said.contains(law) => {}
            Some(Err(said)) => unseen.push(format!("{damage}: the checker says {said}, not {law}")),
            Some(Ok(_)) => unseen.push(format!("{damage}: nobody notices")),
            None => unseen.push(format!("{damage}: no archive can be damaged so")),
        }
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}

#[test]
fn bytes_that_were_altered_are_found() {
    let specimen = &specimens()[0];
    let (path, bytes) = specimen.objects.iter().find(|(path, _)| path.contains("/_manifests/")).unwrap();
    let text = std::str::from_utf8(bytes).unwrap();
    let said = |text: String| {
        let mut objects = specimen.objects.clone();
        objects.insert(path.clone(), Bytes::from(text));
        check(&objects, &specimen.broker).err().unwrap_or_default()
    };
    assert!(said(text.replace("\"epoch\":1", "\"epoch\":2")).contains("the seal is broken"));
    let (body, _) = text.rsplit_once(",\"self_sha256\"").unwrap();
    let spaced = format!("{}}}", body.replace("\"epoch\":", "\"epoch\": "));
    let sealed = format!("{},\"self_sha256\":\"{}\"}}", &spaced[..spaced.len() - 1], hex(spaced.as_bytes()));
    assert!(said(sealed).contains("between its tokens"));
    let mut objects = specimen.objects.clone();
    objects.remove(path);
    assert!(check(&objects, &specimen.broker).is_err_and(|law| law.contains("leaves a hole")));
}
