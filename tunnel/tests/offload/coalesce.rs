//! Joining: what may be joined, what may not, and in which order things go on.

use spanwire_tunnel::offload::{
    coalesce::{Coalescer, Joins},
    vnet::{Gso, LENGTH, Vnet},
};

use crate::packets::{ACK, FIN, PSH, Packet, tcp4, tcp6, udp4};

pub(crate) const ALL: Joins = Joins { tcp: true, udp: true };

/// Returns what is written when these packets come and then no more.
pub(crate) fn join(joins: Joins, packets: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>)> {
    let mut written = Vec::new();
    let mut keep = |bytes: &[u8]| {
        let header = bytes[..LENGTH].try_into().unwrap();
        written.push((Vnet::read(header).unwrap(), bytes[LENGTH..].to_vec()));
    };
    let mut coalescer = Coalescer::new(joins);
    for packet in packets {
        coalescer.push(packet, &mut keep);
    }
    coalescer.flush(&mut keep);
    written
}

/// Returns the sizes of the payloads written.
fn shape(packets: &[Packet]) -> Vec<usize> {
    let bytes: Vec<Vec<u8>> = packets.iter().map(Packet::bytes).collect();
    let headers = packets[0].headers();
    join(ALL, &bytes)
        .iter()
        .map(|(_, packet)| packet.len() - headers)
        .collect()
}

#[test]
fn segments_of_a_stream_become_one_super_packet() {
    let packets = [tcp4(1000, 7, 1368), tcp4(2368, 8, 1368), tcp4(3736, 9, 100)];
    let written = join(ALL, &packets.clone().map(|packet| packet.bytes()));
    let [(vnet, packet)] = &written[..] else {
        panic!("{} packets", written.len())
    };
    let want = Vnet {
        gso: Gso::Tcp4,
        size: 1368,
        checksum: Some((20, 16)),
        headers: 52,
    };
    assert_eq!(*vnet, want);
    let payload = packets.map(|packet| packet.payload).concat();
    let whole = Packet {
        payload,
        ..tcp4(1000, 7, 0)
    };
    let mut bytes = whole.bytes();
    // For the kernel to complete: the sum of addresses, protocol and length.
    bytes[36..38].copy_from_slice(&packet[36..38]);
    assert_eq!(*packet, bytes);
    let sum: u32 = 0x0a00 + 0x0101 + 0x0a00 + 0x0201 + 6 + (whole.payload.len() as u32 + 32);
    assert_eq!(packet[36..38], (sum as u16).to_be_bytes());
}

#[test]
fn a_difference_in_any_field_ends_the_batch() {
    let next = tcp4(1100, 8, 100);
    assert_eq!(shape(&[tcp4(1000, 7, 100), next.clone()]), [200]);
    let others = [
        Packet {
            tos: 1,
            ..next.clone()
        },
        Packet {
            ttl: 63,
            ..next.clone()
        },
        Packet {
            id: 9,
            ..next.clone()
        },
        Packet {
            whole: false,
            ..next.clone()
        },
        Packet {
            sequence: 1101,
            ..next.clone()
        },
        Packet {
            ack: 5,
            ..next.clone()
        },
        Packet {
            window: 5,
            ..next.clone()
        },
        Packet {
            flags: ACK | FIN,
            ..next.clone()
        },
        Packet {
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 3],
            ..next.clone()
        },
    ];
    for other in others {
        assert_eq!(
            shape(&[tcp4(1000, 7, 100), other.clone()]),
            [100, 100],
            "{other:?}"
        );
    }
    let shorter_options = Packet {
        options: Vec::new(),
        ..next.clone()
    };
    assert_eq!(shape(&[tcp4(1000, 7, 100), shorter_options]), [100, 88]);
    for other in [
        Packet {
            ports: (40001, 5001),
            ..next.clone()
        },
        Packet {
            to: "10.0.2.2".parse().unwrap(),
            ..next
        },
    ] {
        assert_eq!(shape(&[tcp4(1000, 7, 100), other]), [100, 100]);
    }
    for other in [
        Packet {
            tos: 4,
            ..tcp6(1100, 100)
        },
        Packet {
            ttl: 9,
            ..tcp6(1100, 100)
        },
    ] {
        assert_eq!(shape(&[tcp6(1000, 100), other]), [100, 100]);
    }
    assert_eq!(shape(&[tcp6(1000, 100), tcp6(1100, 100)]), [200]);
}

#[test]
fn a_push_or_a_short_packet_is_the_last() {
    let pushed = Packet {
        flags: ACK | PSH,
        ..tcp4(1100, 8, 100)
    };
    let packets = [
        tcp4(1000, 7, 100),
        pushed,
        tcp4(1200, 9, 100),
        tcp4(1300, 10, 60),
        tcp4(1360, 11, 60),
    ];
    assert_eq!(shape(&packets), [200, 160, 60]);
    let written = join(ALL, &packets.map(|packet| packet.bytes()));
    assert_eq!(written[0].1[33], ACK | PSH);
    assert_eq!(written[1].1[33], ACK);
    assert_eq!(
        shape(&[tcp4(1000, 7, 100), tcp4(1100, 8, 101)]),
        [100, 101],
        "a longer one begins the next"
    );
}

#[test]
fn identifications_may_stay_the_same_where_nothing_is_fragmented() {
    let constant = |whole| {
        [0, 1, 2].map(|at| Packet {
            whole,
            ..tcp4(1000 + at * 100, 7, 100)
        })
    };
    assert_eq!(shape(&constant(true)), [300]);
    assert_eq!(shape(&constant(false)), [100, 100, 100]);
    let mixed = [tcp4(1000, 7, 100), tcp4(1100, 7, 100), tcp4(1200, 9, 100)];
    assert_eq!(shape(&mixed), [200, 100]);
    let mixed = [tcp4(1000, 7, 100), tcp4(1100, 8, 100), tcp4(1200, 7, 100)];
    assert_eq!(shape(&mixed), [200, 100]);
}

#[test]
fn a_damaged_packet_is_not_made_a_good_one() {
    let mut packets =
        [tcp4(1000, 7, 100), tcp4(1100, 8, 100), tcp4(1200, 9, 100)].map(|packet| packet.bytes());
    for damaged in 0..3 {
        let last = packets[damaged].len() - 1;
        packets[damaged][last] ^= 1;
        let written = join(ALL, &packets);
        let alone = written.iter().find(|(_, packet)| *packet == packets[damaged]);
        assert_eq!(
            alone.map(|(vnet, _)| *vnet),
            Some(Vnet::PLAIN),
            "packet {damaged}"
        );
        packets[damaged][last] ^= 1;
    }
}

#[test]
fn datagrams_are_joined_where_the_kernel_cuts_them() {
    let packets = [udp4(1, 500), udp4(2, 500), udp4(3, 20), udp4(4, 20)];
    assert_eq!(shape(&packets), [1020, 20]);
    let bytes = packets.map(|packet| packet.bytes());
    let tcp_only = Joins {
        tcp: true,
        udp: false,
    };
    assert_eq!(
        join(tcp_only, &bytes)
            .iter()
            .map(|(_, packet)| packet.clone())
            .collect::<Vec<_>>(),
        bytes
    );
    // Without a checksum they stay without.
    let bare = bytes.map(|mut packet| {
        packet[26..28].fill(0);
        packet
    });
    assert_eq!(join(ALL, &bare).len(), 4);
}

#[test]
fn nothing_grows_beyond_an_ip_packet_or_64_packets() {
    let stream = |size: usize, count: u16| -> Vec<Packet> {
        (0..count)
            .map(|at| tcp4(u32::from(at) * size as u32, at, size))
            .collect()
    };
    assert_eq!(shape(&stream(1368, 100)), [47 * 1368, 47 * 1368, 6 * 1368]);
    assert_eq!(shape(&stream(10, 100)), [640, 360]);
}

#[test]
fn flows_that_take_turns_are_gathered_side_by_side_and_go_on_in_order() {
    let flow = |port: u16, at: u16| Packet {
        ports: (port, 80),
        ..tcp4(u32::from(at) * 100, at, 100)
    };
    let packets: Vec<Vec<u8>> = (0..3)
        .flat_map(|at| (0..8).map(move |port| flow(port, at).bytes()))
        .collect();
    let written = join(ALL, &packets);
    assert_eq!(
        written.iter().map(|(_, packet)| packet.len()).collect::<Vec<_>>(),
        [352; 8]
    );
    assert_eq!(
        written.iter().map(|(_, packet)| packet[21]).collect::<Vec<_>>(),
        (0..8).collect::<Vec<u8>>()
    );
    // One flow more than fits: the oldest goes on.
    let packets: Vec<Vec<u8>> = (0..9).chain(0..1).map(|port| flow(port, port).bytes()).collect();
    assert_eq!(join(ALL, &packets).len(), 10);
}

#[test]
fn what_cannot_be_joined_lets_its_flow_go_first() {
    let bare = Packet {
        ack: 9,
        ..tcp4(1200, 9, 0)
    };
    let other = Packet {
        ports: (1, 2),
        ..tcp4(5, 5, 50)
    };
    let packets = [
        tcp4(1000, 7, 100),
        other.clone(),
        tcp4(1100, 8, 100),
        bare.clone(),
    ]
    .map(|packet| packet.bytes());
    let written = join(ALL, &packets);
    let lengths: Vec<usize> = written.iter().map(|(_, packet)| packet.len()).collect();
    assert_eq!(
        lengths,
        [252, 52, 102],
        "the stream, its acknowledgement, the other flow"
    );
    let mut icmp = bare.bytes();
    icmp[9] = 1;
    let packets = [other.bytes(), tcp4(1000, 7, 100).bytes(), icmp.clone()];
    assert_eq!(join(ALL, &packets).last().unwrap().1, icmp);
}
