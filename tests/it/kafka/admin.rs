//! What is asked and changed without reading: topics, configs, groups and their offsets.

use super::*;

#[tokio::test]
async fn the_admin_tells_and_changes_what_the_broker_knows() {
    let kafka = kit::need!(kit::kafka());
    let bootstrap = kafka.bootstrap();
    let admin = admin(&bootstrap);
    assert_eq!(admin.cluster_id().await.unwrap().len(), 22);
    let new = NewTopic {
        name: "k-admin".to_owned(),
        partitions: Some(3),
        replication_factor: None,
        configs: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
    };
    admin.create_topic(&new).await.unwrap();
    assert_eq!(admin.create_topic(&new).await.expect_err("exists").kind(), Kind::Conflict);
    let bad = NewTopic { name: "k-admin-2".to_owned(), replication_factor: Some(7), ..new.clone() };
    assert_eq!(admin.create_topic(&bad).await.expect_err("refused").kind(), Kind::Config);
    let bad = NewTopic { configs: BTreeMap::from([("no.such".to_owned(), "1".to_owned())]), ..bad };
    let error = admin.create_topic(&NewTopic { replication_factor: None, ..bad }).await.expect_err("refused");
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("no.such"), "{error}");
    assert!(admin.topics().await.unwrap().contains(&"k-admin".to_owned()));

    let view = admin.topic("k-admin").await.unwrap();
    assert_eq!((view.partitions, view.replication_factor), (3, 1));
    assert_eq!(view.configs, new.configs);
    let compacted = BTreeMap::from([("cleanup.policy".to_owned(), Some("compact".to_owned()))]);
    let mut both = new.configs.clone();
    both.insert("cleanup.policy".to_owned(), "compact".to_owned());
    let default = BTreeMap::from([("cleanup.policy".to_owned(), None)]);
    // A default is not the topic's own.
    for (altered, expected) in [(&compacted, &both), (&default, &new.configs), (&compacted, &both)] {
        admin.alter_topic_configs("k-admin", altered).await.unwrap();
        // The broker answers before the change has reached what it tells of itself.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while admin.topic("k-admin").await.unwrap().configs != *expected {
            assert!(tokio::time::Instant::now() < deadline, "{:?} is not {expected:?}", admin.topic("k-admin").await);
        }
    }
    let target = admin.target_topic("k-admin").await.unwrap().expect("exists");
    assert_eq!((target.partitions, target.offsets), (3, vec![(0, 0); 3]));
    assert_eq!(target.configs["message.timestamp.type"], "CreateTime");
    assert_eq!(target.configs["cleanup.policy"], "compact");

    assert_eq!(admin.target_topic("k-nothing").await.unwrap(), None);
    assert_eq!(admin.topic("k-nothing").await.expect_err("absent").kind(), Kind::NotFound);
    for absent in [place("k-nothing", 0), place("k-admin", 3)] {
        assert_eq!(admin.partition(&absent).await.expect_err("absent").kind(), Kind::NotFound, "{absent}");
    }
    let id = admin.partition(&place("k-admin", 0)).await.unwrap().topic_id.expect("an id");
    assert_eq!(id.len(), 22, "{id}");
    kafka.delete_topic("k-admin").unwrap();
    admin.create_topic(&new).await.unwrap();
    let again = admin.partition(&place("k-admin", 0)).await.unwrap().topic_id.expect("an id");
    assert_ne!(again, id, "a topic that was made anew has another id");
}

#[tokio::test]
async fn a_groups_offsets_are_changed_only_without_members() {
    let kafka = kit::need!(kit::kafka());
    let bootstrap = kafka.bootstrap();
    create(kafka, "k-groups", 2, &[]);
    let admin = admin(&bootstrap);
    let (one, two) = (place("k-groups", 0), place("k-groups", 1));
    assert_eq!(admin.group_offsets("k-groups").await.unwrap(), Positions::new());
    assert!(!admin.group_is_live("k-groups").await.unwrap());
    let offsets = Positions::from([(one.clone(), 5), (two.clone(), 6)]);
    admin.alter_group_offsets("k-groups", &offsets).await.unwrap();
    assert_eq!(admin.group_offsets("k-groups").await.unwrap(), offsets);

    let mut consumer = member(&bootstrap, "k-groups", "k-groups", &[]);
    let partitions = assigned(&mut *consumer).await;
    assert_eq!(consumer.group().committed(&partitions).await.unwrap(), offsets);
    assert!(admin.group_is_live("k-groups").await.unwrap());
    for error in [
        admin.alter_group_offsets("k-groups", &offsets).await.expect_err("live"),
        admin.delete_group_offsets("k-groups", std::slice::from_ref(&one)).await.expect_err("live"),
        admin.delete_group("k-groups").await.expect_err("live"),
    ] {
        assert_eq!(error.kind(), Kind::Conflict, "{}", error.trace());
    }
    consumer.group().commit(&Positions::from([(one.clone(), 9)])).await.unwrap();
    consumer.close().await;

    assert!(!admin.group_is_live("k-groups").await.unwrap());
    admin.delete_group_offsets("k-groups", std::slice::from_ref(&two)).await.unwrap();
    assert_eq!(admin.group_offsets("k-groups").await.unwrap(), Positions::from([(one.clone(), 9)]));

    // What it held of a topic that is gone went with that, and stands in the way of nothing else.
    create(kafka, "k-groups-gone", 1, &[]);
    let gone = place("k-groups-gone", 0);
    admin.alter_group_offsets("k-groups", &Positions::from([(gone.clone(), 3)])).await.unwrap();
    kafka.delete_topic("k-groups-gone").unwrap();
    admin.delete_group_offsets("k-groups", &[gone, one]).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !admin.group_offsets("k-groups").await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", admin.group_offsets("k-groups").await);
    }
    admin.delete_group("k-groups").await.unwrap();
    admin.delete_group("k-groups").await.unwrap();
    assert_eq!(admin.group_offsets("k-groups").await.unwrap(), Positions::new());
}
