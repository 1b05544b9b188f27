//! What commands call the settings that they share with the source connector. The lake's messages name the keys of a
//! connector config; who typed options is told of options.

/// Keys, and the options that stand for them.
const OPTIONS: [(&str, &str); 9] = [
    ("replay.from", "--from"),
    ("replay.until", "--until"),
    ("replay.cut", "--cut"),
    ("replay.offsets", "--offsets"),
    ("replay.untimed", "--untimed"),
    ("replay.order", "--order"),
    ("replay.rate.bytes", "--rate"),
    ("replay.replication.factor", "--replication-factor"),
    ("topic.rename", "--rename"),
];

/// `words` with options in place of keys.
pub(super) fn in_options(words: &str) -> String {
    let words = words.replace("replay.force=true", "--force").replace(" lineage=", " --lineage ");
    let named = OPTIONS.iter().fold(words, |words, (key, option)| {
        words.replace(&format!("{key}="), &format!("{option} ")).replace(key, option)
    });
    // A word of its own elsewhere.
    match named.strip_prefix("lineage") {
        Some(rest) if rest.starts_with(':') => format!("--lineage{rest}"),
        Some(rest) if rest.starts_with('=') => format!("--lineage {}", &rest[1..]),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use lakeferry_lake::source::config::source_def;

    use super::*;

    #[test]
    fn who_typed_options_is_told_of_options() {
        let cases = [
            (
                "nothing was written; set replay.untimed=now to stamp them, or leave them out with replay.from or \
                 replay.offsets",
                "nothing was written; set --untimed now to stamp them, or leave them out with --from or --offsets",
            ),
            ("choose another target, or force it (replay.force=true)", "choose another target, or force it (--force)"),
            ("replay.until cannot be used", "--until cannot be used"),
            ("Invalid value 0 for configuration replay.rate.bytes: ", "Invalid value 0 for configuration --rate: "),
            ("lineage=7: orders-0 has no lineage 7", "--lineage 7: orders-0 has no lineage 7"),
            ("set lineage=<id> to go on, or replay.force=true", "set --lineage <id> to go on, or --force"),
            ("lineage: no partition of orders", "--lineage: no partition of orders"),
            ("another lineage of orders", "another lineage of orders"),
        ];
        for (keys, options) in cases {
            assert_eq!(in_options(keys), options);
        }
    }

    #[test]
    fn every_key_is_one_of_the_connector() {
        for (key, _) in OPTIONS {
            assert!(source_def().key(key).is_some(), "{key}");
        }
    }
}
