//! Whatever packets there are: what counts is handed up, and nothing makes it fail.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    Frame, Kind,
    frames::{GATEWAY, ME, ethernet, fragment, geneve, icmp, ip, tcp, udp, vxlan, wireguard},
    handed_up, watch,
};

/// Layers of packets with addresses of the mesh and others.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let v4 = prop::sample::select(vec![
        "10.244.1.5",
        "10.244.4.7",
        "192.168.1.1",
        "192.168.4.1",
        "192.168.2.1",
        "10.4.0.5",
        "198.51.100.9",
        "8.8.8.8",
    ]);
    let v6 = prop::sample::select(vec![
        "fd00:244:1::5",
        "fd00:244:5::5",
        "fd00:1::1",
        "fd00:1::4",
        "2001:db8::1",
    ]);
    let ports = || prop::sample::select(vec![51_820, 8472, 4789, 51_830, 6081, 6443, 80, 4444]);
    let ends = prop_oneof![
        [v4.clone(), v4].prop_map(|ends| ends.map(str::to_owned)),
        [v6.clone(), v6].prop_map(|ends| ends.map(str::to_owned)),
    ];
    let content = prop_oneof![
        (ports(), ports(), prop::bool::ANY).prop_map(|(from, to, genuine)| {
            let payload = if genuine {
                wireguard()
            } else {
                b"plain text".to_vec()
            };
            (17, udp(from, to, &payload))
        }),
        (ports(), ports()).prop_map(|(from, to)| (6, tcp(from, to))),
        any::<u8>().prop_map(|kind| (1, icmp(kind, &[]))),
        any::<u8>().prop_map(|kind| (58, icmp(kind, &[]))),
        any::<(u8, [u8; 9])>().prop_map(|(protocol, bytes)| (protocol, bytes.to_vec())),
    ];
    let leaf = (ends.clone(), content, prop::option::of(0_u16..3)).prop_map(
        |([from, to], (protocol, payload), part)| match part {
            Some(at) => fragment(&from, &to, protocol, at * 8, &payload),
            None => ip(&from, &to, protocol, &payload),
        },
    );
    leaf.prop_recursive(3, 4, 1, move |inner| {
        (ends.clone(), ports(), inner, 0..4).prop_map(|([from, to], port, inner, how)| match how {
            0 => ip(
                &from,
                &to,
                17,
                &udp(port, 8472, &vxlan(&ethernet(ME, GATEWAY, &inner))),
            ),
            1 => ip(
                &from,
                &to,
                17,
                &udp(port, 6081, &geneve(0x6558, 4, &ethernet(ME, GATEWAY, &inner))),
            ),
            2 => ip(&from, &to, if inner[0] >> 4 == 4 { 4 } else { 41 }, &inner),
            _ => ip(&from, &to, 1, &icmp(3, &inner)),
        })
    })
}

/// The same, with some bytes changed, and cut off somewhere.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (packet(), changes, prop::option::of(any::<prop::sample::Index>())).prop_map(
        |(mut packet, changes, end)| {
            for (at, byte) in changes {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            if let Some(end) = end {
                packet.truncate(end.index(packet.len()));
            }
            packet
        },
    )
}

proptest! {
    #[test]
    fn what_counts_is_handed_up_by_one_filter(packet in packet(), outgoing: bool) {
        handed_up(&watch(), &packet, outgoing)?;
    }

    #[test]
    fn damaged_packets_are_handed_up_too_and_harm_nothing(packet in damaged(), outgoing: bool) {
        handed_up(&watch(), &packet, outgoing)?;
    }

    #[test]
    fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), ethernet: bool, outgoing: bool) {
        let watch = watch();
        let frame = Frame { bytes: &bytes, ethernet, outgoing };
        for length in 0..=bytes.len() {
            let frame = Frame { bytes: &bytes[..length], ..frame };
            // Addresses drawn at random are none of the mesh's.
            prop_assert!(!matches!(watch.judge(&frame, &BTreeSet::new()), Kind::Plaintext(_)));
        }
    }
}
