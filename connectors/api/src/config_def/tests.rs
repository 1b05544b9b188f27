use super::*;

fn def() -> ConfigDef {
    ConfigDef::new()
        .define(ConfigKey::new("topic", ConfigType::String))
        .define(ConfigKey::new("size", ConfigType::Int).default("10").at_least(1))
        .define(ConfigKey::new("codec", ConfigType::String).default("zstd").one_of(&["none", "zstd"]))
        .define(ConfigKey::new("names", ConfigType::List).default(""))
        .define(ConfigKey::new("secret", ConfigType::Password).default_null())
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn parses_with_defaults_and_trims() {
    let parsed = def().parse(&config(&[("topic", " t "), ("names", "a , b,")])).unwrap();
    assert_eq!(parsed.text("topic").unwrap(), "t");
    assert_eq!(parsed.integer("size").unwrap(), 10);
    assert_eq!(parsed.list("names"), ["a", "b", ""]);
    assert_eq!(parsed.text_if_set("secret"), None);
}

#[test]
fn says_what_kafka_says() {
    let values = def().validate(&config(&[("size", "0"), ("codec", "gz"), ("secret", "s3cret")]));
    let errors: Vec<_> = values.iter().flat_map(|value| value.errors.clone()).collect();
    assert_eq!(
        errors,
        [
            "Missing required configuration \"topic\" which has no default value.",
            "Invalid value 0 for configuration size: Value must be at least 1",
            "Invalid value gz for configuration codec: String must be one of: none, zstd",
        ]
    );
    assert_eq!(values[1].value.as_deref(), Some("0"), "a value that parses is shown though a check refused it");
    assert_eq!(values[4].value.as_deref(), Some(HIDDEN));
}

#[test]
fn a_number_that_does_not_parse_is_refused_by_its_range_too() {
    let values = def().validate(&config(&[("topic", "t"), ("size", " x")]));
    assert_eq!(
        values[1].errors,
        [
            "Invalid value  x for configuration size: Not a number of type INT",
            "Invalid value null for configuration size: Value must be non-null",
        ]
    );
}

#[test]
fn distinct_lists_refuse_repeated_and_empty_items() {
    let key = ConfigKey::new("names", ConfigType::List).default("").distinct();
    assert_eq!(key.parse(Some("a,b")).unwrap(), Parsed::List(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(key.parse(Some("a, a")).unwrap_err(), "Configuration 'names' values must not be duplicated.");
    assert_eq!(key.parse(Some("a,")).unwrap_err(), "Configuration 'names' values must not be empty.");
}
