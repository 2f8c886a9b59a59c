//! Packets as bytes.

use std::net::IpAddr;

use super::Mac;

/// The link-layer address of the node itself.
pub(crate) const ME: Mac = [2, 0, 0, 0, 0, 1];
/// That of another leader of its location.
pub(crate) const RELAY: Mac = [2, 0, 0, 0, 0, 2];
/// That of a router.
pub(crate) const GATEWAY: Mac = [2, 0, 0, 0, 0, 9];

pub(crate) fn ethernet(source: Mac, destination: Mac, packet: &[u8]) -> Vec<u8> {
    let kind: u16 = match packet.first().map(|first| first >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    [&destination[..], &source, &kind.to_be_bytes(), packet].concat()
}

/// Puts a tag of 802.1Q into a frame.
pub(crate) fn vlan(number: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &number.to_be_bytes(), &frame[12..]].concat()
}

pub(crate) fn ip(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            [&header[..], &source.octets(), &destination.octets(), payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let header = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            [&header[..], &source.octets(), &destination.octets(), payload].concat()
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// A fragment at that offset.
pub(crate) fn fragment(source: &str, destination: &str, protocol: u8, at: u16, payload: &[u8]) -> Vec<u8> {
    if source.contains(':') {
        let field = at.to_be_bytes();
        let header = [protocol, 0, field[0], field[1] | 1, 0, 0, 0, 7];
        return ip(source, destination, 44, &[&header[..], payload].concat());
    }
    let mut packet = ip(source, destination, protocol, payload);
    packet[6..8].copy_from_slice(&((at / 8) | 0x2000).to_be_bytes());
    packet
}

pub(crate) fn tcp(source: u16, destination: u16) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0; 8], &[0x50, 2], &[0; 6]].concat()
}

pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let words = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    [&words[..], payload].concat()
}

/// A message of WireGuard with data.
pub(crate) fn wireguard() -> Vec<u8> {
    [&[4, 0, 0, 0][..], &[7; 44]].concat()
}

pub(crate) fn vxlan(frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, 1, 0][..], frame].concat()
}

/// Geneve with so many bytes of options.
pub(crate) fn geneve(kind: u16, options: u8, inner: &[u8]) -> Vec<u8> {
    let kind = kind.to_be_bytes();
    let header = [options / 4, 0, kind[0], kind[1], 0, 0, 1, 0];
    [&header[..], &vec![0; options.into()], inner].concat()
}

/// A message about a packet.
pub(crate) fn icmp(kind: u8, about: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], about].concat()
}
