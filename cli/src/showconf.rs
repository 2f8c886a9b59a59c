//! The configuration of a WireGuard device: of a leader as its agent sets it, and of a Peer as its own machine needs it. No
//! private key is in it: those of nodes never leave them, and that of a Peer is made where it is used. Of a preshared key it says
//! where it is.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use spanwire_crds::PresharedKeySecretRef;
use spanwire_topology::{
    Endpoint, Keepalive, Leader, Location, LocationName, Member, Mesh, NodeName, PeerName, Prefix, PublicKey,
    Reachability, SecretKeyRef, plan,
};

use crate::table::joined;

/// How often the machine of a Peer without an endpoint writes to its leaders, which keeps the way through NAT open.
pub const KEEPALIVE: Keepalive = Keepalive(25);

/// How a configuration is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfigFormat {
    /// For `wg-quick`
    #[default]
    WgQuick,
    /// For `wg setconf`
    Wg,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The configuration of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The port that it listens on; `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Its own public key, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// With whom it talks.
    pub peers: Vec<Party>,
}

/// One party at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Who it is.
    pub name: String,
    /// Its key.
    pub public_key: String,
    /// Where it is reached; `None`: it has to begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What is sent to it, and what it may send from.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<String>,
    /// Seconds between keepalives to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
    /// Where the preshared key is that both ends need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preshared_key_secret_ref: Option<PresharedKeySecretRef>,
    /// The other leaders of its location, with which a Peer talks instead where one of them becomes the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_leaders: Vec<OtherLeader>,
}

/// A leader that may take the place of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherLeader {
    /// Its node.
    pub name: String,
    /// Its key.
    pub public_key: String,
    /// Where it is reached; `None`: it has to begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

fn party(
    name: String,
    key: PublicKey,
    endpoint: Option<&Endpoint>,
    allowed: Vec<Prefix>,
    keepalive: Option<Keepalive>,
    preshared: Option<&SecretKeyRef>,
) -> Party {
    Party {
        name,
        preshared_key_secret_ref: preshared.map(PresharedKeySecretRef::from),
        public_key: key.to_string(),
        endpoint: endpoint.map(ToString::to_string),
        allowed_ips: allowed.iter().map(ToString::to_string).collect(),
        persistent_keepalive: keepalive.map(|keepalive| keepalive.0),
        other_leaders: Vec::new(),
    }
}

/// Returns the configuration of a leader, as its plan has it with nothing observed.
///
/// # Errors
/// Where there is no such node, or it does not lead.
pub fn of_node(mesh: &Mesh, node: &NodeName) -> Result<Config, String> {
    let member = mesh
        .locations
        .values()
        .find_map(|location| location.members.get(node));
    let member =
        member.ok_or_else(|| format!("the mesh has no node {node}; `kubectl get meshnodes` shows them"))?;
    let plan = plan(mesh, node, &Reachability::default());
    let tunnel = plan.tunnel.ok_or_else(|| {
        format!(
            "{node} does not lead, so it has no WireGuard device; `kubectl get locations` shows who leads"
        )
    })?;
    let parties = tunnel.peers.iter().map(|(key, peer)| {
        let allowed = peer.allowed_ips.iter().copied().collect();
        party(
            peer.party.to_string(),
            *key,
            peer.endpoints.first(),
            allowed,
            peer.keepalive,
            peer.preshared.as_ref(),
        )
    });
    let mut peers: Vec<Party> = parties.collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Config {
        addresses: tunnel
            .addresses
            .iter()
            .map(|address| Prefix::host(*address).to_string())
            .collect(),
        listen_port: Some(tunnel.listen_port),
        public_key: member.public_key.map(|key| key.to_string()),
        peers,
    })
}

/// A location that a Peer is attached to, as the machine of the Peer has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The location.
    pub location: LocationName,
    /// Its leaders in the order in which they are to be tried, each with its key. The first one alone talks to the Peer; another
    /// one does so when the operator has made it the first.
    pub leaders: Vec<(NodeName, PublicKey)>,
    /// Where they are reached: the first of the first leader at the first, and so on.
    pub ways: Vec<(NodeName, Endpoint)>,
    /// What is reached by it, sorted; nothing that lies in another one of these.
    pub allowed_ips: Vec<Prefix>,
    /// The MTU of the networks of these leaders, of the smallest; `None`: none has said.
    pub mtu: Option<u16>,
}

/// Returns the locations that a Peer is attached to and that have a leader. What lives in another location goes by its home.
///
/// # Errors
/// Where there is no such Peer, or no location has a tunnel for it.
pub fn attachments(mesh: &Mesh, name: &PeerName) -> Result<Vec<Attachment>, String> {
    let peer = mesh.peers.get(name);
    let peer =
        peer.ok_or_else(|| format!("no Peer {name} is accepted; `kubectl describe peer {name}` says why"))?;
    let home = peer.home.as_ref().ok_or_else(|| {
        format!("no location can have the Peer {name}: one with a leader that it can reach is needed")
    })?;
    let mut allowed: BTreeMap<&LocationName, Vec<Prefix>> = BTreeMap::new();
    for (location, it) in &mesh.locations {
        let by = if peer.attachments.contains(location) {
            location
        } else {
            home
        };
        let members = it.members.values().flat_map(networks);
        allowed
            .entry(by)
            .or_default()
            .extend(members.chain(it.settings.cidrs.iter().copied()));
    }
    for (_, other) in mesh.peers.iter().filter(|(other, _)| *other != name) {
        allowed.entry(home).or_default().extend(&other.allowed_ips);
    }
    let attachment = |(location, mut prefixes): (&LocationName, Vec<Prefix>)| {
        let it = mesh.locations.get(location)?;
        let able = able(it);
        let leaders = able.iter().map(|(node, _, key)| ((*node).clone(), *key));
        prefixes.sort();
        prefixes.dedup();
        // What lies in another one says nothing more. A network sorts right before what it contains.
        let mut around: Option<Prefix> = None;
        prefixes.retain(|prefix| {
            let is_inside = around.is_some_and(|around| around.covers(prefix));
            if !is_inside {
                around = Some(*prefix);
            }
            !is_inside
        });
        (!able.is_empty()).then(|| Attachment {
            location: location.clone(),
            leaders: leaders.collect(),
            ways: ways(it, &able),
            allowed_ips: prefixes,
            mtu: able.iter().filter_map(|(_, member, _)| member.mtu).min(),
        })
    };
    let attachments: Vec<Attachment> = allowed.into_iter().filter_map(attachment).collect();
    if attachments.is_empty() {
        return Err(format!(
            "the location {home} of the Peer {name} has no leader now"
        ));
    }
    Ok(attachments)
}

/// Returns the leaders that can lead in the order in which one becomes the first.
fn able(location: &Location) -> Vec<(&NodeName, &Member, PublicKey)> {
    let mut published: Vec<&Leader> = location.leaders.iter().collect();
    published.sort_by_key(|leader| leader.role);
    let able = published.into_iter().filter_map(|leader| {
        let member = location.members.get(&leader.node)?;
        Some((&leader.node, member, member.public_key?))
    });
    able.collect()
}

/// Returns where these leaders are reached. What stands in front of a location leads to the first.
fn ways(location: &Location, able: &[(&NodeName, &Member, PublicKey)]) -> Vec<(NodeName, Endpoint)> {
    let mut ways = Vec::new();
    for (index, (node, member, _)) in able.iter().enumerate() {
        let front = location.settings.endpoint.iter().filter(|_| index == 0);
        let (public, private): (Vec<_>, Vec<_>) =
            member.endpoints.iter().partition(|endpoint| endpoint.is_public());
        for endpoint in front.chain(public).chain(private) {
            let way = ((*node).clone(), endpoint.clone());
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
    }
    ways
}

/// Returns what the machine of a Peer needs: a party for each location that it is attached to, the first leader of it, or, where one is
/// among `instead`, that one.
///
/// # Errors
/// Where there is no such Peer, no location has a tunnel for it, or one of `instead` is no leader of such a location.
pub fn of_peer(mesh: &Mesh, name: &PeerName, instead: &[NodeName]) -> Result<Config, String> {
    let attachments = attachments(mesh, name)?;
    let able = || attachments.iter().flat_map(|attachment| &attachment.leaders);
    if let Some(stranger) = instead
        .iter()
        .find(|node| !able().any(|(leader, _)| leader == *node))
    {
        return Err(format!(
            "{stranger} leads no location that the Peer {name} is attached to; leaders of these are {}",
            joined(able().map(|(leader, _)| leader))
        ));
    }
    let peer = mesh.peers.get(name);
    let peer = peer.ok_or_else(|| format!("no Peer {name} is accepted"))?;
    // Behind NAT it is the Peer that has to keep the way open.
    let keepalive = peer.endpoint.is_none().then_some(KEEPALIVE);
    let of_location = |attachment: &Attachment| {
        let mut leaders = attachment.leaders.iter();
        let chosen = leaders.clone().find(|(leader, _)| instead.contains(leader));
        let (leader, key) = chosen.or(leaders.next())?;
        // What stands in front of a location leads to the one that leads.
        let front = mesh
            .locations
            .get(&attachment.location)?
            .settings
            .endpoint
            .as_ref();
        let way = |node: &NodeName| {
            let mut ways = attachment.ways.iter().filter(|(of, _)| of == node);
            front.or_else(|| ways.next().map(|(_, endpoint)| endpoint))
        };
        let others = attachment.leaders.iter().filter(|(other, _)| other != leader);
        let others = others.map(|(other, key)| OtherLeader {
            name: other.to_string(),
            public_key: key.to_string(),
            endpoint: way(other).map(ToString::to_string),
        });
        let other_leaders = others.collect();
        let party = party(
            format!("leader {}/{leader}", attachment.location),
            *key,
            way(leader),
            attachment.allowed_ips.clone(),
            keepalive,
            peer.preshared.as_ref(),
        );
        Some(Party {
            other_leaders,
            ..party
        })
    };
    Ok(Config {
        // A network is what lies behind it, and no address of its device.
        addresses: peer
            .allowed_ips
            .iter()
            .filter(|prefix| prefix.is_host())
            .map(ToString::to_string)
            .collect(),
        listen_port: peer.endpoint.as_ref().map(|endpoint| endpoint.port),
        public_key: Some(peer.public_key.to_string()),
        peers: attachments.iter().filter_map(of_location).collect(),
    })
}

fn networks(member: &Member) -> impl Iterator<Item = Prefix> {
    let hosts = member.addresses.iter().map(|address| Prefix::host(*address));
    hosts.chain(member.prefixes.iter().copied())
}

impl Config {
    /// Returns the text of a configuration file, with the keys where they are known.
    #[must_use]
    pub fn text(&self, quick: bool, private_key: Option<&str>, preshared_key: Option<&str>) -> String {
        let mut text = "[Interface]\n".to_owned();
        // Writing to a String cannot fail.
        if let Some(key) = &self.public_key {
            let _ = writeln!(text, "# public key {key}");
        }
        let _ = match private_key {
            Some(key) => writeln!(text, "PrivateKey = {key}"),
            None => writeln!(text, "# PrivateKey = … is on the machine alone"),
        };
        if quick && !self.addresses.is_empty() {
            let _ = writeln!(text, "Address = {}", self.addresses.join(", "));
        }
        if let Some(port) = self.listen_port {
            let _ = writeln!(text, "ListenPort = {port}");
        }
        for peer in &self.peers {
            let _ = writeln!(text, "\n[Peer]\n# {}\nPublicKey = {}", peer.name, peer.public_key);
            let _ = match (preshared_key, &peer.preshared_key_secret_ref) {
                (_, None) => Ok(()),
                (Some(key), _) => writeln!(text, "PresharedKey = {key}"),
                (None, Some(PresharedKeySecretRef { name, key })) => {
                    writeln!(text, "# PresharedKey = … is in the Secret {name}, as {key}")
                }
            };
            if let Some(endpoint) = &peer.endpoint {
                let _ = writeln!(text, "Endpoint = {endpoint}");
            }
            let _ = writeln!(text, "AllowedIPs = {}", peer.allowed_ips.join(", "));
            if let Some(seconds) = peer.persistent_keepalive {
                let _ = writeln!(text, "PersistentKeepalive = {seconds}");
            }
            for OtherLeader {
                name,
                public_key,
                endpoint,
            } in &peer.other_leaders
            {
                let endpoint = endpoint
                    .as_ref()
                    .map(|endpoint| format!(", Endpoint = {endpoint}"));
                let endpoint = endpoint.unwrap_or_default();
                let _ = writeln!(
                    text,
                    "# when {name} leads instead: PublicKey = {public_key}{endpoint}"
                );
            }
        }
        text
    }

    /// Returns the same without the leaders that may take the place of others.
    #[must_use]
    pub fn of_present_leaders(mut self) -> Self {
        for peer in &mut self.peers {
            peer.other_leaders.clear();
        }
        self
    }

    /// Returns the leaders that may take the place of others.
    pub fn other_leaders(&self) -> impl Iterator<Item = &str> {
        let others = self.peers.iter().flat_map(|peer| &peer.other_leaders);
        others.map(|other| other.name.as_str())
    }

    /// Returns the configuration in a format, without a private key.
    ///
    /// # Errors
    /// Where it has no such form.
    pub fn formatted(&self, format: ConfigFormat) -> anyhow::Result<String> {
        Ok(match format {
            ConfigFormat::WgQuick => self.text(true, None, None),
            ConfigFormat::Wg => self.text(false, None, None),
            ConfigFormat::Json => serde_json::to_string_pretty(self)? + "\n",
            ConfigFormat::Yaml => serde_saphyr::to_string(self)?,
        })
    }
}
