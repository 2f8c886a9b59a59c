//! What the bytes of a packet say, as far as they are there. Nothing that a stranger sends makes it fail.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A link-layer address.
pub type Mac = [u8; 6];

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
/// Of IPv4 inside of IP (RFC 2003).
pub(super) const IPV4: u8 = 4;
/// Of IPv6 inside of IP (RFC 2473).
pub(super) const IPV6: u8 = 41;

/// The extension headers of IPv6 (RFC 8200, section 4; RFC 4302).
pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const OPTIONS: u8 = 60;

/// flannel's and Cilium's port for VXLAN, and that of RFC 7348.
pub(super) const VXLAN: [u16; 2] = [8472, 4789];
/// RFC 8926.
pub(super) const GENEVE: u16 = 6081;

/// No host sends more.
const EXTENSIONS: usize = 8;
const TAGS: usize = 3;

/// A frame of Ethernet that has an IP packet in it.
pub(super) struct Ethernet<'a> {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) packet: &'a [u8],
}

/// An IP packet.
pub(super) struct Ip<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What is in it; `None` where it is cut off before that.
    pub(super) protocol: Option<u8>,
    /// A fragment that is not the first one of its datagram, and so has no ports.
    pub(super) later: bool,
    pub(super) payload: &'a [u8],
}

/// A UDP datagram.
pub(super) struct Udp<'a> {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) payload: &'a [u8],
}

/// Reads a frame, with VLAN tags (802.1Q, 802.1ad) or without.
pub(super) fn ethernet(frame: &[u8]) -> Option<Ethernet<'_>> {
    let destination = *frame.first_chunk()?;
    let source = *frame.get(6..)?.first_chunk()?;
    let mut rest = frame.get(12..)?;
    for _ in 0..=TAGS {
        let kind = word(rest, 0)?;
        match kind {
            0x8100 | 0x88a8 | 0x9100 => rest = rest.get(4..)?,
            0x0800 | 0x86dd => {
                let packet = rest.get(2..)?;
                return Some(Ethernet {
                    destination,
                    source,
                    packet,
                });
            }
            _ => return None,
        }
    }
    None
}

/// Reads a packet of either version.
pub(super) fn ip(packet: &[u8]) -> Option<Ip<'_>> {
    match packet.first()? >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => None,
    }
}

/// Returns how long a packet is, as its header says it; `None` where it is longer than the header can say.
pub(super) fn length(packet: &[u8]) -> Option<usize> {
    let (at, fixed) = match packet.first()? >> 4 {
        4 => (2, 0),
        _ => (4, 40),
    };
    let length = usize::from(word(packet, at)?);
    (length > 0).then_some(fixed + length)
}

fn v4(packet: &[u8]) -> Option<Ip<'_>> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let header = usize::from(fixed[0] & 0xf) * 4;
    if header < fixed.len() {
        return None;
    }
    let address = |at: usize| {
        let octets: &[u8; 4] = fixed[at..].first_chunk()?;
        Some(IpAddr::V4(Ipv4Addr::from(*octets)))
    };
    // Behind a short packet Ethernet has padding. What the kernel has put together of many is longer than the field can say.
    let total = usize::from(word(fixed, 2)?);
    let end = if total >= header {
        total.min(packet.len())
    } else {
        packet.len()
    };
    let payload = packet.get(header..end);
    Some(Ip {
        source: address(12)?,
        destination: address(16)?,
        protocol: payload.map(|_| fixed[9]),
        later: word(fixed, 6)? & 0x1fff != 0,
        payload: payload.unwrap_or_default(),
    })
}

fn v6(packet: &[u8]) -> Option<Ip<'_>> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    let address = |at: usize| {
        let octets: &[u8; 16] = fixed[at..].first_chunk()?;
        Some(IpAddr::V6(Ipv6Addr::from(*octets)))
    };
    let mut ip = Ip {
        source: address(8)?,
        destination: address(24)?,
        protocol: Some(fixed[6]),
        later: false,
        payload: &packet[fixed.len()..],
    };
    for _ in 0..EXTENSIONS {
        let Some(header @ (HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | OPTIONS)) = ip.protocol else {
            return Some(ip);
        };
        let length = |bytes: &[u8]| {
            let count = usize::from(*bytes.get(1)?);
            Some(match header {
                FRAGMENT => 8,
                AUTHENTICATION => (count + 2) * 4,
                _ => (count + 1) * 8,
            })
        };
        if header == FRAGMENT {
            ip.later = word(ip.payload, 2).is_some_and(|field| field >> 3 != 0);
        }
        let rest = length(ip.payload).and_then(|length| ip.payload.get(length..));
        ip.protocol = rest.and_then(|_| ip.payload.first().copied());
        ip.payload = rest.unwrap_or_default();
        if ip.later {
            return Some(ip);
        }
    }
    ip.protocol = None;
    Some(ip)
}

/// Reads the ports that TCP and UDP have alike.
pub(super) fn ports(payload: &[u8]) -> Option<(u16, u16)> {
    Some((word(payload, 0)?, word(payload, 2)?))
}

pub(super) fn udp(payload: &[u8]) -> Option<Udp<'_>> {
    let (source, destination) = ports(payload)?;
    Some(Udp {
        source,
        destination,
        payload: payload.get(8..)?,
    })
}

/// Returns whether a datagram begins as WireGuard's do: a type from 1 to 4, and three bytes of zero (whitepaper, section 5.4).
/// `None`: it is cut off before that.
pub(super) fn is_wireguard(datagram: &[u8]) -> Option<bool> {
    let start: &[u8; 4] = datagram.first_chunk()?;
    Some(matches!(start, [1..=4, 0, 0, 0]))
}

/// Returns the packet that a frame of VXLAN has in it.
pub(super) fn in_vxlan(datagram: &[u8]) -> Option<&[u8]> {
    Some(ethernet(datagram.get(8..)?)?.packet)
}

/// Returns the packet that Geneve has in it: in a frame of Ethernet, or without one.
pub(super) fn in_geneve(datagram: &[u8]) -> Option<&[u8]> {
    let options = usize::from(datagram.first()? & 0x3f) * 4;
    let inner = datagram.get(8 + options..)?;
    match word(datagram, 2)? {
        0x6558 => Some(ethernet(inner)?.packet),
        0x0800 | 0x86dd => Some(inner),
        _ => None,
    }
}

/// Returns the packet that an ICMP error is about.
pub(super) fn quoted(protocol: u8, message: &[u8]) -> Option<&[u8]> {
    let is_error = match protocol {
        ICMP => matches!(message.first()?, 3 | 4 | 5 | 11 | 12),
        _ => matches!(message.first()?, 1..=4),
    };
    message.get(8..).filter(|_| is_error)
}

/// Returns whether it is a message of neighbour discovery (RFC 4861), which no router forwards.
pub(super) fn is_discovery(protocol: u8, message: &[u8]) -> bool {
    protocol == ICMPV6 && message.first().is_some_and(|kind| (133..=137).contains(kind))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let octets: &[u8; 2] = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*octets))
}
