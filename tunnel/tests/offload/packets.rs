//! Packets built field by field, with checksums of their own making.

use std::net::IpAddr;

pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const CWR: u8 = 0x80;

/// The fields of a packet; [`Packet::bytes`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) whole: bool,
    pub(crate) udp: bool,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Returns a TCP segment over IPv4.
pub(crate) fn tcp4(sequence: u32, id: u16, payload: usize) -> Packet {
    Packet {
        from: "10.0.1.1".parse().unwrap(),
        to: "10.0.2.1".parse().unwrap(),
        ports: (40000, 5001),
        tos: 0,
        ttl: 64,
        id,
        whole: true,
        udp: false,
        sequence,
        ack: 0x0102_0304,
        window: 502,
        flags: ACK,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        payload: (0..payload)
            .map(|at| (sequence as usize).wrapping_add(at) as u8)
            .collect(),
    }
}

/// Returns a TCP segment over IPv6.
pub(crate) fn tcp6(sequence: u32, payload: usize) -> Packet {
    Packet {
        from: "fd00::1".parse().unwrap(),
        to: "fd00::2".parse().unwrap(),
        ..tcp4(sequence, 0, payload)
    }
}

/// Returns a UDP datagram over IPv4.
pub(crate) fn udp4(id: u16, payload: usize) -> Packet {
    Packet {
        udp: true,
        options: Vec::new(),
        ..tcp4(u32::from(id), id, payload)
    }
}

impl Packet {
    pub(crate) fn v6(&self) -> bool {
        self.from.is_ipv6()
    }

    pub(crate) fn network(&self) -> usize {
        if self.v6() { 40 } else { 20 }
    }

    pub(crate) fn headers(&self) -> usize {
        self.network() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let body = self.body();
        let protocol = if self.udp { 17 } else { 6 };
        let mut packet = Vec::new();
        if self.v6() {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend([protocol, self.ttl]);
        } else {
            packet.extend([0x45, self.tos]);
            packet.extend((20 + body.len() as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.whole { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
        }
        packet.extend(self.addresses());
        if !self.v6() {
            let checksum = !naive(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet.extend(body);
        packet
    }

    fn addresses(&self) -> Vec<u8> {
        [self.from, self.to]
            .iter()
            .flat_map(|address| match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            })
            .collect()
    }

    /// Returns the transport header and the payload.
    fn body(&self) -> Vec<u8> {
        let mut body = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        let at = if self.udp {
            body.extend((8 + self.payload.len() as u16).to_be_bytes());
            6
        } else {
            body.extend(self.sequence.to_be_bytes());
            body.extend(self.ack.to_be_bytes());
            body.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags]);
            body.extend(self.window.to_be_bytes());
            16
        };
        body.extend([0, 0]);
        if !self.udp {
            body.extend([0, 0]);
            body.extend(&self.options);
        }
        body.extend(&self.payload);
        let pseudo = [
            self.addresses(),
            (body.len() as u32).to_be_bytes().to_vec(),
            vec![0, 0, 0, if self.udp { 17 } else { 6 }],
            body.clone(),
        ]
        .concat();
        let checksum = match !naive(&pseudo) {
            0 if self.udp => u16::MAX,
            checksum => checksum,
        };
        body[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        body
    }
}

/// Computes the checksum as RFC 1071 words it.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
