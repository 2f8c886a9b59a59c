//! Whose address it is: the places between which packets are to be encrypted, and what lies in each.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_topology::{
    Family, Generation, Location, LocationName, Member, Mesh, MeshMode, NodeName, Prefix, carrier,
};

/// A location, or, where every node leads itself, a leader with the members that it carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) location: LocationName,
    /// Where every node leads itself.
    leader: Option<NodeName>,
}

/// The number of a place.
pub(super) type Number = usize;

/// What lies where.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    places: Vec<Place>,
    /// In order; so a prefix stands right before those that it contains.
    prefixes: Vec<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    prefix: Prefix,
    place: Number,
    /// The smallest prefix that contains this one.
    around: Option<usize>,
}

impl Places {
    pub(super) fn new(mesh: &Mesh) -> Self {
        let mut numbers: BTreeMap<Place, Number> = BTreeMap::new();
        let mut claims: Vec<(Prefix, Reverse<Generation>, Number)> = Vec::new();
        for (name, location) in &mesh.locations {
            let leading = leading(location);
            for (node, member) in location.members.iter() {
                let place = Place {
                    location: name.clone(),
                    leader: match location.settings.mode {
                        MeshMode::Leaders => None,
                        MeshMode::Nodes if leading.contains(node) => Some(node.clone()),
                        MeshMode::Nodes => carrier(location, node).cloned(),
                    },
                };
                let next = numbers.len();
                let place = *numbers.entry(place).or_insert(next);
                claims.extend(held(member).map(|prefix| (prefix, Reverse(member.generation), place)));
            }
        }
        // Of a prefix that a mixture of publications has twice the newer claim stands.
        claims.sort_unstable();
        claims.dedup_by_key(|(prefix, _, _)| *prefix);
        let mut numbered: Vec<(Number, Place)> = numbers
            .into_iter()
            .map(|(place, number)| (number, place))
            .collect();
        numbered.sort_unstable();
        let mut places = Self {
            places: numbered.into_iter().map(|(_, place)| place).collect(),
            prefixes: Vec::new(),
        };
        places.nest(&claims);
        places
    }

    fn nest(&mut self, claims: &[(Prefix, Reverse<Generation>, Number)]) {
        let mut open: Vec<usize> = Vec::new();
        for (prefix, _, place) in claims {
            while open
                .pop_if(|outer| !self.prefixes[*outer].prefix.covers(prefix))
                .is_some()
            {}
            self.prefixes.push(Known {
                prefix: *prefix,
                place: *place,
                around: open.last().copied(),
            });
            open.push(self.prefixes.len() - 1);
        }
    }

    /// Returns where an address is, by the longest match.
    pub(super) fn of(&self, address: IpAddr) -> Option<Number> {
        let host = Prefix::host(address);
        let after = self.prefixes.partition_point(|known| known.prefix <= host);
        let mut next = after.checked_sub(1);
        while let Some(known) = next.map(|at| &self.prefixes[at]) {
            if known.prefix.contains(address) {
                return Some(known.place);
            }
            next = known.around;
        }
        None
    }

    pub(super) fn location(&self, place: Number) -> &LocationName {
        &self.places[place].location
    }

    /// Returns what of a family lies anywhere, in order.
    pub(super) fn prefixes(&self, family: Family) -> impl Iterator<Item = Prefix> {
        let prefixes = self.prefixes.iter().map(|known| known.prefix);
        prefixes.filter(move |prefix| prefix.family() == family)
    }
}

/// Returns the nodes that carry themselves.
fn leading(location: &Location) -> BTreeSet<&NodeName> {
    let has_key = |node: &&NodeName| {
        let member = location.members.get(*node);
        member.is_some_and(|member| member.public_key.is_some())
    };
    location.active().filter(has_key).collect()
}

fn held(member: &Member) -> impl Iterator<Item = Prefix> {
    let hosts = member.addresses.iter().chain(&member.overlay);
    let hosts = hosts.map(|address| Prefix::host(*address));
    hosts.chain(member.prefixes.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use spanwire_topology::{Leader, LeaderRole, PublicKey};

    use super::*;

    fn location(members: &[(&str, u64, &[&str])]) -> Location {
        let member = |(name, generation, prefixes): &(&str, u64, &[&str])| {
            let member = Member {
                generation: Generation(*generation),
                prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
                public_key: Some(PublicKey::new([1; 32])),
                ..Member::default()
            };
            (name.parse().unwrap(), member)
        };
        Location {
            members: Arc::new(members.iter().map(member).collect()),
            ..Location::default()
        }
    }

    fn mesh(locations: Vec<(&str, Location)>) -> Mesh {
        let locations = locations.into_iter();
        Mesh {
            locations: locations
                .map(|(name, location)| (name.parse().unwrap(), location))
                .collect(),
            ..Mesh::default()
        }
    }

    #[test]
    fn the_longest_match_counts_and_of_two_claims_the_newer() {
        let places = Places::new(&mesh(vec![
            (
                "a",
                location(&[("a1", 1, &["10.0.0.0/8", "10.1.2.0/24", "10.9.0.0/16"])]),
            ),
            (
                "b",
                location(&[("b1", 2, &["10.1.0.0/16", "10.9.0.0/16", "fd00::/16"])]),
            ),
        ]));
        let of = |text: &str| {
            let place = places.of(text.parse().unwrap())?;
            Some(places.location(place).to_string())
        };
        for (address, location) in [
            ("10.1.1.1", Some("b")),
            ("10.1.2.3", Some("a")),
            ("10.1.3.1", Some("b")),
            ("10.2.0.0", Some("a")),
            ("10.9.0.1", Some("b")),
            ("fd00:1::", Some("b")),
            ("11.0.0.0", None),
            ("9.255.255.255", None),
            ("fd01::", None),
        ] {
            assert_eq!(of(address).as_deref(), location, "{address}");
        }
    }

    #[test]
    fn where_every_node_leads_itself_each_is_a_place() {
        let mut each = location(&[("a1", 1, &["10.1.0.0/24"]), ("a2", 1, &["10.2.0.0/24"])]);
        let place = |each: &Location, text: &str| {
            let places = Places::new(&mesh(vec![("a", each.clone())]));
            places.of(text.parse().unwrap()).unwrap()
        };
        assert_eq!(place(&each, "10.1.0.1"), place(&each, "10.2.0.1"));
        each.settings.mode = MeshMode::Nodes;
        each.leaders = ["a1", "a2"]
            .map(|name| Leader {
                node: name.parse().unwrap(),
                role: LeaderRole::Active,
            })
            .into();
        assert_ne!(place(&each, "10.1.0.1"), place(&each, "10.2.0.1"));
    }

    proptest! {
        #[test]
        fn an_address_is_where_the_longest_prefix_is_that_contains_it(
            claims in prop::collection::vec((0_u8..16, 24_u8..=32, 0_usize..3), 0..40),
            last in 0_u8..=255,
        ) {
            let names = ["a", "b", "c"];
            let texts: Vec<BTreeSet<Prefix>> = (0..3)
                .map(|which| {
                    let of_it = claims.iter().filter(|(_, _, place)| *place == which);
                    of_it
                        .map(|(low, length, _)| Prefix::new([10, 0, 0, low * 16].into(), *length).unwrap())
                        .collect()
                })
                .collect();
            let located = names.iter().zip(&texts).map(|(name, prefixes)| {
                let mut of_it = location(&[(name, 1, &[])]);
                of_it.members_mut().values_mut().for_each(|member| member.prefixes = prefixes.clone());
                (*name, of_it)
            });
            let places = Places::new(&mesh(located.collect()));
            let address: IpAddr = [10, 0, 0, last].into();
            let length = |prefixes: &BTreeSet<Prefix>| {
                prefixes.iter().filter(|prefix| prefix.contains(address)).map(Prefix::length).max()
            };
            let longest = texts.iter().filter_map(length).max();
            // Of equal claims the one of the lower name stands.
            let expected = names.iter().zip(&texts).find(|(_, prefixes)| longest.is_some() && length(prefixes) == longest);
            let found = places.of(address).map(|place| places.location(place).as_str());
            prop_assert_eq!(found, expected.map(|(name, _)| *name));
        }
    }
}
