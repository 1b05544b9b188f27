//! Version requirements of the `*.plugin.version` keys, in Maven's notation as KIP-891 has it: `4.3.1` (exactly that
//! one), `[4,5)`, `(,4.0]`, several ranges after each other. Pure.

use std::cmp::Ordering;
use std::fmt;

/// One or more ranges; a version matches where it lies in any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRange {
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    lower: Option<String>,
    lower_inclusive: bool,
    upper: Option<String>,
    upper_inclusive: bool,
}

impl VersionRange {
    /// Reads a requirement; `None` for the latest version.
    ///
    /// # Errors
    /// What is wrong, in Maven's words.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text == "latest" {
            return Ok(None);
        }
        if !text.starts_with(['[', '(']) {
            let exactly = (!text.is_empty()).then(|| text.to_owned());
            let range = Range { lower: exactly.clone(), lower_inclusive: true, upper: exactly, upper_inclusive: true };
            return Ok(Some(Self { ranges: vec![range] }));
        }
        let mut ranges: Vec<Range> = Vec::new();
        let mut rest = text;
        while rest.starts_with(['[', '(']) {
            let end = rest.find([')', ']']).ok_or_else(|| format!("Unbounded range: {text}"))?;
            let range = Range::parse(&rest[..=end])?;
            let before = ranges.last().and_then(|range| range.upper.as_deref());
            if let (Some(upper), lower) = (before, range.lower.as_deref())
                && lower.is_none_or(|lower| compare(lower, upper) == Ordering::Less)
            {
                return Err(format!("Ranges overlap: {text}"));
            }
            ranges.push(range);
            rest = rest[end + 1..].trim();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim();
        }
        if !rest.is_empty() {
            return Err(format!("Only fully-qualified sets allowed in multiple set scenario: {text}"));
        }
        Ok(Some(Self { ranges }))
    }

    /// True where `version` lies in the range.
    pub fn contains(&self, version: &str) -> bool {
        self.ranges.iter().any(|range| range.contains(version))
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self, String> {
        let inner = text[1..text.len() - 1].trim();
        let (lower_inclusive, upper_inclusive) = (text.starts_with('['), text.ends_with(']'));
        let Some((lower, upper)) = inner.split_once(',') else {
            if !(lower_inclusive && upper_inclusive) {
                return Err(format!("Single version must be surrounded by []: {text}"));
            }
            let version = Some(inner.to_owned());
            return Ok(Self { lower: version.clone(), lower_inclusive, upper: version, upper_inclusive });
        };
        let bound = |bound: &str| Some(bound.trim().to_owned()).filter(|bound| !bound.is_empty());
        let (lower, upper) = (bound(lower), bound(upper));
        if let (Some(lower), Some(upper)) = (&lower, &upper)
            && compare(upper, lower) == Ordering::Less
        {
            return Err(format!("Range defies version ordering: {text}"));
        }
        Ok(Self { lower, lower_inclusive, upper, upper_inclusive })
    }

    fn contains(&self, version: &str) -> bool {
        let admits = |bound: &Option<String>, inclusive, outside| match bound {
            Some(bound) => match compare(version, bound) {
                Ordering::Equal => inclusive,
                side => side != outside,
            },
            None => true,
        };
        let empty = self.lower.is_none() && self.upper.is_none();
        !empty
            && admits(&self.lower, self.lower_inclusive, Ordering::Less)
            && admits(&self.upper, self.upper_inclusive, Ordering::Greater)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self.ranges.iter().map(ToString::to_string).collect();
        f.write_str(&shown.join(","))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) =
            (if self.lower_inclusive { '[' } else { '(' }, if self.upper_inclusive { ']' } else { ')' });
        let bound = |bound: &Option<String>| bound.clone().unwrap_or_default();
        write!(f, "{open}{},{}{close}", bound(&self.lower), bound(&self.upper))
    }
}

/// By numbers from left to right; a missing number is 0, and a word (`-rc1`) comes before the release.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |version: &str| version.split(['.', '-']).map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (parts(a), parts(b));
    let number = |part: Option<&String>| part.map_or(Ok(0), |part| part.parse::<u64>().map_err(|_| part.clone()));
    let by_part = (0..a.len().max(b.len())).map(|at| match (number(a.get(at)), number(b.get(at))) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Greater,
        (Err(_), Ok(_)) => Ordering::Less,
        (Err(a), Err(b)) => a.cmp(&b),
    });
    by_part.fold(Ordering::Equal, Ordering::then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_contains() {
        let cases = [
            ("4.3.1", "4.3.1", true),
            ("4.3", "4.3.1", false),
            ("4.3", "4.3.0", true),
            ("[4,5)", "4.3.1", true),
            ("[4,5)", "5.0", false),
            ("[4,5]", "5.0", true),
            ("(4,)", "4", false),
            ("(,4.0]", "4.3.1", false),
            ("(,4.0],[4.2,)", "4.3.1", true),
            ("[4.3.1]", "4.3.1", true),
            ("[1.0,2.0]", "2.0-rc1", true),
            ("", "4.3.1", false),
        ];
        for (range, version, contains) in cases {
            let parsed = VersionRange::parse(range).unwrap().unwrap();
            assert_eq!(parsed.contains(version), contains, "{range} and {version}");
        }
        assert_eq!(VersionRange::parse("latest"), Ok(None));
    }

    #[test]
    fn shows_and_refuses_as_maven_does() {
        let shown = |text: &str| VersionRange::parse(text).unwrap().unwrap().to_string();
        assert_eq!((shown("9.9"), shown("[ 5, )"), shown("")), ("[9.9,9.9]".into(), "[5,)".into(), "[,]".into()));
        let refused = |text: &str| VersionRange::parse(text).unwrap_err();
        assert_eq!(refused("[9"), "Unbounded range: [9");
        assert_eq!(refused("(9)"), "Single version must be surrounded by []: (9)");
        assert_eq!(refused("[2,1]"), "Range defies version ordering: [2,1]");
        assert_eq!(refused("[1,3],[2,4]"), "Ranges overlap: [1,3],[2,4]");
        assert!(refused("[1,2] 3").starts_with("Only fully-qualified sets"));
    }
}
