//! Endpoints that are learned, beside those of `interop`.

use std::net::SocketAddr;

use crate::{
    interop::assert_carries,
    world::{Engine, World, other, pipe, run},
};

/// The same on both sides: wireguard-go cuts an IPv6 address after four bytes when it has sent to an IPv4 address before.
#[test]
fn a_peer_follows_us_to_the_other_family() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    let World { a, b } = &world;
    assert_carries(&world);
    for (port, family) in [("40404", 1), ("40405", 0)] {
        a.wg(&["listen-port", port]);
        let endpoint = SocketAddr::new(b.outer[family], 51820).to_string();
        a.wg(&["peer", &b.public, "endpoint", &endpoint]);
        assert!(a.pings(b.inner[1 - family], 1));
        let ours = SocketAddr::new(a.outer[family], port.parse().unwrap());
        assert_eq!(b.endpoint(), ours.to_string());
        assert_carries(&world);
    }
}

/// What it sends is authentic all the same, so its endpoint is known.
#[test]
fn a_source_that_a_more_specific_prefix_gives_to_another_peer_is_dropped() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    a.wg(&["peer", &b.public, "allowed-ips", "10.77.0.0/24"]);
    assert!(a.pings(b.inner[0], 1));
    let stranger = pipe(&["wg", "pubkey"], &run(&["wg", "genkey"]));
    a.wg(&["peer", stranger.trim(), "allowed-ips", "10.77.0.2/32"]);
    b.wg(&["listen-port", "40404"]);
    assert!(!b.reaches(a.inner[0]), "a source of another peer passes");
    a.wg(&["peer", stranger.trim(), "remove"]);
    assert_eq!(a.endpoint(), format!("{}:40404", b.outer[0]));
    assert!(b.pings(a.inner[0], 1));
}
