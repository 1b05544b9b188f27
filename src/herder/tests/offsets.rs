//! Offsets that users set and reset.

use super::*;

#[tokio::test]
async fn offsets_are_altered_when_the_connector_is_stopped_and_agrees() {
    let herder = Herder::start();
    let one = || NewOffsets::Some(vec![(json!({"file": "a"}), json!({"at": 7}))]);
    let unknown = herder.handle.alter_offsets("c", one()).await.unwrap_err();
    assert_eq!(unknown.message(), "Connector c not found");
    herder.create("c", "well").await.unwrap();
    let running = herder.handle.alter_offsets("c", one()).await.unwrap_err();
    assert_eq!(running.kind(), Kind::Config);
    assert!(running.message().contains("must be in the STOPPED state"), "{running}");
    herder.handle.set_target("c", TargetState::Stopped).await.unwrap();
    done();
    assert_eq!(herder.handle.alter_offsets("c", one()).await.unwrap(), Altered { completely: false });
    let Offsets::Source(offsets) = herder.handle.offsets("c").await.unwrap() else { panic!("it is a source") };
    assert_eq!((offsets[0].0.as_str(), &offsets[0].1.as_map()["at"]), ("{\"file\":\"a\"}", &json!(7)));

    herder.handle.put_config("c", config("c", "refuses offsets")).await.unwrap();
    let refused = herder.handle.alter_offsets("c", NewOffsets::ResetAll).await.unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (Kind::Fatal, "not these"));
    herder.handle.put_config("c", config("c", "knows its offsets")).await.unwrap();
    assert_eq!(herder.handle.alter_offsets("c", NewOffsets::ResetAll).await.unwrap(), Altered { completely: true });
    assert_eq!(herder.handle.offsets("c").await.unwrap(), Offsets::Source(Vec::new()));
    assert_eq!(done(), ["alter 1", "alter 1", "alter 1"]);
}

#[tokio::test]
async fn a_reset_of_a_sink_is_told_even_where_its_group_committed_nothing() {
    let herder = Herder::start();
    let mut sink = config("s", "well");
    sink.extend([("connector.class", "ScriptedSink"), ("topics", "t")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    herder.handle.create("s", sink, TargetState::Stopped).await.unwrap();
    done();
    for committed in [Positions::new(), [(TopicPartition::new("t", 0), 5)].into()] {
        herder.cluster.set_committed(committed);
        let altered = herder.handle.alter_offsets("s", NewOffsets::ResetAll).await.unwrap();
        assert_eq!(altered, Altered { completely: true });
        assert_eq!(herder.cluster.committed(), Positions::new());
    }
    let five = NewOffsets::Some(vec![(json!({"kafka_topic": "t", "kafka_partition": 0}), json!({"kafka_offset": 5}))]);
    herder.handle.alter_offsets("s", five).await.unwrap();
    assert_eq!(herder.cluster.committed()[&TopicPartition::new("t", 0)], 5);
    assert_eq!(done(), ["reset connect-s to Latest", "reset connect-s to Latest", "alter 1 of connect-s"]);
}
