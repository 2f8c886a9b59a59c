//! What a device answers.
//!
//! In a large mesh nearly all of it are allowed IPs, by the thousand, and they are seldom other ones than in the answer
//! before. So the lines that say them are kept, and where a peer's are the same again so is what they were read to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use nix::errno::Errno;
use spanwire_host::{PeerStats, PresharedKey, WireGuard, WireGuardPeer};
use spanwire_topology::{Keepalive, Prefix, PublicKey};

use crate::{
    error::UapiError,
    wireguard::{
        PrivateKey,
        hex::unhex,
        peer_stats::{SetHandshake as _, Stats},
    },
};

/// How the line of an allowed IP begins.
const ALLOWED_IP: &str = "allowed_ip=";

/// The allowed IPs of each peer in the last answer, with the lines that said them.
#[derive(Debug, Default)]
pub(crate) struct AllowedIps(BTreeMap<PublicKey, Read>);

#[derive(Debug)]
struct Read {
    lines: String,
    prefixes: Arc<BTreeSet<Prefix>>,
}

impl Read {
    /// Reads the lines of allowed IPs at the beginning of an answer's rest.
    fn new(rest: &str) -> Result<Self, UapiError> {
        let mut prefixes = Vec::new();
        let mut length = 0;
        for line in rest.split_inclusive('\n') {
            let Some(value) = line.strip_prefix(ALLOWED_IP) else {
                break;
            };
            let prefix = value.trim_end().parse();
            prefixes.push(prefix.map_err(|_| malformed(line.trim_end()))?);
            length += line.len();
        }
        Ok(Self {
            lines: rest[..length].to_owned(),
            // A set is made of all at once: one by one is what reading a large mesh would mostly be.
            prefixes: Arc::new(prefixes.into_iter().collect()),
        })
    }

    /// Whether an answer's rest begins with the same lines, and no more of them.
    fn is_at(&self, rest: &str) -> bool {
        let after = rest.strip_prefix(self.lines.as_str());
        after.is_some_and(|after| !after.starts_with(ALLOWED_IP))
    }
}

/// Reads an answer of which only the outcome is of interest.
pub(super) fn acknowledge(answer: &str) -> Result<(), UapiError> {
    parse(answer, SystemTime::UNIX_EPOCH, &mut AllowedIps::default()).map(|_| ())
}

/// Reads an answer that came at `now`: how the device is set up, and its counters. `known` are the allowed IPs of the
/// answer before, and then of this one.
pub(super) fn parse(
    answer: &str,
    now: SystemTime,
    known: &mut AllowedIps,
) -> Result<(WireGuard, Stats), UapiError> {
    let mut before = std::mem::take(&mut known.0);
    let mut device = WireGuard::default();
    let mut stats = Stats::new();
    let mut peer: Option<Peer> = None;
    let mut errno = None;
    let mut rest = answer;
    while !rest.is_empty() {
        if let Some(peer) = &mut peer
            && rest.starts_with(ALLOWED_IP)
        {
            let read = match before.remove(&peer.key).filter(|read| read.is_at(rest)) {
                Some(read) => read,
                None => Read::new(rest)?,
            };
            rest = &rest[read.lines.len()..];
            peer.allow(&read.prefixes);
            known.0.insert(peer.key, read);
            continue;
        }
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = after;
        if line.is_empty() {
            continue;
        }
        let malformed = || malformed(line);
        let (name, value) = line.split_once('=').ok_or_else(malformed)?;
        match name {
            "errno" => errno = Some(value.parse::<i32>().map_err(|_| malformed())?),
            "private_key" => {
                let bytes = unhex(value).ok_or_else(malformed)?;
                device.public_key = (*bytes != [0; 32]).then(|| PrivateKey::new(*bytes).public());
            }
            "listen_port" => device.listen_port = value.parse().map_err(|_| malformed())?,
            "fwmark" => device.mark = value.parse().map_err(|_| malformed())?,
            "public_key" => {
                let key = PublicKey::new(*unhex(value).ok_or_else(malformed)?);
                if let Some(complete) = peer.replace(Peer::new(key)) {
                    complete.enter(&mut device, &mut stats);
                }
            }
            _ => {
                if let Some(peer) = &mut peer {
                    peer.take(name, value, now).ok_or_else(malformed)?;
                }
            }
        }
    }
    if let Some(last) = peer {
        last.enter(&mut device, &mut stats);
    }
    match errno {
        Some(0) => Ok((device, stats)),
        Some(number) => Err(UapiError::Refused {
            errno: Errno::from_raw(number.abs()),
        }),
        None => Err(malformed("")),
    }
}

/// The peer that is being read.
struct Peer {
    key: PublicKey,
    set_up: WireGuardPeer,
    stats: PeerStats,
    /// When its session began, in whole seconds, which are said before their fraction.
    seconds: i64,
}

impl Peer {
    fn new(key: PublicKey) -> Self {
        Self {
            key,
            set_up: WireGuardPeer::default(),
            stats: PeerStats::default(),
            seconds: 0,
        }
    }

    /// Takes a line other than an allowed IP; `None` where it means nothing. Counters that mean nothing are none.
    fn take(&mut self, name: &str, value: &str, now: SystemTime) -> Option<()> {
        let Self { set_up, stats, .. } = self;
        match name {
            "endpoint" => {
                // A link-local one may come with the name of its device, which says nothing here.
                set_up.endpoint = value.parse().ok();
                stats.endpoint = set_up.endpoint;
            }
            "preshared_key" => set_up.preshared = PresharedKey::new(*unhex(value)?),
            "persistent_keepalive_interval" => {
                let seconds: u16 = value.parse().ok()?;
                set_up.keepalive = (seconds > 0).then_some(Keepalive(seconds));
            }
            // A group with a name that no location can have, made by another program, reads as none.
            "group" => set_up.group = value.parse().ok(),
            "last_handshake_time_sec" => {
                self.seconds = value.parse().unwrap_or_default();
                stats.set_handshake(self.seconds, 0, now);
            }
            "last_handshake_time_nsec" => {
                stats.set_handshake(self.seconds, value.parse().unwrap_or_default(), now);
            }
            "rx_bytes" => stats.received = value.parse().unwrap_or_default(),
            "tx_bytes" => stats.sent = value.parse().unwrap_or_default(),
            // The protocol version, and what newer versions add.
            _ => {}
        }
        Some(())
    }

    /// Takes allowed IPs, mostly all of them at once.
    fn allow(&mut self, prefixes: &Arc<BTreeSet<Prefix>>) {
        let allowed = &mut self.set_up.allowed_ips;
        if allowed.is_empty() {
            *allowed = Arc::clone(prefixes);
        } else {
            Arc::make_mut(allowed).extend(prefixes.iter());
        }
    }

    fn enter(self, device: &mut WireGuard, stats: &mut Stats) {
        device.peers.insert(self.key, self.set_up);
        stats.insert(self.key, self.stats);
    }
}

fn malformed(line: &str) -> UapiError {
    UapiError::Malformed {
        line: if line.contains("_key=") {
            "…_key=…".to_owned()
        } else {
            line.to_owned()
        },
    }
}

#[cfg(test)]
mod tests;
