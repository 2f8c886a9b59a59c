//! How large packets are that are to fit through tunnels on networks of different MTUs.

use std::collections::BTreeMap;

use spanwire_host::{HostFacts, render};
use spanwire_topology::Plan;

use crate::samples::{self, link, location, prefix};

/// Renders with what the networks of the leaders here and there take; returns the MTU of the own tunnel and that of the route to pods of b.
fn rendered(
    (plan, facts): (Plan, HostFacts),
    here: Option<u16>,
    there: Option<u16>,
) -> (Option<u32>, Option<u32>) {
    let said = [("a", here), ("b", there)];
    let mtus: BTreeMap<_, _> = said
        .into_iter()
        .filter_map(|(name, mtu)| Some((location(name), mtu?)))
        .collect();
    let host = render(&Plan { mtus, ..plan }, &facts);
    let mut routes = host.routes.iter();
    let (_, route) = routes
        .find(|(key, _)| key.prefix == prefix("10.244.22.0/24"))
        .expect("pods of b are reached");
    let tunnel = host.devices.get(&link("spanwire0"));
    (tunnel.map(|device| device.mtu), route.mtu)
}

/// The endpoints of b are reached by IPv4, over a network that takes so much.
fn over(mtu: u32, (plan, mut facts): (Plan, HostFacts)) -> (Plan, HostFacts) {
    facts.underlay_mtu = Some(mtu);
    facts.underlay_v4_only = true;
    for other in facts.links.values_mut() {
        other.mtu = if other.cni { mtu - 50 } else { mtu };
    }
    (plan, facts)
}

#[test]
fn a_leader_sends_nothing_that_the_network_of_a_leader_elsewhere_would_get_in_fragments() {
    let of = |there| rendered(over(9000, samples::leader()), Some(9000), there);
    assert_eq!(of(None), (Some(8940), None), "not known");
    assert_eq!(of(Some(9000)), (Some(8940), None));
    assert_eq!(of(Some(1500)), (Some(8940), Some(1440)), "smaller there");
    let of = |there| rendered(over(1500, samples::leader()), Some(1500), there);
    assert_eq!(of(Some(9000)), (Some(1440), None), "smaller here");
    assert_eq!(
        of(Some(100)),
        (Some(1440), Some(576)),
        "every host takes that much"
    );
}

#[test]
fn a_follower_sends_what_fits_through_leaders_of_both_locations() {
    let of = |here, there| rendered(over(9000, samples::follower()), here, there).1;
    assert_eq!(of(None, None), Some(8940), "of 8950 that its device takes");
    assert_eq!(of(Some(9000), Some(1400)), Some(1340));
    assert_eq!(
        of(Some(1500), Some(9000)),
        Some(1440),
        "its leader has another uplink than itself"
    );
    assert_eq!(of(Some(1500), None), Some(1440));
    let of = |there| rendered(over(1400, samples::follower()), Some(1400), there).1;
    assert_eq!(of(Some(1500)), Some(1340));
}
