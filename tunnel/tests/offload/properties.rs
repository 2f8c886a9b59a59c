//! What is joined and cut again is what it was, flow by flow; and nothing that comes from outside makes either panic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use spanwire_tunnel::offload::{
    coalesce::{Coalescer, Joins},
    headers::Headers,
    segment::{ROOM, Segments},
    vnet::{LENGTH, Vnet},
};

use crate::{
    coalesce::join,
    packets::{ACK, FIN, PSH, Packet, tcp4, tcp6, udp4},
    segment::cut,
};

/// One step of a flow: mostly the stream going on, sometimes something in its way.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    length: usize,
    flags: u8,
    skip: u32,
    window: u16,
    tos: u8,
    damaged: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let rarely = |value: u32| prop_oneof![20 => Just(0), 1 => Just(value)];
    (
        0..6usize,
        prop_oneof![6 => Just(1368usize), 2 => Just(100), 1 => Just(0), 1 => 1..1400usize],
        prop_oneof![20 => Just(ACK), 2 => Just(ACK | PSH), 1 => Just(ACK | FIN), 1 => Just(0x02)],
        rarely(1368),
        rarely(1),
        rarely(3),
        prop::bool::weighted(0.03),
    )
        .prop_map(|(flow, length, flags, skip, window, tos, damaged)| Step {
            flow,
            length,
            flags,
            skip,
            window: window as u16,
            tos: tos as u8,
            damaged,
        })
}

/// Streams of several flows as they come in turns.
fn traffic(steps: &[Step], start: u32) -> Vec<Vec<u8>> {
    let mut state: BTreeMap<usize, (u32, u16)> = BTreeMap::new();
    steps
        .iter()
        .map(|step| {
            let (sequence, id) = state.entry(step.flow).or_insert((start, start as u16));
            *sequence = sequence.wrapping_add(step.skip);
            let base = match step.flow {
                0 | 1 => tcp4(*sequence, *id, step.length),
                2 | 3 => tcp6(*sequence, step.length),
                _ => udp4(*id, step.length),
            };
            let packet = Packet {
                ports: (step.flow as u16, 80),
                flags: step.flags,
                window: 500 + step.window,
                tos: step.tos,
                ..base
            };
            *sequence = sequence.wrapping_add(step.length as u32);
            *id = id.wrapping_add(1);
            let mut bytes = packet.bytes();
            if step.damaged {
                let last = bytes.len() - 1;
                bytes[last] ^= 0x10;
            }
            bytes
        })
        .collect()
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<&Vec<u8>>> {
    let mut flows: BTreeMap<Vec<u8>, Vec<&Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        let at = if packet[0] >> 4 == 6 { 40 } else { 20 };
        flows.entry(packet[at..at + 2].to_vec()).or_default().push(packet);
    }
    flows
}

proptest! {
    #[test]
    fn joining_and_cutting_preserve_every_flow(
        steps in prop::collection::vec(step(), 0..200),
        start in any::<u32>(),
        tcp in any::<bool>(),
        udp in any::<bool>(),
    ) {
        let packets = traffic(&steps, start);
        let written = join(Joins { tcp, udp }, &packets);
        let mut arrived = Vec::new();
        for (vnet, packet) in &written {
            arrived.extend(cut(vnet, packet).unwrap());
        }
        prop_assert_eq!(by_flow(&arrived), by_flow(&packets));
        if !tcp && !udp {
            prop_assert_eq!(&arrived, &packets);
        }
    }

    #[test]
    fn no_packet_makes_the_coalescer_panic_or_lose_it(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..20),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
    ) {
        let packets: Vec<Vec<u8>> = packets.into_iter().map(|mut packet| {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            // Lengths that fit, so that more than the length is looked at.
            let length = packet.len() as u16;
            if length >= 20 {
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[6..8].fill(0);
            }
            packet
        }).collect();
        let mut bytes = 0;
        let mut count = |written: &[u8]| bytes += written.len() - LENGTH;
        let mut coalescer = Coalescer::new(Joins { tcp: true, udp: true });
        for packet in &packets {
            coalescer.push(packet, &mut count);
        }
        coalescer.flush(&mut count);
        prop_assert!(bytes <= packets.iter().map(Vec::len).sum());
    }

    #[test]
    fn no_header_makes_the_cutter_panic_or_invent_payload(
        header in any::<[u8; LENGTH]>(),
        kind in 0..6u8,
        packet in prop::collection::vec(any::<u8>(), 0..400),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
    ) {
        let mut header = header;
        header[1] = kind;
        header[7] = 0;
        let mut packet = packet;
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let Ok(vnet) = Vnet::read(&header) else { return Ok(()) };
        let mut buffer = [&packet[..], &[0; ROOM]].concat();
        if let Ok(mut segments) = Segments::new(&vnet, &mut buffer, packet.len()) {
            let mut count = 0;
            while let Some((slice, length)) = segments.next_packet() {
                prop_assert!(length <= packet.len());
                slice.fill(0xff);
                count += 1;
            }
            prop_assert!(count >= 1 && count <= packet.len().max(1));
        }
    }

    #[test]
    fn headers_lie_within_their_packet(packet in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Some(headers) = Headers::read(&packet) {
            prop_assert!(headers.total <= packet.len());
        }
    }
}
