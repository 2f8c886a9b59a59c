//! Where the headers of a TCP or UDP packet are.

use crate::offload::checksum;

/// The transports that kernels cut and join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The headers of a packet of a plain flow: no IP options or extension headers, no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IPv6, not IPv4.
    pub v6: bool,
    /// What follows the IP header.
    pub transport: Transport,
    /// Bytes of the IP header.
    pub network: usize,
    /// Bytes of the IP and the transport header.
    pub total: usize,
}

/// An IPv4 header without options.
pub const IPV4: usize = 20;
/// An IPv6 header without extension headers.
pub const IPV6: usize = 40;
/// A TCP header without options.
pub const TCP: usize = 20;
/// A UDP header.
pub const UDP: usize = 8;

impl Headers {
    /// Reads the headers of a packet that is exactly as long as they say; `None` for everything else.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (v6, network, protocol) = match packet.first()? >> 4 {
            4 if packet.len() >= IPV4
                && packet[0] == 0x45
                && word(packet, 2) == packet.len()
                // Neither more fragments nor an offset.
                && word(packet, 6) & 0x3fff == 0 =>
            {
                (false, IPV4, packet[9])
            }
            6 if packet.len() >= IPV6 && word(packet, 4) + IPV6 == packet.len() => (true, IPV6, packet[6]),
            _ => return None,
        };
        let (transport, length) = match i32::from(protocol) {
            libc::IPPROTO_TCP if packet.len() >= network + TCP => {
                (Transport::Tcp, usize::from(packet[network + 12] >> 4) * 4)
            }
            libc::IPPROTO_UDP
                if packet.len() >= network + UDP && word(packet, network + 4) == packet.len() - network =>
            {
                (Transport::Udp, UDP)
            }
            _ => return None,
        };
        if transport == Transport::Tcp && (length < TCP || packet.len() < network + length) {
            return None;
        }
        Some(Self {
            v6,
            transport,
            network,
            total: network + length,
        })
    }

    /// Returns where in the transport header the checksum is.
    pub fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }

    /// Returns the sum of the pseudo-header that TCP and UDP checksums cover, for a transport header and payload of
    /// `length` bytes.
    pub fn pseudo_sum(&self, packet: &[u8], length: usize) -> u16 {
        let addresses = if self.v6 { &packet[8..40] } else { &packet[12..20] };
        let protocol = match self.transport {
            Transport::Tcp => libc::IPPROTO_TCP,
            Transport::Udp => libc::IPPROTO_UDP,
        };
        // In IPv6 the length has 32 bits; none is that long.
        checksum::add(
            checksum::add(checksum::sum(addresses), protocol as u16),
            length as u16,
        )
    }

    /// Returns whether the TCP or UDP checksum of a whole packet is right.
    pub fn is_checksum_right(&self, packet: &[u8]) -> bool {
        let body = &packet[self.network..];
        checksum::add(self.pseudo_sum(packet, body.len()), checksum::sum(body)) == u16::MAX
    }

    /// Writes what follows from a packet's length: the IP header's length and checksum, and UDP's length.
    pub fn set_length(&self, packet: &mut [u8], length: usize) {
        let put = |packet: &mut [u8], at: usize, value: usize| {
            packet[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
        };
        if self.v6 {
            put(packet, 4, length - IPV6);
        } else {
            put(packet, 2, length);
            checksum::set_ipv4(&mut packet[..self.network]);
        }
        if self.transport == Transport::Udp {
            put(packet, self.network + 4, length - self.network);
        }
    }
}

/// What stands behind the extension headers of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A header of this protocol, at this place; it may be cut short.
    Header(u8, usize),
    /// A fragment that is not the first, of a packet with this protocol behind the fragment header.
    LaterFragment(u8),
    /// Nothing: the packet ends in an extension header.
    End,
}

/// Walks the extension headers of an IPv6 packet, which is at least as long as its fixed header.
pub fn behind_extensions(packet: &[u8]) -> Behind {
    let (mut next, mut at) = (packet[6], IPV6);
    // Hop-by-hop options, routing, fragment, destination options.
    while matches!(next, 0 | 43 | 44 | 60) {
        let Some(header) = packet.get(at..at + 8) else {
            return Behind::End;
        };
        if next == 44 && word(header, 2) & !7 != 0 {
            return Behind::LaterFragment(header[0]);
        }
        let length = if next == 44 {
            8
        } else {
            usize::from(header[1]) * 8 + 8
        };
        (next, at) = (header[0], at + length);
    }
    Behind::Header(next, at)
}

/// Returns a big-endian 16-bit word.
pub fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}
