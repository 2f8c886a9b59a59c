//! Echo requests and answers as bytes (RFC 792, RFC 4443 section 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;
use spanwire_topology::Family;

/// The length of an ICMP echo message's header.
const HEADER: usize = 8;
/// The length of a request: the header and the number.
const REQUEST: usize = HEADER + 8;
/// As Linux has it.
const HOP_LIMIT: u8 = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Returns a request. The kernel fills in the checksum of ICMPv6 alone.
pub(super) fn request(family: Family, identifier: u16, sequence: u16, number: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[0] = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    bytes[4..6].copy_from_slice(&identifier.to_be_bytes());
    bytes[6..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[HEADER..].copy_from_slice(&number.to_be_bytes());
    if family == Family::V4 {
        let sum = checksum(&[&bytes]);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Returns the number of an answer, as a raw socket gives it: of IPv4 with the header of the packet.
pub(super) fn answer(family: Family, identifier: u16, bytes: &[u8]) -> Option<u64> {
    let (message, kind) = match family {
        Family::V4 => {
            let header = usize::from(bytes.first()? & 0xf) * 4;
            (bytes.get(header..)?, 0)
        }
        Family::V6 => (bytes, 129),
    };
    let is_ours = message.get(..2)? == [kind, 0] && message.get(4..6)? == identifier.to_be_bytes();
    let number = message.get(HEADER..REQUEST)?.try_into().ok()?;
    is_ours.then(|| u64::from_be_bytes(number))
}

/// Returns a whole packet with a request; `None` where the addresses are of different families.
pub(super) fn whole(from: IpAddr, to: IpAddr, request: &[u8; REQUEST]) -> Option<Vec<u8>> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(whole_v4(from, to, request)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(whole_v6(from, to, request)),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

fn whole_v4(from: Ipv4Addr, to: Ipv4Addr, request: &[u8; REQUEST]) -> Vec<u8> {
    let length = 20 + REQUEST as u8;
    // Version and length of the header; no fragments.
    let mut header = [
        0x45, 0, 0, length, 0, 0, 0x40, 0, HOP_LIMIT, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header[..], request].concat()
}

fn whole_v6(from: Ipv6Addr, to: Ipv6Addr, request: &[u8; REQUEST]) -> Vec<u8> {
    let length = REQUEST as u8;
    let addresses = [from.octets(), to.octets()].concat();
    let mut request = *request;
    // With a pseudo-header (RFC 8200, section 8.1).
    let sum = checksum(&[&addresses, &[0, 0, 0, length, 0, 0, 0, ICMPV6], &request]);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    [
        &[0x60, 0, 0, 0, 0, length, ICMPV6, HOP_LIMIT][..],
        &addresses,
        &request,
    ]
    .concat()
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

// Of the instructions of the classic BPF (Documentation/networking/filter.rst).
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE_FROM_X: u16 = 0x50;
const LOAD_HALF_FROM_X: u16 = 0x48;
const HEADER_TO_X: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Returns a filter that lets the answers to one identifier through; the packet begins with its IPv4 header.
pub(super) fn answers_v4(identifier: u16) -> [SockFilter; 7] {
    [
        SockFilter::new(HEADER_TO_X, 0, 0, 0),
        SockFilter::new(LOAD_BYTE_FROM_X, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 3, 0),
        SockFilter::new(LOAD_HALF_FROM_X, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 0, 1, identifier.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// The same, where the packet begins with its ICMPv6 header.
pub(super) fn answers_v6(identifier: u16) -> [SockFilter; 6] {
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 3, 129),
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 0, 1, identifier.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_repeats_the_number_and_anything_else_is_none() {
        let mut message = request(Family::V6, 7, 1, 0x0102_0304_0506_0708);
        assert_eq!(answer(Family::V6, 7, &message), None, "a request is no answer");
        message[0] = 129;
        assert_eq!(answer(Family::V6, 7, &message), Some(0x0102_0304_0506_0708));
        assert_eq!(answer(Family::V6, 8, &message), None);
        for length in 0..message.len() {
            assert_eq!(answer(Family::V6, 7, &message[..length]), None);
            assert_eq!(answer(Family::V4, 7, &message[..length]), None);
        }
        let mut message = request(Family::V4, 7, 1, 9);
        message[0] = 0;
        let packet = whole("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), &message).unwrap();
        assert_eq!(answer(Family::V4, 7, &packet), Some(9));
        assert_eq!(
            answer(Family::V4, 7, &[0xff; 20]),
            None,
            "a header longer than the packet"
        );
    }

    #[test]
    fn the_checksums_of_a_whole_packet_are_right() {
        let message = request(Family::V4, 1, 2, 3);
        let packet = whole(
            "192.0.2.1".parse().unwrap(),
            "192.0.2.2".parse().unwrap(),
            &message,
        )
        .unwrap();
        assert_eq!(
            (
                packet.len(),
                checksum(&[&packet[..20]]),
                checksum(&[&packet[20..]])
            ),
            (36, 0, 0)
        );
        let message = request(Family::V6, 1, 2, 3);
        let packet = whole(
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
            &message,
        )
        .unwrap();
        let pseudo = [0, 0, 0, 16, 0, 0, 0, 58];
        assert_eq!(
            (packet.len(), checksum(&[&packet[8..40], &pseudo, &packet[40..]])),
            (56, 0)
        );
        assert_eq!(
            whole(
                "192.0.2.1".parse().unwrap(),
                "2001:db8::2".parse().unwrap(),
                &message
            ),
            None
        );
    }
}
