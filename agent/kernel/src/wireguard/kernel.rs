//! The kernel's WireGuard, by generic netlink (include/uapi/linux/wireguard.h).
//!
//! A peer with many allowed IPs does not fit into one message: attributes are at most 64 KiB long. So it goes in several,
//! each with the peer's key and the next of the allowed IPs; without `WGPEER_F_REPLACE_ALLOWEDIPS` the kernel adds them.
//! The kernel answers a dump likewise: a peer that goes on in the next message appears again with the rest.

use std::{sync::Arc, time::SystemTime};

use netlink_packet_core::{Emitable, ParseableParametrized as _};
use netlink_packet_generic::{
    GenlHeader,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use nix::libc::{GENL_ID_CTRL, NETLINK_GENERIC};
use spanwire_host::{LinkName, PresharedKey, WireGuard, WireGuardPeer};
use spanwire_topology::{Family as IpFamily, Keepalive, Prefix, PublicKey};

use super::{
    Change, PeerUpdate, PrivateKey,
    peer_stats::{Stats, count, key_of},
};
use crate::{
    error::{ApplyError, ReadError},
    netlink::{Message, NetlinkError, Request, Socket, attributes},
};

/// Allowed IPs per message. One takes 28 bytes for IPv4 and 40 for IPv6 (headers, family, address, length, each padded),
/// so that 1,000 of either stay below the 65,535 bytes of an attribute.
const ALLOWED_IPS: usize = 1_000;

/// Length of `struct genlmsghdr`.
const HEADER: usize = 4;

/// The generic netlink family of WireGuard, which exists once the kernel's module is there.
pub(crate) struct Family {
    socket: Socket,
    id: u16,
}

impl Family {
    /// Finds the family; `None` where the kernel has no WireGuard.
    pub(crate) async fn find() -> Result<Option<Self>, NetlinkError> {
        let mut socket = Socket::open(NETLINK_GENERIC)?;
        let question = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
        };
        let body = body(GenlCtrlCmd::GetFamily.into(), 2, &question);
        let kind = u16::try_from(GENL_ID_CTRL).unwrap_or_default();
        let answer = match socket.get(&Request { kind, flags: 0, body }).await {
            Err(NetlinkError::Refused(_)) => return Ok(None),
            other => other?,
        };
        let id = answer.iter().find_map(family_id);
        Ok(id.map(|id| Self { socket, id }))
    }

    /// Reads how the device is set up.
    pub(crate) async fn read(&mut self, name: &LinkName) -> Result<WireGuard, ReadError> {
        Ok(merge(&self.dump(name).await?))
    }

    /// Reads how the device is set up, and its counters.
    pub(crate) async fn read_all(&mut self, name: &LinkName) -> Result<(WireGuard, Stats), ReadError> {
        let messages = self.dump(name).await?;
        let now = SystemTime::now();
        let mut stats = Stats::new();
        for attribute in messages.iter().flat_map(attributes_of) {
            if let WireguardAttribute::Peers(peers) = attribute {
                peers.iter().for_each(|peer| count(&mut stats, peer, now));
            }
        }
        Ok((merge(&messages), stats))
    }

    /// Reads the device's private key; `None` where it has none.
    pub(crate) async fn read_private_key(
        &mut self,
        name: &LinkName,
    ) -> Result<Option<PrivateKey>, ReadError> {
        let messages = self.dump(name).await?;
        let mut attributes = messages.iter().flat_map(attributes_of);
        let key = attributes.find_map(|attribute| {
            if let WireguardAttribute::PrivateKey(key) = attribute {
                (key != [0; 32]).then(|| PrivateKey::new(key))
            } else {
                None
            }
        });
        Ok(key)
    }

    async fn dump(&mut self, name: &LinkName) -> Result<Vec<Message>, ReadError> {
        let question = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::IfName(name.to_string())],
        };
        let request = self.request(&question);
        let answer = self.socket.dump(&request).await;
        answer.map_err(ReadError::netlink("the WireGuard device"))
    }

    /// Makes the changes, in order; returns the first failure.
    pub(crate) async fn change(&mut self, name: &LinkName, changes: &[Change]) -> Result<(), ApplyError> {
        let requests: Vec<Request> = changes
            .iter()
            .flat_map(|change| messages(name, change))
            .map(|message| self.request(&message))
            .collect();
        for answer in self.socket.requests(&requests).await? {
            answer?;
        }
        Ok(())
    }

    fn request(&self, message: &WireguardMessage) -> Request {
        Request {
            kind: self.id,
            flags: 0,
            body: body(message.cmd.into(), 1, message),
        }
    }
}

fn body(command: u8, version: u8, message: &impl Emitable) -> Vec<u8> {
    let mut body = vec![0; HEADER + message.buffer_len()];
    GenlHeader {
        cmd: command,
        version,
    }
    .emit(&mut body);
    message.emit(&mut body[HEADER..]);
    body
}

fn family_id(message: &Message) -> Option<u16> {
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    let (_, id) =
        attributes(message.body.get(HEADER..)?).find(|(attribute, _)| *attribute == CTRL_ATTR_FAMILY_ID)?;
    Some(u16::from_ne_bytes(id.try_into().ok()?))
}

/// Returns the messages that make one change.
fn messages(name: &LinkName, change: &Change) -> Vec<WireguardMessage> {
    let message = |attributes: Vec<WireguardAttribute>| WireguardMessage {
        cmd: WireguardCmd::SetDevice,
        attributes: [WireguardAttribute::IfName(name.to_string())]
            .into_iter()
            .chain(attributes)
            .collect(),
    };
    let peer = |attributes| message(vec![WireguardAttribute::Peers(vec![WireguardPeer(attributes)])]);
    match change {
        Change::Device {
            private_key,
            listen_port,
            mark,
        } => vec![message(vec![
            WireguardAttribute::PrivateKey(*private_key.as_bytes()),
            WireguardAttribute::ListenPort(*listen_port),
            WireguardAttribute::Fwmark(*mark),
        ])],
        Change::Peer(change) => peer_parts(change).into_iter().map(peer).collect(),
        Change::RemovePeer(key) => vec![peer(vec![
            WireguardPeerAttribute::PublicKey(*key.as_bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ])],
    }
}

fn peer_parts(change: &PeerUpdate) -> Vec<Vec<WireguardPeerAttribute>> {
    let key = || WireguardPeerAttribute::PublicKey(*change.key.as_bytes());
    let mut first = vec![key()];
    first.extend(change.endpoint.map(WireguardPeerAttribute::Endpoint));
    first.extend(change.keepalive.map(|keepalive| {
        WireguardPeerAttribute::PersistentKeepalive(keepalive.map_or(0, |keepalive| keepalive.0))
    }));
    // Zeros stand for none (wireguard.h, WGPEER_A_PRESHARED_KEY).
    first.extend(change.preshared.as_ref().map(|preshared| {
        WireguardPeerAttribute::PresharedKey(preshared.as_ref().map_or([0; 32], |key| *key.as_bytes()))
    }));
    let prefixes: Vec<Prefix> = change.add.iter().copied().collect();
    let mut parts = vec![first];
    for (index, chunk) in prefixes.chunks(ALLOWED_IPS).enumerate() {
        if index > 0 {
            parts.push(vec![key()]);
        }
        let allowed = chunk.iter().map(allowed_ip).collect();
        parts[index].push(WireguardPeerAttribute::AllowedIps(allowed));
    }
    parts
}

fn allowed_ip(prefix: &Prefix) -> WireguardAllowedIp {
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(match prefix.family() {
            IpFamily::V4 => WireguardAddressFamily::Ipv4,
            IpFamily::V6 => WireguardAddressFamily::Ipv6,
        }),
        WireguardAllowedIpAttr::IpAddr(prefix.address()),
        WireguardAllowedIpAttr::Cidr(prefix.length()),
    ])
}

/// Returns the device that the messages of a dump describe together.
fn merge(messages: &[Message]) -> WireGuard {
    let mut device = WireGuard::default();
    for attribute in messages.iter().flat_map(attributes_of) {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the private key and what is not asked"
        )]
        match attribute {
            WireguardAttribute::PublicKey(key) => device.public_key = Some(PublicKey::new(key)),
            WireguardAttribute::ListenPort(port) => device.listen_port = port,
            WireguardAttribute::Fwmark(mark) => device.mark = mark,
            WireguardAttribute::Peers(peers) => {
                peers.iter().for_each(|peer| merge_peer(&mut device, peer));
            }
            _ => {}
        }
    }
    device
}

/// Returns the attributes in one message of a dump.
fn attributes_of(message: &Message) -> Vec<WireguardAttribute> {
    let header = GenlHeader {
        cmd: WireguardCmd::GetDevice.into(),
        version: 1,
    };
    let body = message.body.get(HEADER..).unwrap_or_default();
    WireguardMessage::parse_with_param(body, header).map_or_else(|_| Vec::new(), |message| message.attributes)
}

fn merge_peer(device: &mut WireGuard, attributes: &WireguardPeer) {
    let Some(key) = key_of(attributes) else { return };
    let peer: &mut WireGuardPeer = device.peers.entry(key).or_default();
    for attribute in attributes.iter() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "statistics are read elsewhere")]
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => {
                peer.keepalive = (*seconds > 0).then_some(Keepalive(*seconds));
            }
            WireguardPeerAttribute::PresharedKey(key) => peer.preshared = PresharedKey::new(*key),
            WireguardPeerAttribute::AllowedIps(allowed) => {
                Arc::make_mut(&mut peer.allowed_ips).extend(allowed.iter().filter_map(prefix));
            }
            _ => {}
        }
    }
}

fn prefix(allowed: &WireguardAllowedIp) -> Option<Prefix> {
    let (mut address, mut length) = (None, None);
    for attribute in allowed.iter() {
        if let WireguardAllowedIpAttr::IpAddr(found) = attribute {
            address = Some(*found);
        } else if let WireguardAllowedIpAttr::Cidr(found) = attribute {
            length = Some(*found);
        }
    }
    Prefix::new(address?, length?).ok()
}

#[cfg(test)]
mod tests;
