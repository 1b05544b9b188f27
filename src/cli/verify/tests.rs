use clap::Parser as _;
use lakeferry_api::TopicPartition;

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parse(arguments: &[&str]) -> std::result::Result<Args, clap::Error> {
    Line::try_parse_from(["verify", "file:///lake"].iter().chain(arguments)).map(|line| line.args)
}

#[test]
fn arguments_are_those_of_a_restore() {
    let args = parse(&[
        "--bootstrap-server",
        "b:9092",
        "--rename",
        "orders=copy",
        "--until",
        "2013-06-30T23:59:59.999Z",
        "--cut",
        "log",
        "--offsets",
        "orders:1:5:9",
    ]);
    let args = args.unwrap();
    let settings = args.replay().unwrap();
    assert_eq!(settings.target_of("orders"), "copy");
    assert_eq!(settings.cut.window.until, Some(1_372_636_799_999));
    assert_eq!(settings.cut.mode, lakeferry_lake::source::cut::CutMode::Log);
    assert!(
        settings.asks_for(&TopicPartition::new("orders", 1)) && !settings.asks_for(&TopicPartition::new("orders", 0))
    );
    assert_eq!(args.properties().unwrap()["bootstrap.servers"], "b:9092");
}

#[test]
fn a_time_or_a_rename_without_a_cluster_is_refused() {
    for arguments in
        [["--until", "5"], ["--from", "5"], ["--rename", "a=b"], ["--match", "order"], ["--offsets", "a:0:1:2"]]
    {
        let error = parse(&arguments).err().unwrap().to_string();
        assert!(error.contains("--bootstrap-server"), "{error}");
    }
    let bad = parse(&["--bootstrap-server", "b:1", "--until", "yesterday"]).unwrap().replay().unwrap_err();
    assert_eq!(bad.kind(), lakeferry_api::Kind::Config);
    assert!(bad.message().contains("yesterday"), "{bad}");
    assert!(parse(&["--bootstrap-server", "b:1", "--rename", "a"]).unwrap().replay().is_err());
    let both = ["--bootstrap-server", "b:1", "--offsets", "a:0:1:2", "--match", "offset"];
    let refused = parse(&both).unwrap().replay().unwrap_err();
    assert!(refused.message().contains("leave --match out"), "{refused}");
}
