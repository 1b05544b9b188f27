//! Which restore this is: the group that holds its progress, and the transactional id that only one instance of it has.
//!
//! Invariant: the same arguments are the same restore, which goes on where it was; others never touch its records, even
//! where somebody gives both the same id.

use lakeferry_api::Result;

use super::Args;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// `--id`, or what the arguments come to.
    pub(super) id: String,
    /// What the arguments come to: what is restored, and to where.
    pub(super) what: String,
}

impl Identity {
    /// That of these arguments.
    ///
    /// # Errors
    /// `Config` where they make no sense.
    pub(super) fn of(args: &Args) -> Result<Self> {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort();
            list.join(",")
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let parts = [
            args.lake.url.trim_end_matches('/').to_owned(),
            args.lake.topics_dir.clone(),
            sorted(&args.lake.topics),
            sorted(&args.renames),
            text(&args.from),
            text(&args.until),
            args.cut.clone(),
            sorted(&args.offsets),
            args.lineage.clone(),
        ];
        let what = fingerprint(&parts);
        Ok(Self { id: args.id.clone().unwrap_or_else(|| what.clone()), what })
    }

    /// The group, which is the transactional id, too.
    pub(super) fn group(&self) -> String {
        format!("lakeferry-restore-{}", self.id)
    }
}

/// FNV-1a of the parts, each with its end: the same in every version.
fn fingerprint(parts: &[String]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn identity(more: &[&str]) -> Identity {
        let fixed = ["restore", "s3://bucket/lake", "--bootstrap-server", "b:1"];
        Identity::of(&Command::parse_from([&fixed[..], more].concat()).args).unwrap()
    }

    #[test]
    fn the_same_arguments_are_the_same_restore() {
        let plain = identity(&[]);
        assert_eq!(plain.group(), format!("lakeferry-restore-{}", plain.what));
        for same in [&["--rate", "7"][..], &["--append"], &["--yes", "--force"], &["--order", "time"]] {
            assert_eq!(identity(same).id, plain.id, "{same:?}");
        }
        let of_two = identity(&["--topic", "a", "--topic", "b"]);
        assert_eq!(of_two.id, identity(&["--topic", "b", "--topic", "a"]).id);
    }

    #[test]
    fn other_arguments_are_another_restore_whatever_their_id() {
        let plain = identity(&["--id", "x"]);
        assert_eq!(plain.group(), "lakeferry-restore-x");
        for other in [
            &["--topic", "a"][..],
            &["--rename", "a=b"],
            &["--until", "7"],
            &["--from", "7"],
            &["--cut", "log"],
            &["--offsets", "a:0:1:2"],
            &["--lineage", "1"],
        ] {
            let other = identity(&[other, &["--id", "x"]].concat());
            assert!(other.group() == plain.group() && other.what != plain.what, "{other:?}");
        }
    }
}
