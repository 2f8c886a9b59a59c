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
    /// Datagrams of this device that came back from the interface, for their way leads into the tunnel itself.
    pub looped: u64,
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

/// Returns from where a packet from the interface comes, if it looks like a datagram that this device sent from `port` to one of
/// these endpoints, or the first fragment of one: their route leads into the tunnel itself, and each packet would become
/// another one.
pub(super) fn looks_own(packet: &[u8], port: u16, endpoints: [Option<SocketAddr>; 2]) -> Option<IpAddr> {
    let at = udp(packet)?;
    let udp = packet.get(at..=at + UDP)?;
    let is = |at: usize, port: u16| udp[at..at + 2] == port.to_be_bytes();
    // A WireGuard message begins with its type.
    if port == 0 || !is(0, port) || !(1..=4).contains(&udp[UDP]) {
        return None;
    }
    let (source, destination): (IpAddr, IpAddr) = if packet[0] >> 4 == 4 {
        (v4(packet, 12)?, v4(packet, 16)?)
    } else {
        (v6(packet, 8)?, v6(packet, 24)?)
    };
    let is_endpoint = |endpoint: SocketAddr| endpoint.ip() == destination && is(2, endpoint.port());
    endpoints.into_iter().flatten().any(is_endpoint).then_some(source)
}

/// Returns where the UDP header of a packet is, if it has one.
fn udp(packet: &[u8]) -> Option<usize> {
    const PROTOCOL: u8 = libc::IPPROTO_UDP as u8;
    match packet.first()? >> 4 {
        4 if packet.len() >= IPV4 && packet[9] == PROTOCOL && word(packet, 6) & 0x1fff == 0 => {
            Some(usize::from(packet[0] & 15) * 4)
        }
        6 if packet.len() >= IPV6 => match behind_extensions(packet) {
            Behind::Header(PROTOCOL, at) => Some(at),
            Behind::Header(..) | Behind::LaterFragment | Behind::End => None,
        },
        _ => None,
    }
}

fn v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some((*packet.get(at..)?.first_chunk::<4>()?).into())
}

fn v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some((*packet.get(at..)?.first_chunk::<16>()?).into())
}
