//! The order in which Java's `HashMap` gives its keys. Connect answers the options of converters and client overrides
//! in that order, and scripts that compare answers see it; so ours come in the same one. Pure.

/// `items` in the order of a `HashMap` that was filled with them one by one, under the keys `key` gives.
pub(super) fn sorted<T>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> &str) -> impl Iterator<Item = T> {
    in_buckets(items, key, grown)
}

/// `items` in the order of a `HashMap` that is a copy of another map.
pub(super) fn copied<T>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> &str) -> impl Iterator<Item = T> {
    in_buckets(items, key, fitted)
}

fn in_buckets<T>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> &str,
    buckets: fn(usize) -> u32,
) -> impl Iterator<Item = T> {
    let mut items: Vec<_> = items.into_iter().collect();
    let buckets = buckets(items.len());
    items.sort_by_key(|item| hash(key(item)) & (buckets - 1));
    items.into_iter()
}

/// A table begins with 16 buckets and doubles when it is more than three quarters full.
fn grown(len: usize) -> u32 {
    let mut buckets = 16;
    while len > buckets as usize * 3 / 4 {
        buckets *= 2;
    }
    buckets
}

/// A copy begins with the power of two that holds a third more than there is, and one.
fn fitted(len: usize) -> u32 {
    u32::try_from(len * 4 / 3 + 1).unwrap_or(1 << 30).next_power_of_two()
}

/// `String.hashCode`, spread as `HashMap` does it.
fn hash(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in which a 4.3.1 worker says a config without a class.
    #[test]
    fn a_copy_has_a_table_that_fits() {
        let order = |keys: &[&'static str]| copied(keys.to_vec(), |key| key).collect::<Vec<_>>();
        assert_eq!(order(&["a", "name"]), ["name", "a"]);
        assert_eq!(order(&["file", "name", "topic"]), ["name", "topic", "file"]);
        let longer = ["alpha", "file", "name", "tasks.max", "topic", "zeta"];
        assert_eq!(order(&longer), ["zeta", "file", "tasks.max", "alpha", "name", "topic"]);
    }

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
