//! Which of several policies for one target counts (GEP-713, "Conflict Resolution").

use std::collections::BTreeMap;

use super::Place;

/// Orders `all` by age, then by place, and says for each target which of them counts: the first.
pub(super) fn settle<'a, P, T: Clone + Ord>(
    all: &mut [P],
    age: impl Fn(&P) -> (i64, Place<'a>),
    targets: impl Fn(&P) -> &[T],
) -> BTreeMap<T, usize> {
    all.sort_by_cached_key(age);
    let mut winners = BTreeMap::new();
    for (index, policy) in all.iter().enumerate() {
        for target in targets(policy) {
            winners.entry(target.clone()).or_insert(index);
        }
    }
    winners
}
