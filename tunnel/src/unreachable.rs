//! What the sender of a packet hears for which there is no way: ICMP "host unreachable" (RFC 792) and ICMPv6 "address
//! unreachable" (RFC 4443), as the kernel's WireGuard sends them (`wg_xmit`).
//!
//! The answer comes from the address that was not reached: it has a route through the tunnel's interface, so no filter takes
//! the answer for one that came in by the wrong way, and it is no address of this machine, from which the kernel would accept
//! nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::offload::{
    checksum,
    headers::{Behind, IPV4, IPV6, behind_extensions, word},
};

/// Type, code, checksum and four bytes that mean nothing here.
const ICMP: usize = 8;
/// As much of an answer as every receiver of IPv4 takes (RFC 1812, 4.3.2.3), and the smallest MTU of IPv6.
const MOST_V4: usize = 576;
const MOST_V6: usize = 1280;
/// Room for every answer.
pub const ROOM: usize = MOST_V6;
/// Network control, as the kernel marks its ICMP errors.
const TOS: u8 = 0xc0;
const TTL: u8 = 64;

/// Writes the answer to a packet; `None` when there must be none (RFC 1122, 3.2.2; RFC 4443, 2.4): an error is not answered
/// with an error, nor is what many receive, or a later fragment.
pub fn answer(packet: &[u8], room: &mut [u8; ROOM]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => answer_v4(packet, room),
        6 => answer_v6(packet, room),
        _ => None,
    }
}

fn answer_v4(packet: &[u8], room: &mut [u8; ROOM]) -> Option<usize> {
    let header = usize::from(packet[0] & 15) * 4;
    let (source, destination): ([u8; 4], [u8; 4]) = (
        *packet.get(12..)?.first_chunk()?,
        *packet.get(16..)?.first_chunk()?,
    );
    let [from, to] = [source, destination].map(Ipv4Addr::from);
    let one =
        |address: Ipv4Addr| !(address.is_multicast() || address.is_broadcast() || address.is_unspecified());
    let is_fragment = word(packet, 6) & 0x1fff != 0;
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
    let is_error = packet[9] == 1
        && packet
            .get(header)
            .is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12));
    if header < IPV4 || is_fragment || is_error || !one(from) || !one(to) {
        return None;
    }
    let quoted = packet.len().min(MOST_V4 - IPV4 - ICMP);
    let length = IPV4 + ICMP + quoted;
    let answer = &mut room[..length];
    answer[..IPV4 + ICMP].fill(0);
    answer[..2].copy_from_slice(&[0x45, TOS]);
    answer[2..4].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    answer[8..10].copy_from_slice(&[TTL, 1]);
    answer[12..16].copy_from_slice(&destination);
    answer[16..20].copy_from_slice(&source);
    checksum::set_ipv4(&mut answer[..IPV4]);
    // Destination unreachable, host unreachable.
    answer[IPV4..IPV4 + 2].copy_from_slice(&[3, 1]);
    answer[IPV4 + ICMP..].copy_from_slice(&packet[..quoted]);
    let checksum = !checksum::sum(&answer[IPV4..]);
    answer[IPV4 + 2..IPV4 + 4].copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

fn answer_v6(packet: &[u8], room: &mut [u8; ROOM]) -> Option<usize> {
    let (source, destination): ([u8; 16], [u8; 16]) = (
        *packet.get(8..)?.first_chunk()?,
        *packet.get(24..)?.first_chunk()?,
    );
    let [from, to] = [source, destination].map(Ipv6Addr::from);
    if from.is_unspecified() || from.is_multicast() || to.is_multicast() || is_error_or_fragment(packet) {
        return None;
    }
    let quoted = packet.len().min(MOST_V6 - IPV6 - ICMP);
    let (length, payload) = (IPV6 + ICMP + quoted, ICMP + quoted);
    let answer = &mut room[..length];
    answer[..IPV6 + ICMP].fill(0);
    answer[..2].copy_from_slice(&[0x60 | TOS >> 4, TOS << 4]);
    answer[4..6].copy_from_slice(&u16::try_from(payload).ok()?.to_be_bytes());
    answer[6..8].copy_from_slice(&[58, TTL]);
    answer[8..24].copy_from_slice(&destination);
    answer[24..40].copy_from_slice(&source);
    // Destination unreachable, address unreachable.
    answer[IPV6..IPV6 + 2].copy_from_slice(&[1, 3]);
    answer[IPV6 + ICMP..].copy_from_slice(&packet[..quoted]);
    let pseudo = checksum::add(checksum::sum(&answer[8..40]), u16::try_from(payload + 58).ok()?);
    let checksum = !checksum::add(pseudo, checksum::sum(&answer[IPV6..]));
    answer[IPV6 + 2..IPV6 + 4].copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

/// What cannot be read counts as an error.
fn is_error_or_fragment(packet: &[u8]) -> bool {
    match behind_extensions(packet) {
        Behind::LaterFragment(_) | Behind::End => true,
        // Errors are the types below 128; 137 is a redirect.
        Behind::Header(58, at) => packet
            .get(at..at + 8)
            .is_none_or(|header| header[0] < 128 || header[0] == 137),
        Behind::Header(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        packet.extend(payload);
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    fn answered(packet: &[u8]) -> Option<Vec<u8>> {
        let mut room = [0xee; ROOM];
        answer(packet, &mut room).map(|length| room[..length].to_vec())
    }

    #[test]
    fn the_sender_hears_which_of_its_packets_did_not_arrive() {
        for payload in [0, 8, 9, 500, 1400] {
            let packet = v4(17, &vec![7; payload]);
            let answer = answered(&packet).unwrap();
            assert_eq!(answer.len(), 28 + packet.len().min(548));
            assert_eq!(word(&answer, 2), answer.len());
            assert_eq!(
                (&answer[12..16], &answer[16..20]),
                (&[10, 0, 0, 2][..], &[10, 0, 0, 1][..])
            );
            assert_eq!((answer[9], &answer[20..22]), (1, &[3, 1][..]));
            assert_eq!(checksum::sum(&answer[..20]), 0xffff);
            assert_eq!(checksum::sum(&answer[20..]), 0xffff);
            assert!(packet.starts_with(&answer[28..]));

            let packet = v6(6, &vec![7; payload]);
            let answer = answered(&packet).unwrap();
            assert_eq!(answer.len(), 48 + packet.len().min(1232));
            assert_eq!(word(&answer, 4), answer.len() - 40);
            assert_eq!((answer[6], &answer[40..42]), (58, &[1, 3][..]));
            assert_eq!(
                (&answer[8..24], &answer[24..40]),
                (&packet[24..40], &packet[8..24])
            );
            let payload = u16::try_from(answer.len() - 40).unwrap();
            let pseudo = checksum::add(checksum::sum(&answer[8..40]), checksum::add(payload, 58));
            assert_eq!(checksum::add(pseudo, checksum::sum(&answer[40..])), 0xffff);
            assert!(packet.starts_with(&answer[48..]));
        }
    }

    #[test]
    fn echoes_are_answered_and_errors_are_not() {
        let icmp = |kind: u8| [kind, 0, 0, 0, 0, 0, 0, 0];
        for (kind, want) in [
            (8, true),
            (0, true),
            (3, false),
            (5, false),
            (11, false),
            (12, false),
        ] {
            assert_eq!(answered(&v4(1, &icmp(kind))).is_some(), want, "ICMP {kind}");
        }
        for (kind, want) in [
            (128, true),
            (135, true),
            (1, false),
            (2, false),
            (127, false),
            (137, false),
        ] {
            assert_eq!(answered(&v6(58, &icmp(kind))).is_some(), want, "ICMPv6 {kind}");
            let behind = [&[58, 0, 0, 0, 0, 0, 0, 0], &icmp(kind)[..]].concat();
            assert_eq!(
                answered(&v6(0, &behind)).is_some(),
                want,
                "ICMPv6 {kind} behind options"
            );
        }
    }

    #[test]
    fn what_many_receive_nobody_sent_or_is_no_beginning_is_not_answered() {
        let changed = |mut packet: Vec<u8>, at: usize, bytes: &[u8]| {
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            packet
        };
        let (v4, v6) = (v4(17, &[0; 8]), v6(17, &[0; 8]));
        for packet in [
            changed(v4.clone(), 16, &[224, 0, 0, 1]),
            changed(v4.clone(), 16, &[255; 4]),
            changed(v4.clone(), 12, &[0; 4]),
            changed(v4.clone(), 12, &[239, 0, 0, 1]),
            changed(v4.clone(), 6, &[0, 1]),
            changed(v4.clone(), 0, &[0x41]),
            v4[..19].to_vec(),
            changed(v6.clone(), 24, &[0xff, 2]),
            changed(v6.clone(), 8, &[0; 16]),
            changed(v6.clone(), 6, &[44, 64, 0, 0]),
            v6[..39].to_vec(),
            vec![],
            vec![0x55; 60],
        ] {
            // A fragment header whose offset is not zero.
            let packet = if packet.get(6) == Some(&44) {
                changed(packet, 40, &[17, 0, 0, 8])
            } else {
                packet
            };
            assert_eq!(answered(&packet), None, "{packet:?}");
        }
    }
}
