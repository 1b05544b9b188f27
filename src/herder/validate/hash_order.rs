//! The order in which Java's `HashMap` gives its keys. Connect answers the options of converters and client overrides
//! in that order, and scripts that compare answers see it; so ours come in the same one. Pure.

/// `items` in the order of a `HashMap` that holds them under the keys `key` gives.
pub(super) fn sorted<T>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> &str) -> impl Iterator<Item = T> {
    let mut items: Vec<_> = items.into_iter().collect();
    let buckets = buckets(items.len());
    items.sort_by_key(|item| hash(key(item)) & (buckets - 1));
    items.into_iter()
}

/// A table begins with 16 buckets and doubles when it is more than three quarters full.
fn buckets(len: usize) -> u32 {
    let mut buckets = 16;
    while len > buckets as usize * 3 / 4 {
        buckets *= 2;
    }
    buckets
}

/// `String.hashCode`, spread as `HashMap` does it.
fn hash(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order that a 4.3.1 worker shows for the options of a JsonConverter.
    #[test]
    fn orders_as_java_does() {
        let options = [
            "converter.type",
            "schemas.enable",
            "schemas.cache.size",
            "schema.content",
            "decimal.format",
            "replace.null.with.default",
        ];
        let sorted: Vec<_> = sorted(options, |option| option).collect();
        assert_eq!(
            sorted,
            [
                "decimal.format",
                "converter.type",
                "schemas.cache.size",
                "replace.null.with.default",
                "schemas.enable",
                "schema.content"
            ]
        );
    }
}
