//! Key bounds: the end of a prefix, and empty ranges.

use std::ops::Bound;

/// The first key after every key that begins with `prefix`; `None` if no such key exists, because
/// the prefix is empty or all of its bytes are 255. Costs one allocation.
///
/// ```
/// use hightower_state::prefix_end;
///
/// assert_eq!(prefix_end(b"jobs/"), Some(b"jobs0".to_vec()));
/// assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
/// assert_eq!(prefix_end(b"\xff"), None);
/// ```
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Whether no key can be between the bounds. (`BTreeMap::range` panics on some of these.)
pub(crate) fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    use Bound::{Excluded, Included};
    match (from, to) {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_last_byte_that_can_grow_does() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn a_range_is_empty_only_if_no_key_fits() {
        let (a, b) = (&b"a"[..], &b"b"[..]);
        assert!(is_empty(Bound::Included(b), Bound::Included(a)));
        assert!(is_empty(Bound::Excluded(a), Bound::Excluded(a)));
        assert!(is_empty(Bound::Included(a), Bound::Excluded(a)));
        assert!(!is_empty(Bound::Included(a), Bound::Included(a)));
        assert!(!is_empty(Bound::Unbounded, Bound::Excluded(a)));
        assert!(!is_empty(Bound::Excluded(a), Bound::Included(b)));
    }
}
