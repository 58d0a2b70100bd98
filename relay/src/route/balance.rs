//! Choices by chance: by weight among backends, evenly among endpoints. The random number is an argument.

/// The index that `seed`, uniformly random over all of `u64`, picks among `weights`; `None` when their sum is zero.
///
/// The share of each index is `weight / sum`, exact to one part in 2^32 or better; an index of weight zero is never picked.
#[must_use]
pub fn weighted(weights: impl Iterator<Item = u32> + Clone, seed: u64) -> Option<usize> {
    let sum: u64 = weights.clone().map(u64::from).sum();
    let mut point = scale(seed, sum)?;
    for (index, weight) in weights.enumerate() {
        let weight = u64::from(weight);
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

/// An index below `count`, from the seed's other end so that it does not depend on [`weighted`]'s choice.
#[must_use]
pub fn uniform(count: usize, seed: u64) -> Option<usize> {
    let point = scale(seed.reverse_bits(), u64::try_from(count).ok()?)?;
    usize::try_from(point).ok()
}

/// Maps `seed` onto `0..bound` in proportion, without division.
fn scale(seed: u64, bound: u64) -> Option<u64> {
    let product = u128::from(seed) * u128::from(bound);
    (bound > 0).then(|| u64::try_from(product >> 64).expect("the high half of a 128-bit number has 64 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn shares_follow_the_weights() {
        let weights = [90, 0, 10];
        let mut counts = [0; 3];
        for step in 0..1000_u64 {
            counts[weighted(weights.iter().copied(), step * (u64::MAX / 1000)).unwrap()] += 1;
        }
        assert!((899..=901).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[1], 0);
    }

    #[test]
    fn nothing_is_chosen_from_nothing() {
        assert_eq!(weighted([].into_iter(), 1), None);
        assert_eq!(weighted([0, 0].into_iter(), u64::MAX), None);
        assert_eq!(uniform(0, 1), None);
    }

    proptest! {
        #[test]
        fn the_choice_exists_and_has_weight(weights in prop::collection::vec(0_u32..=1_000_000, 0..8), seed: u64) {
            match weighted(weights.iter().copied(), seed) {
                Some(index) => prop_assert!(weights[index] > 0),
                None => prop_assert_eq!(weights.iter().sum::<u32>(), 0),
            }
        }

        #[test]
        fn an_even_choice_is_in_range(count in 1_usize..1000, seed in any::<u64>()) {
            prop_assert!(uniform(count, seed).unwrap() < count);
        }
    }
}
