//! Lines that change a fact.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use super::{World, parse};
use crate::{
    Created, Field, HopMode, Keepalive, Labels, LocationFact, LocationName, MeshMode, NodeFact, Operator,
    PeerFact, PublicKey, Requirement, Selector,
};

/// Returns the key of 32 equal bytes.
pub(super) fn key(number: u8) -> PublicKey {
    PublicKey::new([number; 32])
}

fn list<T, C>(text: &str) -> Result<C, String>
where
    T: FromStr<Err: ToString>,
    C: FromIterator<T>,
{
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(parse)
        .collect()
}

fn optional<T: FromStr<Err: ToString>>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

fn fields(text: &str) -> Result<BTreeSet<Field>, String> {
    let field = |name: &str| match name {
        "location" => Ok(Field::Location),
        "region" => Ok(Field::Region),
        "endpoints" => Ok(Field::Endpoints),
        "addresses" => Ok(Field::Addresses),
        "status-addresses" => Ok(Field::StatusAddresses),
        "external" => Ok(Field::External),
        "port" => Ok(Field::ListenPort),
        "cidrs" => Ok(Field::Cidrs),
        "mode" => Ok(Field::Mode),
        "hop" => Ok(Field::Hop),
        "key" => Ok(Field::PublicKey),
        "preshared" => Ok(Field::Preshared),
        "select" => Ok(Field::Selector),
        "leaders" => Ok(Field::LeaderSelector),
        _ => Err(format!("{name:?} is no field")),
    };
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(field)
        .collect()
}

fn keepalive(text: &str) -> Result<Option<Keepalive>, String> {
    Ok(optional(text)?.map(Keepalive))
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|label| label.split_once(':'));
    Labels(
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// `key:value`, `key` or `!key`, several joined by `,`; `any` selects everything.
fn selector(text: &str) -> Option<Selector> {
    let requirement = |text: &str| {
        let (key, operator) = match (text.split_once(':'), text.strip_prefix('!')) {
            (Some((key, value)), _) => (key, Operator::In([value.to_owned()].into())),
            (None, Some(key)) => (key, Operator::DoesNotExist),
            (None, None) => (text, Operator::Exists),
        };
        let key = key.to_owned();
        Requirement { key, operator }
    };
    match text {
        "" => None,
        "any" => Some(Selector::default()),
        _ => Some(Selector(text.split(',').map(requirement).collect())),
    }
}

impl World {
    /// Enters a fact of the cluster or of one object.
    pub(super) fn object(&mut self, words: &[&str]) -> Result<(), String> {
        let cluster = &mut self.facts.cluster;
        match words {
            ["overlay", pools] => cluster.overlay = list(pools)?,
            ["automatic", pools] => cluster.automatic = list(pools)?,
            ["listen-port", port] => cluster.listen_port = parse(port)?,
            ["api-server", servers] => cluster.api_server = list(servers)?,
            ["api-endpoints", servers] => cluster.api_endpoints = list(servers)?,
            ["services", ranges] => cluster.services = list(ranges)?,
            ["pod-ranges", ranges] => cluster.pods = list(ranges)?,
            ["pods-reported"] => (cluster.pods_reported, cluster.hop) = (true, HopMode::Vxlan),
            ["hop", "cni"] => cluster.hop = HopMode::Cni,
            ["hop", "vxlan"] => cluster.hop = HopMode::Vxlan,
            ["tunnel-only"] => cluster.tunnel_only = true,
            ["default-location", name] => cluster.default_location = Some(parse(name)?),
            ["node", name, words @ ..] => {
                let node = self.facts.nodes.entry(parse(name)?).or_insert_with(|| NodeFact {
                    alive: true,
                    ..NodeFact::default()
                });
                words.iter().try_for_each(|word| set_node(node, word))?;
            }
            ["location", name, words @ ..] => {
                let location = self
                    .facts
                    .locations
                    .entry(parse(name)?)
                    .or_insert_with(|| LocationFact {
                        active: 1,
                        standby: 1,
                        ..LocationFact::default()
                    });
                words.iter().try_for_each(|word| set_location(location, word))?;
            }
            ["peer", name, words @ ..] => {
                let peer = self.facts.peers.entry(parse(name)?).or_insert_with(|| PeerFact {
                    public_key: Some(key(255)),
                    ..PeerFact::default()
                });
                words.iter().try_for_each(|word| set_peer(peer, word))?;
            }
            ["remove", "node", name] => drop(self.facts.nodes.remove(&parse(name)?)),
            ["remove", "location", name] => drop(self.facts.locations.remove(&parse(name)?)),
            ["remove", "peer", name] => drop(self.facts.peers.remove(&parse(name)?)),
            _ => return Err("is no line of this language".to_owned()),
        }
        Ok(())
    }
}

fn set_node(node: &mut NodeFact, word: &str) -> Result<(), String> {
    let link = |node: &mut NodeFact, names: &str, up: bool| {
        let names: Vec<LocationName> = list(names)?;
        let links: BTreeMap<_, _> = names.into_iter().map(|name| (name, up)).collect();
        node.links.extend(links);
        Ok::<(), String>(())
    };
    match word.split_once('=').unwrap_or((word, "")) {
        ("created", value) => node.created = Created(parse(value)?),
        ("labels", value) => node.labels = labels(value),
        ("location", value) => node.location = optional(value)?,
        ("region", value) => node.region = optional(value)?,
        ("leader", value) => node.leader = optional(value)?,
        ("endpoints", value) => node.endpoints = list(value)?,
        ("external", value) => node.external = list(value)?,
        ("addresses", value) => node.addresses = list(value)?,
        ("former", value) => node.former = list(value)?,
        ("pods", value) => node.prefixes = list(value)?,
        ("borrowed", value) => node.borrowed = list(value)?,
        ("cidrs", value) => node.cidrs = list(value)?,
        ("keepalive", value) => node.keepalive = keepalive(value)?,
        ("port", value) => node.listen_port = optional(value)?,
        ("key", value) => node.public_key = optional(value)?.map(key),
        ("hop", value) => node.hop = list(value)?,
        ("mtu", value) => node.mtu = optional(value)?,
        ("dead", _) => node.alive = false,
        ("alive", _) => node.alive = true,
        ("doubtful", _) => node.doubtful = true,
        ("trusted", _) => node.doubtful = false,
        ("cordoned", _) => node.cordoned = true,
        ("uncordoned", _) => node.cordoned = false,
        ("released", _) => node.released = true,
        ("cloud", _) => node.cloud = true,
        ("carried", value) => node.carried = value != "no",
        ("up", value) => link(node, value, true)?,
        ("down", value) => link(node, value, false)?,
        ("control-plane", _) => node.control_plane = true,
        ("down-since", value) => node.down_since = optional(value)?.map(Created),
        ("unread", value) => node.unread = fields(value)?,
        _ => return Err(format!("a node has no {word:?}")),
    }
    Ok(())
}

fn set_location(location: &mut LocationFact, word: &str) -> Result<(), String> {
    match word.split_once('=').unwrap_or((word, "")) {
        ("created", value) => location.created = Created(parse(value)?),
        ("select", value) => location.selector = selector(value),
        ("mode", "leaders") => location.mode = MeshMode::Leaders,
        ("mode", "nodes") => location.mode = MeshMode::Nodes,
        ("active", value) => location.active = parse(value)?,
        ("standby", value) => location.standby = parse(value)?,
        ("leaders", value) => location.leader_selector = selector(value),
        ("endpoint", value) => location.endpoint = optional(value)?,
        ("cidrs", value) => location.cidrs = list(value)?,
        ("masquerade", "") => location.masquerade = true,
        ("hop", "auto") => location.hop = None,
        ("hop", "cni") => location.hop = Some(HopMode::Cni),
        ("hop", "vxlan") => location.hop = Some(HopMode::Vxlan),
        ("node-cidrs", value) => location.node_cidrs = list(value)?,
        ("unread", value) => location.unread = fields(value)?,
        ("keepalive", value) => location.keepalive = keepalive(value)?,
        _ => return Err(format!("a location has no {word:?}")),
    }
    Ok(())
}

fn set_peer(peer: &mut PeerFact, word: &str) -> Result<(), String> {
    match word.split_once('=').unwrap_or((word, "")) {
        ("created", value) => peer.created = Created(parse(value)?),
        ("key", value) => peer.public_key = optional(value)?.map(key),
        ("allowed", value) => peer.allowed_ips = list(value)?,
        ("endpoint", value) => peer.endpoint = optional(value)?,
        ("keepalive", value) => peer.keepalive = keepalive(value)?,
        ("location", value) => peer.location = optional(value)?,
        ("preshared", value) => peer.preshared = optional(value)?,
        ("unread", value) => peer.unread = fields(value)?,
        _ => return Err(format!("a peer has no {word:?}")),
    }
    Ok(())
}
