//! Files that go up in parts: whole, or not at all.

use std::sync::atomic::Ordering;

use lakeferry_api::{BatchBuilder, Closing, SinkTask};

use super::rig::{Rig, partition};

#[tokio::test]
async fn both_formats_reach_the_lake_in_parts() {
    for format in ["archive.parquet", "archive.avro"] {
        let rig = Rig::new(&[("format", format), ("codec", if format.ends_with("avro") { "null" } else { "none" })]);
        let mut writer = rig.writer(1);
        writer.open().await;
        let big = vec![7_u8; 1 << 20];
        for offset in 0..20 {
            let mut builder = BatchBuilder::new(partition(0), offset);
            builder.push(offset, (offset, None), None, Some(&big));
            writer.task.put(&[builder.build(offset + 1)]).await.unwrap();
            writer.tick().await.unwrap();
        }
        writer.task.close(&[partition(0)], Closing::Revoked).await.unwrap();
        let chain = rig.chain().await;
        let file = &chain.last().unwrap().files[0];
        assert!(file.stored_bytes > 20 << 20, "{format}");
        rig.assert_stored(file).await;
    }
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_no_parts() {
    let rig = Rig::new(&[("codec", "none")]);
    let mut writer = rig.writer(1);
    writer.open().await;
    let big = vec![7_u8; 1 << 20];
    let unfinished = || rig.store.unfinished.load(Ordering::SeqCst);
    let mut offset = 0;
    while unfinished() == 0 {
        let mut builder = BatchBuilder::new(partition(0), offset);
        builder.push(offset, (offset, None), None, Some(&big));
        offset += 1;
        writer.task.put(&[builder.build(offset)]).await.unwrap();
        writer.tick().await.unwrap();
        assert!(offset < 200, "no part goes up");
    }
    writer.task.close(&[partition(0)], Closing::Lost).await.unwrap();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(unfinished(), 0);
    assert_eq!(rig.budget.used(), 0, "what waited to go up is given back");
}
