//! Cutting, byte for byte.

use spanwire_tunnel::offload::{
    segment::{ROOM, SegmentError, Segments},
    vnet::{Gso, Vnet},
};

use crate::packets::{ACK, CWR, FIN, PSH, Packet, tcp4, tcp6, udp4};

/// Returns all packets of a super-packet. The caller may overwrite each, and the room behind it.
pub(crate) fn cut(vnet: &Vnet, packet: &[u8]) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut buffer = [packet, &[0x5a; ROOM]].concat();
    let mut segments = Segments::new(vnet, &mut buffer, packet.len())?;
    let mut packets = Vec::new();
    while let Some((slice, length)) = segments.next_packet() {
        assert_eq!(slice.len(), length + ROOM);
        packets.push(slice[..length].to_vec());
        slice.fill(0xa5);
    }
    Ok(packets)
}

fn super_packet(packet: &Packet, size: u16) -> Vnet {
    Vnet {
        gso: match (packet.udp, packet.v6()) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::Tcp4,
            (false, true) => Gso::Tcp6,
        },
        size,
        checksum: Some((packet.network() as u16, if packet.udp { 6 } else { 16 })),
        // The kernel's hint is not to be relied upon.
        headers: 9999,
    }
}

/// Returns what `packet` is to become: built, not cut.
fn pieces(packet: &Packet, size: usize) -> Vec<Vec<u8>> {
    let chunks: Vec<&[u8]> = packet.payload.chunks(size).collect();
    let last = chunks.len() - 1;
    chunks
        .iter()
        .enumerate()
        .map(|(at, chunk)| {
            let mut flags = packet.flags;
            if at != last {
                flags &= !(PSH | FIN);
            }
            if at != 0 {
                flags &= !CWR;
            }
            Packet {
                id: packet.id.wrapping_add(at as u16),
                sequence: packet.sequence.wrapping_add((at * size) as u32),
                flags,
                payload: chunk.to_vec(),
                ..packet.clone()
            }
            .bytes()
        })
        .collect()
}

#[test]
fn each_packet_is_as_its_sender_would_have_made_it() {
    let flagged = Packet {
        flags: ACK | PSH | FIN | CWR,
        ..tcp4(u32::MAX - 3000, u16::MAX - 1, 10_000)
    };
    for packet in [
        flagged,
        tcp6(77, 10_000),
        udp4(u16::MAX, 10_000),
        Packet {
            from: "fd00::1".parse().unwrap(),
            to: "fd00::2".parse().unwrap(),
            ..udp4(9, 10_000)
        },
        tcp4(1, 1, 65_535 - 52),
    ] {
        for size in [1, 7, 52, 100, 1368, 9_999, 10_000, 20_000] {
            let cut = cut(&super_packet(&packet, size), &packet.bytes()).unwrap();
            assert!(cut == pieces(&packet, size.into()), "{size} {}", packet.udp);
        }
    }
}

#[test]
fn a_lone_packet_is_itself_and_gets_the_checksum_it_lacks() {
    for packet in [tcp4(1, 1, 33), tcp6(1, 33), udp4(1, 33)] {
        let whole = packet.bytes();
        assert_eq!(cut(&Vnet::PLAIN, &whole).unwrap(), std::slice::from_ref(&whole));
        let offset = if packet.udp { 6 } else { 16 };
        let mut partial = whole.clone();
        let at = packet.network() + offset;
        // The sum of the pseudo-header is what is left of the checksum when the rest is taken off.
        let rest = spanwire_tunnel::offload::checksum::sum(
            &[&whole[packet.network()..at], &[0, 0], &whole[at + 2..]].concat(),
        );
        let checksum = !u16::from_be_bytes([whole[at], whole[at + 1]]);
        let pseudo = spanwire_tunnel::offload::checksum::add(checksum, !rest);
        partial[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let vnet = Vnet {
            checksum: Some((packet.network() as u16, offset as u16)),
            ..Vnet::PLAIN
        };
        assert_eq!(cut(&vnet, &partial).unwrap(), [whole]);
    }
}

#[test]
fn headers_without_payload_are_one_packet() {
    let packet = tcp4(1, 1, 0);
    assert_eq!(
        cut(&super_packet(&packet, 100), &packet.bytes()).unwrap(),
        [packet.bytes()]
    );
}

#[test]
fn ip_options_stay_with_every_packet() {
    let packet = tcp4(5, 5, 3000);
    let mut bytes = packet.bytes();
    bytes[0] = 0x46;
    bytes.splice(20..20, [1, 1, 1, 1]);
    let mut vnet = super_packet(&packet, 1000);
    vnet.checksum = Some((24, 16));
    let cut = cut(&vnet, &bytes).unwrap();
    assert_eq!(cut.len(), 3);
    for (packet, plain) in cut.iter().zip(pieces(&packet, 1000)) {
        assert_eq!(packet[20..24], [1, 1, 1, 1]);
        assert_eq!(packet[24..], plain[20..]);
        assert_eq!(spanwire_tunnel::offload::checksum::sum(&packet[..24]), u16::MAX);
        assert_eq!(u16::from_be_bytes([packet[2], packet[3]]), packet.len() as u16);
    }
}

#[test]
fn what_contradicts_its_header_is_refused() {
    let packet = tcp4(1, 1, 3000);
    let good = super_packet(&packet, 1000);
    let bytes = packet.bytes();
    let mut short_header = bytes.clone();
    short_header[32] = 0x40;
    for (vnet, bytes) in [
        (Vnet { size: 0, ..good }, &bytes[..]),
        (
            Vnet {
                gso: Gso::Tcp6,
                ..good
            },
            &bytes,
        ),
        (
            Vnet {
                checksum: None,
                ..good
            },
            &bytes,
        ),
        (
            Vnet {
                checksum: Some((0, 16)),
                ..good
            },
            &bytes,
        ),
        (
            Vnet {
                checksum: Some((60_000, 16)),
                ..good
            },
            &bytes,
        ),
        (
            Vnet {
                checksum: Some((u16::MAX, u16::MAX)),
                ..Vnet::PLAIN
            },
            &bytes,
        ),
        (good, &bytes[..40]),
        (good, &[]),
        (good, &[0x75; 100]),
        (good, &short_header),
    ] {
        assert_eq!(cut(&vnet, bytes), Err(SegmentError), "{vnet:?}");
    }
}

#[test]
fn a_datagram_whose_checksum_is_zero_does_not_look_as_if_it_had_none() {
    let mut packet = udp4(3, 2);
    packet.payload = vec![0, 0];
    let bytes = packet.bytes();
    packet.payload = bytes[26..28].to_vec();
    let bytes = packet.bytes();
    assert_eq!(bytes[26..28], [0xff, 0xff]);
    assert_eq!(cut(&super_packet(&packet, 100), &bytes).unwrap(), [bytes]);
}
