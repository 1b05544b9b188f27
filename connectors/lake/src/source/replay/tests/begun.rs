//! A replay that is begun again when its topic was created anew meanwhile.

use object_store::{ObjectStoreExt as _, PutPayload};

use super::super::super::prepare::{NotResumed, Prepared};
use super::*;

/// Two partitions of one topic; only the second holds records.
async fn of_old(name: &str) -> (TestArchive, Config, [TopicPartition; 2], Rows) {
    let (mut archive, config) = archive(name);
    let partitions = [archive.open("orders", 0, 0).await, archive.open("orders", 1, 0).await];
    archive.publish(&partitions[1], &[row(0, 1), row(1, 2)], 1).await;
    let rows = Rows::from([(partitions[1].clone(), vec![row(0, 1), row(1, 2)])]);
    (archive, config, partitions, rows)
}

async fn one_record_of_another(archive: &mut TestArchive, partitions: &[TopicPartition; 2]) -> String {
    archive.written_at += 60_000;
    for partition in partitions {
        archive.recreate(partition).await;
    }
    archive.publish(&partitions[0], &[row(0, 11)], 0).await;
    archive.archive().chain(&partitions[0]).await.unwrap().unwrap().end().source.topic_id.clone().unwrap()
}

#[tokio::test]
async fn it_goes_on_with_the_incarnation_that_it_began_with() {
    let (mut archive, config, partitions, rows) = of_old("begun").await;
    let context = TestContext::new();
    let mut task = start(&context, &config).await.unwrap();
    assert_eq!(drain(&context, &mut task).await.unwrap(), rows);

    let id = one_record_of_another(&mut archive, &partitions).await;
    let mut again = start(&context, &config).await.unwrap();
    assert_eq!(drain(&context, &mut again).await.unwrap(), Rows::new(), "nothing of the new one is mixed in");
    // What is read again after an abort is no other either.
    again.rewind().await.unwrap();
    assert_eq!(drain(&context, &mut again).await.unwrap(), Rows::new());

    // One that has stored nothing begins with the newest.
    let fresh = TestContext::new();
    let mut task = start(&fresh, &config).await.unwrap();
    assert_eq!(drain(&fresh, &mut task).await.unwrap(), Rows::from([(partitions[0].clone(), vec![row(0, 11)])]));

    // Whoever asks for another one, or follows, is refused and told what to set.
    for pairs in [&[("lineage", id.as_str())][..], &[("replay.end", "follow")]] {
        let error = start(&context, &with(&config, pairs)).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Config);
        let words = ["set lineage=Qm9, where orders is all", &id];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        assert_tells_of_one_topic_only(&error, "orders");
    }
    let mut old = start(&context, &with(&config, &[("lineage", "Qm9")])).await.unwrap();
    assert_eq!(drain(&context, &mut old).await.unwrap(), Rows::new());
    // What they are told helps: no offset of the topic is stored any more.
    for partition in &partitions {
        context.offsets.lock().unwrap().remove(&source_partition(partition).unwrap());
    }
    let mut new = start(&context, &with(&config, &[("replay.end", "follow")])).await.unwrap();
    assert_eq!(drain(&context, &mut new).await.unwrap(), Rows::from([(partitions[0].clone(), vec![row(0, 11)])]));
}

#[tokio::test]
async fn one_that_was_cut_short_comes_to_its_end() {
    let (mut archive, config, partitions, rows) = of_old("cut-short").await;
    let context = TestContext::new();
    context.offsets.lock().unwrap().insert(source_partition(&partitions[1]).unwrap(), stored(1, 1, None));
    one_record_of_another(&mut archive, &partitions).await;
    let mut task = start(&context, &config).await.unwrap();
    let rest = rows[&partitions[1]][1..].to_vec();
    assert_eq!(drain(&context, &mut task).await.unwrap(), Rows::from([(partitions[1].clone(), rest)]));
}

#[tokio::test]
async fn what_came_from_another_topic_or_archive_is_never_mixed_in() {
    let (_archive, config, partitions, _) = of_old("stranger").await;
    let context = TestContext::new();
    let key = source_partition(&partitions[1]).unwrap();
    // The number of the lineage and the offset would fit.
    context.offsets.lock().unwrap().insert(key, stored(1, 1, Some("of-another")));
    for pairs in [&[][..], &[("lineage", "Qm9")], &[("replay.end", "follow")]] {
        let error = start(&context, &with(&config, pairs)).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Config);
        let words = ["topic id of-another", "another topic or from another archive", "delete this one and stop"];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        assert_tells_of_one_topic_only(&error, "orders");
    }
}

#[tokio::test]
async fn a_partition_whose_offset_is_gone_begins_again() {
    let (_archive, config, partitions, _) = of_old("gone").await;
    let context = TestContext::new();
    let settings = SourceSettings::parse(&config).unwrap();
    let mut prepared = Prepared::new(&*context, settings).await.unwrap();
    let key = source_partition(&partitions[1]).unwrap();
    context.offsets.lock().unwrap().insert(key.clone(), stored(1, 1, Some("Qm9")));
    let position = |prepared: &Prepared| {
        let mut logs = prepared.topics[0].logs.iter();
        logs.find(|log| log.plan.partition == partitions[1]).unwrap().plan.position
    };
    prepared.resume(&*context).await.unwrap();
    assert_eq!(position(&prepared), 1);
    // Somebody deleted the target while the plan was read.
    context.offsets.lock().unwrap().remove(&key);
    prepared.resume(&*context).await.unwrap();
    assert_eq!(position(&prepared), 0);
}

#[tokio::test]
async fn damage_that_is_met_in_search_of_what_it_began_with_is_the_archives() {
    let (mut archive, config, partitions, _) = of_old("damaged-since").await;
    one_record_of_another(&mut archive, &partitions).await;
    let context = TestContext::new();
    let mut prepared = Prepared::new(&*context, SourceSettings::parse(&config).unwrap()).await.unwrap();
    let key = source_partition(&partitions[1]).unwrap();
    context.offsets.lock().unwrap().insert(key.clone(), stored(1, 1, Some("Qm9")));
    let entry = archive.layout.entry(&partitions[1], 0);
    archive.store.put(&entry, PutPayload::from_static(b"{")).await.unwrap();
    let why = prepared.resume(&*context).await.unwrap_err();
    let NotResumed::Archive(error) = why else { panic!("{why:?}") };
    assert!(error.kind() == Kind::Fatal && error.message().contains(entry.as_ref()), "{error}");

    // What somebody else stored is none of the archive's.
    context.offsets.lock().unwrap().insert(key, SourceOffset::new(Default::default()).unwrap());
    assert!(matches!(prepared.resume(&*context).await, Err(NotResumed::Stored(_))));
}
