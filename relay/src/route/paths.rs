//! The rules of one hostname, found by path: the cost of a request grows with the rules of its path, not with all.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use super::{
    matcher::{Head, Matcher, PathMatcher},
    rank::Rank,
    target::Rule,
};

/// A rule's match and its place in the order.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) rank: Rank,
    pub(super) matcher: Matcher,
    pub(super) rule: Arc<Rule>,
}

/// Entries by how their paths are matched, the better rank first in each list.
///
/// The order of [`Rank`] begins with the kind and the length of the path, so the lists are asked in turn: exact paths,
/// regular expressions, prefixes from the longest to the shortest.
#[derive(Debug, Default)]
pub(super) struct Paths {
    exact: HashMap<Arc<str>, Vec<Entry>>,
    expressions: Vec<Entry>,
    /// With gRPC methods of any service under the empty prefix, whose length they rank with.
    prefixes: HashMap<Arc<str>, Vec<Entry>>,
    /// The lengths of all prefixes in bytes, longest first: a path of many segments costs no more than there are lengths.
    lengths: Vec<usize>,
}

impl Paths {
    /// Takes the entries of one hostname in any order.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| a.rank.cmp(&b.rank));
        let mut paths = Self::default();
        for entry in entries {
            match entry.matcher.path() {
                PathMatcher::Exact(path) => paths.exact.entry(path.clone()).or_default().push(entry),
                PathMatcher::RegularExpression(_) => paths.expressions.push(entry),
                PathMatcher::Prefix(prefix) => paths.prefixes.entry(prefix.clone()).or_default().push(entry),
                PathMatcher::Method(_) => paths.prefixes.entry("".into()).or_default().push(entry),
            }
        }
        paths.lengths = paths.prefixes.keys().map(|prefix| prefix.len()).collect();
        paths.lengths.sort_unstable_by_key(|&length| Reverse(length));
        paths.lengths.dedup();
        paths
    }

    /// The rule of the best match that fits. Allocates nothing.
    pub(super) fn select(&self, head: &Head<'_>) -> Option<&Arc<Rule>> {
        let of_path = self.exact.get(head.path).map_or(&[][..], Vec::as_slice);
        let of_prefixes =
            self.lengths.iter().filter_map(|&length| self.prefixes.get(prefix(head.path, length)?)).flatten();
        let mut in_order = of_path.iter().chain(&self.expressions).chain(of_prefixes);
        in_order.find(|entry| entry.matcher.fits(head)).map(|entry| &entry.rule)
    }
}

/// The first `length` bytes of `path`, if they end with a segment.
fn prefix(path: &str, length: usize) -> Option<&str> {
    let ends = path.len() == length || path.as_bytes().get(length) == Some(&b'/');
    ends.then(|| path.get(..length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_with_segments() {
        assert_eq!(prefix("/a/b", 4), Some("/a/b"));
        assert_eq!(prefix("/a/b", 2), Some("/a"));
        assert_eq!(prefix("/a/b", 0), Some(""));
        assert_eq!(prefix("/a/b", 3), None);
        assert_eq!(prefix("/a/b", 5), None);
        assert_eq!(prefix("/é/b", 2), None);
    }
}
