//! Consistent hashing by Maglev's table ("Maglev: A Fast and Reliable Software Network Load Balancer", §3.4): each
//! endpoint has nearly the same share of the keys, and when one goes, few keys of the others move.

/// The largest table, in entries of two bytes: the larger of the two that the paper weighs.
pub const TABLE_SIZE_MAX: u32 = 655_373;

/// The most endpoints that a table can hold; those beyond get nothing by hash.
const ENDPOINTS_MAX: usize = u16::MAX as usize;

/// Which endpoint serves which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maglev {
    table: Box<[u16]>,
}

impl Maglev {
    /// `names` tell the endpoints apart, wherever they stand in the list. `size` is brought to a prime of at most
    /// [`TABLE_SIZE_MAX`].
    #[must_use]
    pub fn new(names: &[String], size: u32) -> Self {
        let size = prime_from(size.clamp(2, TABLE_SIZE_MAX));
        let mut order: Vec<u16> =
            (0..names.len().min(ENDPOINTS_MAX)).map_while(|index| index.try_into().ok()).collect();
        order.sort_by_key(|&index| &names[usize::from(index)]);
        let step = |index: u16| 1 + mix(hash(names[usize::from(index)].as_bytes())) % u64::from(size - 1);
        let start = |index: u16| hash(names[usize::from(index)].as_bytes()) % u64::from(size);
        let mut walks: Vec<(u16, u64, u64)> = order.into_iter().map(|one| (one, start(one), step(one))).collect();
        let mut table: Vec<Option<u16>> = vec![None; size as usize];
        let mut left = if walks.is_empty() { 0 } else { table.len() };
        while left > 0 {
            for (index, at, step) in &mut walks {
                // A prime size makes each walk pass every place.
                let place = loop {
                    let place = usize::try_from(*at).unwrap_or_default();
                    *at = (*at + *step) % u64::from(size);
                    if table[place].is_none() {
                        break place;
                    }
                };
                table[place] = Some(*index);
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Self { table: table.into_iter().flatten().collect() }
    }

    /// The place in the list of the endpoint that serves `key`; `None` without endpoints.
    #[must_use]
    pub fn find(&self, key: u64) -> Option<usize> {
        let place = key.checked_rem(self.table.len() as u64)?;
        self.table.get(usize::try_from(place).ok()?).map(|&index| usize::from(index))
    }
}

/// The first prime from `size` on.
fn prime_from(size: u32) -> u32 {
    (size..).find(|&one| is_prime(one)).unwrap_or(2)
}

#[must_use]
pub fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= u64::from(number)).all(|d| u64::from(number) % d != 0)
}

/// FNV-1a, well mixed. The same in all relays, so that they send a key to the same endpoint.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = Hasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// The same piece by piece, also of what is formatted.
#[derive(Debug, Clone, Copy)]
pub struct Hasher(u64);

impl Default for Hasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher {
    pub fn write(&mut self, bytes: &[u8]) {
        let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, fnv);
    }

    #[must_use]
    pub fn finish(self) -> u64 {
        mix(self.0)
    }
}

impl std::fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

/// Spreads what differs in a few bits over all (the finaliser of SplitMix64).
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("192.0.2.{index}:80")).collect()
    }

    fn shares(table: &Maglev, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        table.table.iter().for_each(|&index| shares[usize::from(index)] += 1);
        shares
    }

    #[test]
    fn a_table_that_is_no_prime_or_too_large_still_ends() {
        for size in [0, 1, 2, 4, 100, u32::MAX] {
            let table = Maglev::new(&names(3), size);
            assert!(table.table.len() >= 2 && is_prime(u32::try_from(table.table.len()).unwrap()), "{size}");
        }
        assert_eq!(Maglev::new(&[], 65_537).find(7), None);
        assert!(is_prime(65_537) && is_prime(TABLE_SIZE_MAX) && !is_prime(1) && !is_prime(65_536));
    }

    proptest! {
        #[test]
        fn all_have_nearly_the_same_share(count in 1_usize..40) {
            let shares = shares(&Maglev::new(&names(count), 4099), count);
            let even = 4099 / count;
            prop_assert!(shares.iter().all(|&share| share.abs_diff(even) <= 1), "{shares:?}");
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(count in 1_usize..20, turn in 0_usize..20) {
            let straight = names(count);
            let mut turned = straight.clone();
            turned.rotate_left(turn % count);
            let (one, other) = (Maglev::new(&straight, 1009), Maglev::new(&turned, 1009));
            for key in 0..1009 {
                prop_assert_eq!(&straight[one.find(key).unwrap()], &turned[other.find(key).unwrap()]);
            }
        }

        #[test]
        fn few_keys_move_between_those_that_stay(count in 3_usize..20, gone in 0_usize..20) {
            let all = names(count);
            let mut less = all.clone();
            let gone = less.remove(gone % count);
            let (before, after) = (Maglev::new(&all, 65_537), Maglev::new(&less, 65_537));
            let moved = (0..65_537).filter(|&key| {
                let was = &all[before.find(key).unwrap()];
                *was != gone && *was != less[after.find(key).unwrap()]
            });
            // The paper measures under 3 percent for tables more than 100 times the endpoints.
            let moved = moved.count();
            prop_assert!(moved < 65_537 / 20, "{moved}");
        }
    }
}
