use std::collections::BTreeSet;

use netlink_packet_core::NLA_F_NESTED;

use super::*;
use crate::wireguard::PrivateKey;

fn name() -> LinkName {
    LinkName::new("spanwire0").unwrap()
}

/// The bytes of the messages for a change, without the header of generic netlink.
fn bytes(change: &Change) -> Vec<Vec<u8>> {
    let whole = messages(&name(), change);
    whole
        .iter()
        .map(|message| body(1, 1, message)[HEADER..].to_vec())
        .collect()
}

/// The attributes of a message's only peer, by number.
fn peer(message: &[u8]) -> Vec<(u16, &[u8])> {
    let (_, peers) = attributes(message).find(|(kind, _)| *kind == 8).unwrap();
    let peers: Vec<_> = attributes(peers).collect();
    assert_eq!(peers.len(), 1);
    attributes(peers[0].1).collect()
}

#[test]
fn a_device_is_set_up_with_key_port_and_mark() {
    let change = Change::Device {
        private_key: PrivateKey::new([7; 32]),
        listen_port: 51_820,
        mark: 0x2000,
    };
    let [message] = &bytes(&change)[..] else { panic!() };
    let found: Vec<_> = attributes(message).collect();
    let expected: [(u16, &[u8]); 4] = [
        (2, b"spanwire0\0"),
        (3, &[7; 32]),
        (6, &51_820_u16.to_ne_bytes()),
        (7, &0x2000_u32.to_ne_bytes()),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_peer_is_the_bytes_that_the_header_of_the_kernel_describes() {
    let change = Change::Peer(PeerUpdate {
        key: PublicKey::new([9; 32]),
        endpoint: Some("192.0.2.1:51820".parse().unwrap()),
        keepalive: Some(None),
        group: None,
        preshared: Some(PresharedKey::new([3; 32])),
        add: ["10.1.0.0/16".parse().unwrap()].into(),
    });
    let [message] = &bytes(&change)[..] else { panic!() };
    let peer = peer(message);
    let endpoint = [
        &2_u16.to_ne_bytes()[..],
        &51_820_u16.to_be_bytes(),
        &[192, 0, 2, 1],
        &[0; 8],
    ]
    .concat();
    // WGPEER_A_PUBLIC_KEY, WGPEER_A_ENDPOINT, WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, WGPEER_A_PRESHARED_KEY.
    let expected = [(1, &[9; 32][..]), (4, &endpoint), (5, &[0, 0]), (2, &[3; 32])];
    assert_eq!(peer[..4], expected);
    let (kind, allowed) = peer[4];
    let nested = NLA_F_NESTED.to_ne_bytes();
    let expected = [
        // One allowed IP: 28 bytes, a nest without number.
        &28_u16.to_ne_bytes()[..],
        &nested,
        // WGALLOWEDIP_A_FAMILY, WGALLOWEDIP_A_IPADDR, WGALLOWEDIP_A_CIDR_MASK, each filled up to four bytes.
        &[6_u16, 1, 2, 0].map(u16::to_ne_bytes).concat(),
        &[8_u16, 2].map(u16::to_ne_bytes).concat(),
        &[10, 1, 0, 0],
        &[5_u16, 3].map(u16::to_ne_bytes).concat(),
        &[16, 0, 0, 0],
    ]
    .concat();
    assert_eq!((kind, allowed), (9, &expected[..]));
}

#[test]
fn ten_thousand_allowed_ips_go_in_parts_that_never_replace_one_another() {
    let add: BTreeSet<Prefix> = (0..10_000_u32)
        .map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            format!("fd00:0:{high:x}:{low:x}::/64").parse().unwrap()
        })
        .collect();
    let messages = bytes(&Change::Peer(PeerUpdate {
        key: PublicKey::new([9; 32]),
        endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
        keepalive: Some(Some(Keepalive(25))),
        group: None,
        preshared: None,
        add,
    }));

    assert_eq!(messages.len(), 10);
    for (index, message) in messages.iter().enumerate() {
        let peer = peer(message);
        let kinds: Vec<u16> = peer.iter().map(|(kind, _)| *kind).collect();
        let expected: &[u16] = if index == 0 { &[1, 4, 5, 9] } else { &[1, 9] };
        assert_eq!(kinds, expected);
        assert_eq!(peer[0].1, [9; 32]);
        assert_eq!(attributes(peer.last().unwrap().1).count(), ALLOWED_IPS);
        // The nest of peers, the largest attribute, is a 16-bit length.
        assert!(message.len() < usize::from(u16::MAX));
    }
}

#[test]
fn a_peer_without_allowed_ips_is_one_message_and_so_is_a_removal() {
    let change = Change::Peer(PeerUpdate {
        key: PublicKey::new([9; 32]),
        endpoint: None,
        keepalive: None,
        group: None,
        preshared: Some(None),
        add: BTreeSet::new(),
    });
    let messages = bytes(&change);
    let [message] = &messages[..] else { panic!() };
    assert_eq!(peer(message), [(1, &[9; 32][..]), (2, &[0; 32])]);

    let messages = bytes(&Change::RemovePeer(PublicKey::new([9; 32])));
    let [message] = &messages[..] else { panic!() };
    assert_eq!(peer(message), [(1, &[9; 32][..]), (3, &1_u32.to_ne_bytes())]);
}

#[test]
fn a_peer_that_a_dump_tells_in_parts_is_one_again() {
    let part = |attributes: Vec<WireguardPeerAttribute>| {
        let message = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::Peers(vec![WireguardPeer(attributes)])],
        };
        let request = Request {
            kind: 30,
            flags: 0,
            body: body(0, 1, &message),
        };
        crate::netlink::messages(&request.bytes()).unwrap().remove(0)
    };
    let key = || WireguardPeerAttribute::PublicKey([9; 32]);
    let allowed = |text: &str| WireguardPeerAttribute::AllowedIps(vec![allowed_ip(&text.parse().unwrap())]);
    let device = merge(&[
        part(vec![
            key(),
            WireguardPeerAttribute::PersistentKeepalive(25),
            WireguardPeerAttribute::PresharedKey([3; 32]),
            allowed("10.0.0.0/24"),
        ]),
        part(vec![key(), allowed("fd00::/64")]),
    ]);
    let expected = WireGuardPeer {
        endpoint: None,
        keepalive: Some(Keepalive(25)),
        group: None,
        preshared: PresharedKey::new([3; 32]),
        allowed_ips: Arc::new(
            ["10.0.0.0/24", "fd00::/64"]
                .map(|text| text.parse().unwrap())
                .into(),
        ),
    };
    assert_eq!(device.peers, [(PublicKey::new([9; 32]), expected)].into());
}
