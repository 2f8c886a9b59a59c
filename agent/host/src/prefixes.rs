//! Sets of prefixes, asked in ways that `BTreeSet` alone cannot answer quickly.

use std::collections::BTreeSet;

use spanwire_topology::{Family, Prefix};

/// A set of prefixes that finds which of them contains a given one, by one look-up per length that occurs in it. Pod
/// networks and node addresses come in two or three lengths, so thousands of prefixes cost a few look-ups.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// In order, each once.
    all: Vec<Prefix>,
    lengths: BTreeSet<(Family, u8)>,
}

impl Prefixes {
    /// Returns the longest prefix of the set that covers `prefix`, which may be `prefix` itself.
    pub(crate) fn covering(&self, prefix: &Prefix) -> Option<Prefix> {
        let itself = self.has(prefix).then_some(*prefix);
        itself.or_else(|| self.around(prefix))
    }

    /// Returns the longest prefix of the set that covers `prefix` and more.
    pub(crate) fn around(&self, prefix: &Prefix) -> Option<Prefix> {
        self.lengths
            .range((prefix.family(), 0)..(prefix.family(), prefix.length()))
            .rev()
            .filter_map(|(_, length)| Prefix::new(prefix.address(), *length).ok())
            .find(|candidate| self.has(candidate))
    }

    /// Returns the prefixes, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Prefix> {
        self.all.iter()
    }

    fn has(&self, prefix: &Prefix) -> bool {
        self.all.binary_search(prefix).is_ok()
    }
}

impl FromIterator<Prefix> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut all: Vec<Prefix> = prefixes.into_iter().collect();
        // What comes in order already is only looked through.
        all.sort();
        all.dedup();
        let mut lengths = BTreeSet::new();
        let mut last = None;
        for length in all.iter().map(|prefix| (prefix.family(), prefix.length())) {
            if last != Some(length) {
                lengths.insert(length);
                last = Some(length);
            }
        }
        Self { all, lengths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_covering_prefix_is_found() {
        let set: Prefixes = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]
            .map(prefix)
            .into_iter()
            .collect();
        assert_eq!(set.covering(&prefix("10.1.2.0/24")), Some(prefix("10.1.0.0/16")));
        assert_eq!(set.covering(&prefix("10.1.0.0/16")), Some(prefix("10.1.0.0/16")));
        assert_eq!(set.covering(&prefix("10.2.0.0/16")), Some(prefix("10.0.0.0/8")));
        assert_eq!(set.around(&prefix("10.1.0.0/16")), Some(prefix("10.0.0.0/8")));
        assert_eq!(set.covering(&prefix("0.0.0.0/0")), None);
        assert_eq!(set.covering(&prefix("fd12::1")), Some(prefix("fd00::/8")));
        assert_eq!(set.covering(&prefix("11.0.0.0/8")), None);
    }
}
