//! Hadoop's configuration files, as far as this crate reads them itself: what the HDFS client takes from them and does
//! not tell, and which of them it cannot read, since its errors name none.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// As the client reads them: what the later one says counts.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];

#[derive(Deserialize)]
struct Site {
    #[serde(default, rename = "property")]
    properties: Vec<Property>,
}

#[derive(Deserialize)]
struct Property {
    name: String,
    #[serde(default)]
    value: String,
}

/// The folder whose files count: the one that is named, else the one that the environment names, as the client looks.
pub(super) fn folder(named: Option<&str>) -> Option<PathBuf> {
    let of_environment = |key| std::env::var(key).ok().filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let named = named.filter(|dir| !dir.is_empty()).map(PathBuf::from);
    named
        .or_else(|| of_environment("HADOOP_CONF_DIR"))
        .or_else(|| of_environment("HADOOP_HOME").map(|home| home.join("etc/hadoop")))
}

/// What the files of `folder` set `key` to. One that cannot be read is told to the log, and says nothing.
pub(super) fn setting(folder: &Path, key: &str) -> Option<String> {
    let of = |file: &str| {
        read(&folder.join(file)).unwrap_or_else(|why| {
            tracing::warn!("{why}; {key} counts as not set there");
            Vec::new()
        })
    };
    let mut properties = FILES.into_iter().flat_map(of).filter(|property| property.name.trim() == key);
    properties.next_back().map(|property| property.value.trim().to_owned())
}

/// Which file of `folder` cannot be read, and why.
pub(super) fn unreadable(folder: &Path) -> Option<String> {
    FILES.into_iter().find_map(|file| read(&folder.join(file)).err())
}

fn read(path: &Path) -> Result<Vec<Property>, String> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{} is no configuration of Hadoop's: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Property>, quick_xml::DeError> {
    quick_xml::de::from_str::<Site>(text).map(|site| site.properties)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lakeferry_api::Kind;
    use proptest::prelude::*;
    use url::Url;

    use super::super::hdfs;
    use super::*;

    const KEY: &str = "dfs.namenode.lease-hard-limit-sec";
    const SITE: &str = "<?xml version=\"1.0\"?>\n<!-- ours -->\n<configuration>\n<property><name>fs.defaultFS</name>\
        <value>hdfs://127.0.0.1:1</value></property><property><name>dfs.namenode.lease-hard-limit-sec</name>\
        <value> 7200 </value><final>true</final></property></configuration>";

    /// A folder of this test's own, gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("lakeferry-site-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write(folder: &Path, file: &str, text: &[u8]) {
        std::fs::write(folder.join(file), text).unwrap();
    }

    /// Reads `text` as either file: it may be good or not, but whoever cannot read it says which file it is.
    fn take(name: &str, text: &[u8]) -> Result<(), TestCaseError> {
        let folder = Folder::new(name);
        for file in FILES {
            for other in FILES {
                let _ = std::fs::remove_file(folder.path().join(other));
            }
            write(folder.path(), file, text);
            let (held, why) = lakeferry_api::measure::peak_of(|| unreadable(folder.path()));
            prop_assert!(held < (1 << 20) + 64 * text.len(), "{} bytes of {}", held, text.len());
            let path = folder.path().join(file).display().to_string();
            prop_assert!(why.as_ref().is_none_or(|why| why.contains(&path)), "{:?}", why);
            let dir = folder.path().to_str().unwrap();
            let url = Url::parse("hdfs:///lake").unwrap();
            if let Err(error) = hdfs::open(&url, &BTreeMap::new(), Some(dir)) {
                prop_assert_eq!(error.kind(), Kind::Config);
                let is_of_file = error.message().ends_with("; correct that file");
                prop_assert!(!is_of_file || error.message().contains(dir), "{}", error);
                prop_assert!(!is_of_file || why.is_none() || error.message().contains(&path), "{}", error);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), tags in "[<>/&;!?= \"a-zA-Z\\[\\]-]{0,80}",
        ) {
            take("bytes", &bytes)?;
            take("bytes", tags.as_bytes())?;
        }

        #[test]
        fn no_damage_to_a_file_makes_it_panic(
            at in any::<prop::sample::Index>(), len in 0..40usize, with in "[<>/&;!?= \"a-zA-Z0-9\\[\\]-]{0,20}",
        ) {
            let mut text = SITE.to_owned();
            let at = at.index(text.len());
            text.replace_range(at..(at + len).min(text.len()), &with);
            take("damage", text.as_bytes())?;
        }
    }

    #[test]
    fn nesting_without_end_and_entities_do_no_harm() {
        for (open, around) in [("<a>", ""), ("<property>", ""), ("<property><name>", ""), ("<name>", "<property>")] {
            take("nesting", format!("<configuration>{around}{}", open.repeat(100_000)).as_bytes()).unwrap();
        }
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">]>";
        take(
            "nesting",
            format!("{bomb}{}", SITE.replace("7200", "&b;").replace("<?xml version=\"1.0\"?>", "")).as_bytes(),
        )
        .unwrap();
    }

    #[test]
    fn the_later_file_counts_and_one_that_cannot_be_read_says_nothing() {
        let folder = Folder::new("later");
        let set = || setting(folder.path(), KEY);
        assert_eq!(set(), None);
        write(folder.path(), "core-site.xml", SITE.as_bytes());
        assert_eq!(set().as_deref(), Some("7200"));
        write(folder.path(), "hdfs-site.xml", SITE.replace("7200", "90").as_bytes());
        assert_eq!(set().as_deref(), Some("90"));
        write(folder.path(), "hdfs-site.xml", b"<configuration><property>");
        assert_eq!(set().as_deref(), Some("7200"));
        let url = Url::parse("hdfs:///lake").unwrap();
        let error = hdfs::open(&url, &BTreeMap::new(), folder.path().to_str()).err().expect("refused");
        for words in ["/hdfs-site.xml is no configuration of Hadoop's: ", "; correct that file"] {
            assert!(error.message().contains(words), "{error}");
        }
    }
}
