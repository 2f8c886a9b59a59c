//! What each fuzz target does with bytes from anywhere. The tests do the same with the corpora.
#![allow(dead_code, reason = "each target uses one")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use spanwire_tunnel::{
    device::{Device, PADDING, Wire},
    noise::SCRATCH,
    offload::{
        coalesce::{Coalescer, Joins},
        segment::{ROOM, Segments},
        vnet::{LENGTH, Vnet},
    },
    path::Path,
    uapi::{Ports, Session},
};

/// Takes everything and keeps nothing.
struct Nowhere(Vec<u8>);

impl Wire for Nowhere {
    fn room(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn commit(&mut self, _: Path, _: u8, length: usize) {
        assert!(length <= self.0.len());
    }

    fn deliver(&mut self, _: &[u8]) {
        panic!("no session has been established");
    }

    fn is_own(&mut self, _: IpAddr) -> bool {
        true
    }

    fn route_mtu(&mut self, _: Instant, _: IpAddr) -> Option<usize> {
        Some(1299)
    }
}

impl Ports for Nowhere {
    fn listen_port(&self) -> u16 {
        1
    }

    fn is_open(&self) -> bool {
        true
    }

    fn set_listen_port(&mut self, _: u16) -> io::Result<()> {
        Ok(())
    }

    fn fwmark(&self) -> u32 {
        1
    }

    fn set_fwmark(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }
}

fn configure(device: &mut Device, wire: &mut Nowhere, now: Instant, text: &str) {
    let mut session = Session::default();
    for line in text.split('\n') {
        let _ = session.handle_line(now, line, &mut [&mut *device], wire);
    }
    session.handle_end(now, &mut [&mut *device], wire);
}

/// Datagrams that came in one call, and a packet from the interface between them.
pub(crate) fn intake(data: &[u8]) {
    let [high, low, ecn, rest @ ..] = data else { return };
    let (mut device, mut wire, mut now) = (Device::new(1420), Nowhere(vec![0; SCRATCH]), Instant::now());
    let key = "1".repeat(64);
    let peer = "5e12e6b5a2d8d5ee8a8b5ee4ba6b8c5b1d3b7ea5b21f2d7a7d4a51ff6b0bbf1a";
    let text = format!(
        "set=1\nprivate_key={key}\npublic_key={peer}\nendpoint=192.0.2.1:9\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n"
    );
    configure(&mut device, &mut wire, now, &text);
    let source = SocketAddr::from(([192, 0, 2, 7], 7));
    let size = usize::from(u16::from_be_bytes([*high, *low])).max(1);
    for datagram in rest.chunks(size) {
        device.handle_datagram(now, source, *ecn, &mut datagram.to_vec(), &mut wire);
        now += Duration::from_millis(100);
        device.handle_timeout(now, &mut wire);
        let mut packet = [datagram, &[0; PADDING]].concat();
        device.handle_packet(now, &mut packet, datagram.len(), &mut wire);
    }
}

/// A packet behind a virtio-net header.
pub(crate) fn segment(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<LENGTH>() else {
        return;
    };
    let Ok(vnet) = Vnet::read(header) else { return };
    let mut buffer = [packet, &[0; ROOM]].concat();
    let Ok(mut segments) = Segments::new(&vnet, &mut buffer, packet.len()) else {
        return;
    };
    let mut count = 0;
    while let Some((slice, length)) = segments.next_packet() {
        assert!(length <= packet.len() && slice.len() == length + ROOM);
        slice.fill(0xff);
        count += 1;
        assert!(count <= packet.len().max(1));
    }
}

/// Packets, each behind its length: what is joined and cut again is what it was.
pub(crate) fn coalesce(data: &[u8]) {
    let (mut before, mut rest) = (Vec::new(), data);
    while let [high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (packet, more) = more.split_at(length);
        before.push(packet.to_vec());
        rest = more;
    }
    let mut after = Vec::new();
    let mut write = |written: &[u8]| {
        let (header, packet) = written
            .split_first_chunk::<LENGTH>()
            .expect("a header is written first");
        let vnet = Vnet::read(header).expect("it is written as it is read");
        let mut buffer = [packet, &[0; ROOM]].concat();
        let mut segments = Segments::new(&vnet, &mut buffer, packet.len()).expect("it can be cut");
        while let Some((slice, length)) = segments.next_packet() {
            after.push(slice[..length].to_vec());
        }
    };
    let mut coalescer = Coalescer::new(Joins { tcp: true, udp: true });
    for packet in &before {
        coalescer.push(packet, &mut write);
    }
    coalescer.flush(&mut write);
    for packets in [&mut before, &mut after] {
        // Identifications that say nothing may change, and with them the checksum.
        for packet in packets
            .iter_mut()
            .filter(|packet| packet.len() >= 20 && packet[0] == 0x45)
        {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        packets.sort();
    }
    assert_eq!(before, after);
}

/// What a client of the UAPI says.
pub(crate) fn uapi(data: &[u8]) {
    let (mut device, mut wire) = (Device::new(1420), Nowhere(vec![0; SCRATCH]));
    configure(
        &mut device,
        &mut wire,
        Instant::now(),
        &String::from_utf8_lossy(data),
    );
}
