//! Addresses as networks.

use std::{collections::BTreeSet, net::IpAddr};

use crate::Prefix;

/// Returns the fewest networks that have these addresses and no other: neighbours are joined where both halves of the larger
/// network are there. A network with one address more would draw traffic for what is not the node's.
#[must_use]
pub fn cover(addresses: &BTreeSet<IpAddr>) -> BTreeSet<Prefix> {
    let mut networks: Vec<Prefix> = Vec::with_capacity(addresses.len());
    for address in addresses {
        let mut network = Prefix::host(*address);
        // The lower half of the network around the two was the last, as they come in their order.
        while let Some(lower) = networks.last() {
            let around = network.around(network.length().saturating_sub(1));
            let halves = lower.length() == network.length()
                && around.length() < network.length()
                && around.address() == lower.address()
                && around.covers(&network)
                && lower.address() != network.address();
            if !halves {
                break;
            }
            networks.pop();
            network = around;
        }
        networks.push(network);
    }
    networks.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covered(texts: &[&str]) -> Vec<String> {
        let addresses = texts.iter().map(|text| text.parse().unwrap()).collect();
        cover(&addresses).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn neighbours_are_joined_where_all_of_the_larger_network_is_there() {
        assert_eq!(covered(&["10.0.0.4", "10.0.0.5"]), ["10.0.0.4/31"]);
        assert_eq!(covered(&["10.0.0.5", "10.0.0.6"]), ["10.0.0.5/32", "10.0.0.6/32"]);
        assert_eq!(
            covered(&[
                "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "fd00::2", "fd00::3"
            ]),
            ["10.0.0.4/30", "10.0.0.8/32", "fd00::2/127"]
        );
        assert_eq!(covered(&[]), Vec::<String>::new());
        assert_eq!(
            covered(&["255.255.255.255", "::"]),
            ["255.255.255.255/32", "::/128"]
        );
    }

    proptest! {
        #[test]
        fn networks_have_the_addresses_and_no_other_and_no_two_could_be_one(
            lows in proptest::collection::btree_set(0_u32..300, 0..200),
        ) {
            let address = |low: u32| IpAddr::from((0x0a01_0000 + low).to_be_bytes());
            let networks = cover(&lows.iter().map(|low| address(*low)).collect());
            for low in 0..600 {
                let having = networks.iter().filter(|network| network.contains(address(low))).count();
                prop_assert_eq!(having, usize::from(lows.contains(&low)), "{}", address(low));
            }
            for network in &networks {
                let around = network.around(network.length() - 1);
                let half = |other: &&Prefix| other.length() == network.length() && around.covers(other);
                prop_assert_eq!(networks.iter().filter(half).count(), 1, "{}", network);
            }
        }
    }
}
