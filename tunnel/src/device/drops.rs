//! What a device does not carry, and who hears of it.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    device::{Device, Wire},
    offload::headers::{Behind, IPV4, IPV6, UDP, behind_extensions, word},
    unreachable,
};

/// What was dropped, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Packets from the interface that contradict their virtio-net header.
    pub malformed: u64,
    /// Packets from the interface that are no IP.
    pub not_ip: u64,
    /// Packets from the interface whose destination belongs to no peer.
    pub no_peer: u64,
    /// Packets from the interface for a peer whose endpoint is not known.
    pub no_endpoint: u64,
    /// Datagrams of this device that came back from the interface, for their way leads into the tunnel itself; and those of other
    /// tunnels that went round until no hops were left.
    pub looped: u64,
    /// Datagrams that were received before the interface went down and would have been worked on after.
    pub down: u64,
    /// Datagrams that are no WireGuard message for this device.
    pub unknown: u64,
    /// Handshake messages that there was no time for, from addresses that had their share.
    pub too_many: u64,
    /// Datagrams that their peer's protocol state rejects: forged, replayed, expired.
    pub rejected: u64,
    /// Packets whose source address belongs neither to the peer that sent them nor to another of its group.
    pub wrong_source: u64,
    /// Packets marked as congested on the way whose sender does not understand that (RFC 6040).
    pub congested: u64,
}

/// Answers to packets without a way in one second, as many as the kernel sends ICMP messages (`icmp_msgs_per_sec`).
const ANSWERS_PER_SECOND: u32 = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// The answers of the current second.
#[derive(Debug)]
pub(super) struct Answers {
    since: Option<Instant>,
    sent: u32,
    room: [u8; unreachable::ROOM],
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            since: None,
            sent: 0,
            room: [0; unreachable::ROOM],
        }
    }
}

impl Answers {
    fn is_allowed(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|at| now.saturating_duration_since(at) >= SECOND)
        {
            (self.since, self.sent) = (Some(now), 0);
        }
        self.sent += 1;
        self.sent <= ANSWERS_PER_SECOND
    }
}

impl Device {
    /// Lets the sender of a packet know that there is no way to where it shall go.
    pub(super) fn refuse(&mut self, now: Instant, packet: &[u8], wire: &mut impl Wire) {
        let Self { answers, .. } = self;
        if answers.is_allowed(now)
            && let Some(length) = unreachable::answer(packet, &mut answers.room)
        {
            wire.deliver(&answers.room[..length]);
        }
    }
}

/// What of UDP is in a packet from the interface.
#[derive(Clone, Copy, Debug)]
pub(super) enum Udp<'a> {
    /// A datagram, or its first fragment, from the UDP header on.
    Datagram(&'a [u8]),
    /// Another fragment.
    LaterFragment,
}

impl<'a> Udp<'a> {
    pub(super) fn read(packet: &'a [u8]) -> Option<Self> {
        const PROTOCOL: u8 = libc::IPPROTO_UDP as u8;
        let at = match packet.first()? >> 4 {
            4 if packet.len() >= IPV4 && packet[9] == PROTOCOL => {
                if word(packet, 6) & 0x1fff != 0 {
                    return Some(Self::LaterFragment);
                }
                usize::from(packet[0] & 15) * 4
            }
            6 if packet.len() >= IPV6 => match behind_extensions(packet) {
                Behind::Header(PROTOCOL, at) => at,
                Behind::LaterFragment(PROTOCOL) => return Some(Self::LaterFragment),
                Behind::Header(..) | Behind::LaterFragment(_) | Behind::End => return None,
            },
            _ => return None,
        };
        // With the first byte behind it.
        let udp = packet.get(at..).filter(|udp| udp.len() > UDP)?;
        Some(Self::Datagram(udp))
    }
}

/// Returns from where a datagram comes, if it looks like one that this device sent from `port` to one of these endpoints: their
/// route leads into the tunnel itself, and each packet would become another one.
pub(super) fn looks_own(
    packet: &[u8],
    udp: Udp<'_>,
    port: u16,
    endpoints: [Option<SocketAddr>; 2],
) -> Option<IpAddr> {
    let Udp::Datagram(udp) = udp else { return None };
    // A WireGuard message begins with its type.
    if port == 0 || word(udp, 0) != usize::from(port) || !(1..=4).contains(&udp[UDP]) {
        return None;
    }
    let (source, destination): (IpAddr, IpAddr) = if packet[0] >> 4 == 4 {
        (v4(packet, 12)?, v4(packet, 16)?)
    } else {
        (v6(packet, 8)?, v6(packet, 24)?)
    };
    let is_endpoint =
        |endpoint: SocketAddr| endpoint.ip() == destination && word(udp, 2) == usize::from(endpoint.port());
    endpoints.into_iter().flatten().any(is_endpoint).then_some(source)
}

/// What a tunnel inside another costs of the hops that are left: tunnels that lead into each other end after eight rounds, and
/// a way through the world has fewer than 32 routers.
const NESTING: u8 = 8;

/// Returns how many routers may pass on what a packet with UDP becomes: as many as the kernel says (zero), or, if the packet is
/// itself a WireGuard message of any tunnel, or a part of one, some less than it has left. `None` when none are left.
///
/// The kernel gives the datagrams of each tunnel all hops again, so that where two lead into each other nothing else would end the circle.
pub(super) fn hops(packet: &[u8], udp: Udp<'_>) -> Option<u8> {
    let (left, is_multicast) = if packet[0] >> 4 == 4 {
        (packet[8], packet[16] >> 4 == 0xe)
    } else {
        (packet[7], packet[24] == 0xff)
    };
    let is_message = match udp {
        Udp::Datagram(udp) => is_message(udp),
        // Whose it is cannot be seen. What many receive is no WireGuard message, and has few hops by intention.
        Udp::LaterFragment => !is_multicast,
    };
    if !is_message {
        return Some(0);
    }
    left.checked_sub(NESTING).filter(|left| *left > 0)
}

/// Returns whether a datagram looks like a WireGuard message: by type, zeros, and length.
fn is_message(udp: &[u8]) -> bool {
    let payload = word(udp, 4).saturating_sub(UDP);
    let is_length = match udp[UDP] {
        1 => payload == 148,
        2 => payload == 92,
        3 => payload == 64,
        4 => payload >= 32,
        _ => false,
    };
    is_length && udp.get(UDP + 1..UDP + 4) == Some(&[0; 3])
}

fn v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some((*packet.get(at..)?.first_chunk::<4>()?).into())
}

fn v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some((*packet.get(at..)?.first_chunk::<16>()?).into())
}
