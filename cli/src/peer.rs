//! Peers: which address a new one may have, and how they are listed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::Value;
use spanwire_cluster::observed::Observed;
use spanwire_crds::Peer;
use spanwire_topology::{Family, LocationName, Mesh, Prefix};

use crate::{
    figures::PeerFigures,
    findings::Answers,
    objects::{Kind, Objects},
    table::{joined, table},
};

/// From where a Peer gets its address where nothing else is named. It lies in no network that clusters have unless they are given
/// another one: services and pods of kubeadm (10.96.0.0/12), k3s (10.42.0.0/15), flannel (10.244.0.0/16), kOps (100.64.0.0/10), Kubespray
/// (10.233.0.0/16), OpenShift (10.128.0.0/14), Calico (192.168.0.0/16), the first networks of Cilium (10.0.0.0/8), Docker
/// (172.17.0.0/16 and on), Kilo and the mesh itself (10.4.0.0/15).
pub const DEFAULT_POOL: &str = "10.199.0.0/16";

/// How many addresses of a pool are tried.
const TRIED: u128 = 1 << 16;

/// Returns the first address of a pool that overlaps nothing of the mesh, no Peer, accepted or not, and none of these networks.
///
/// # Errors
/// Where there is none among the first 65536.
pub fn free_address(objects: &Objects, pool: Prefix, beside: &[Prefix]) -> Result<Prefix, String> {
    let mut taken = taken(objects);
    taken.extend(beside);
    let family = pool.family();
    let hosts = 1_u128
        .checked_shl(u32::from(family.bits() - pool.length()))
        .unwrap_or(u128::MAX);
    // The first and the last of an IPv4 network are no addresses of hosts.
    let last = if family == Family::V4 && hosts > 2 {
        hosts - 1
    } else {
        hosts
    };
    let first = u128::from(hosts > 2);
    let mut candidates = (first..last.min(TRIED))
        .filter_map(|offset| nth(pool.address(), offset))
        .map(Prefix::host);
    candidates
        .find(|candidate| !taken.iter().any(|prefix| prefix.overlaps(candidate)))
        .ok_or_else(|| {
            let whole = taken.iter().find(|prefix| prefix.covers(&pool));
            let why = whole.map_or_else(String::new, |prefix| format!(", which lies in {prefix}"));
            format!(
                "no address of {pool} is free{why}; name another network with --pool, or one with --allowed-ip"
            )
        })
}

/// Returns what the operator has decided about a Peer that asks for these networks: that it is served with all of them, or why not.
/// `None`: it has not decided.
#[must_use]
pub fn decided(status: &Value, asked: &[Prefix]) -> Option<Result<(), String>> {
    let accepted = &status["accepted"];
    let granted = accepted["allowedIPs"].as_array().into_iter().flatten();
    let granted: Vec<Prefix> = granted.filter_map(|text| text.as_str()?.parse().ok()).collect();
    if accepted["home"].is_string() && asked.iter().all(|prefix| granted.contains(prefix)) {
        return Some(Ok(()));
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut refused: Vec<&Value> = conditions
        .filter(|condition| condition["status"] == "False")
        .collect();
    // What is not granted is why a Peer is not ready, and stands behind that.
    refused.sort_by_key(|condition| condition["type"] != "Accepted");
    let message = refused.first()?["message"].as_str().unwrap_or_default();
    Some(Err(message.to_owned()))
}

fn nth(base: IpAddr, offset: u128) -> Option<IpAddr> {
    Some(match base {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).checked_add(u32::try_from(offset).ok()?)?).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).checked_add(offset)?).into(),
    })
}

fn taken(objects: &Objects) -> Vec<Prefix> {
    let mesh = objects.published();
    let asked = objects
        .observed::<Peer>(Kind::Peer)
        .into_iter()
        .filter_map(|peer| peer.object);
    let asked = asked
        .flat_map(|peer| peer.spec.allowed_ips)
        .filter_map(|text| text.parse().ok());
    networks(&mesh).into_iter().chain(asked).collect()
}

fn networks(mesh: &Mesh) -> Vec<Prefix> {
    let mut all = Vec::new();
    for location in mesh.locations.values() {
        all.extend(&location.settings.cidrs);
        for member in location.members.values() {
            all.extend(&member.prefixes);
            all.extend(
                member
                    .addresses
                    .iter()
                    .chain(&member.overlay)
                    .map(|address| Prefix::host(*address)),
            );
        }
    }
    all.extend(mesh.peers.values().flat_map(|peer| &peer.allowed_ips));
    all
}

/// A Peer in a list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Through this location the locations without an attachment reach it.
    pub home: Option<String>,
    /// The locations that have a tunnel for it.
    pub attachments: Vec<String>,
    /// The networks behind it, as asked for.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<String>,
    /// Where it is reached, where it can be.
    pub endpoint: Option<String>,
    /// Its key.
    pub public_key: String,
    /// The status of its condition Accepted.
    pub accepted: String,
    /// The status of its condition Ready.
    pub ready: String,
    /// The locations that are connected with it, as its status has them.
    pub connected_to: Vec<String>,
    /// When its last handshake was, as its status has it: as it was when that changed.
    pub last_handshake: Option<String>,
    /// How many seconds ago the last handshake with it was, the latest of the leaders that it is attached to.
    pub handshake_seconds: Option<u64>,
    /// Where that leader heard it last.
    pub heard_at: Option<String>,
    /// There has been no handshake with any of these leaders; `None`: one of them does not say.
    pub never: Option<bool>,
}

impl Row {
    /// Takes what leaders say of its tunnel, as far as they say anything.
    fn observe(&mut self, leaders: &[Option<&PeerFigures>]) {
        let known = leaders.iter().flatten();
        let latest = known
            .filter_map(|peer| Some((peer.handshake?, peer.at.as_ref())))
            .min();
        self.handshake_seconds = latest.map(|(age, _)| age);
        self.heard_at = latest.and_then(|(_, at)| at.cloned());
        let all_say = !leaders.is_empty() && leaders.iter().all(Option::is_some);
        self.never = (latest.is_some() || all_say).then_some(latest.is_none());
    }

    fn handshake(&self) -> String {
        match (self.handshake_seconds, self.never) {
            (Some(age), _) => format!("{age} s ago"),
            (None, Some(true)) => "never".to_owned(),
            (None, _) => "?".to_owned(),
        }
    }
}

/// Returns the leaders that know of the Peers' tunnels: the first active one of each location that one is attached to.
#[must_use]
pub fn attached_to(objects: &Objects) -> BTreeSet<String> {
    let mesh = objects.published();
    let attachments = rows(objects, &Answers::new())
        .into_iter()
        .flat_map(|row| row.attachments);
    attachments
        .filter_map(|location| leader(&mesh, &location))
        .collect()
}

fn leader(mesh: &Mesh, location: &str) -> Option<String> {
    let location = mesh.locations.get(&location.parse::<LocationName>().ok()?)?;
    location.active().next().map(ToString::to_string)
}

/// Returns the Peers as a list, with what agents answered of them.
#[must_use]
pub fn rows(objects: &Objects, answers: &Answers) -> Vec<Row> {
    let mesh = objects.published();
    let row = |observed: Observed<Peer>| {
        let name = observed.name().to_owned();
        let peer = observed.object?;
        let status = peer.status.unwrap_or_default();
        let of = |about: &str| {
            let condition = status
                .conditions
                .iter()
                .find(|condition| condition.type_ == about);
            condition.map_or_else(|| "Unknown".to_owned(), |condition| condition.status.clone())
        };
        let (accepted, ready) = (of("Accepted"), of("Ready"));
        let last_handshake = status.last_handshake.map(|Time(time)| time.to_string());
        let decided = status.accepted.unwrap_or_default();
        let of_leader = |location: &String| {
            let figures = answers.get(&leader(&mesh, location)?)?.as_ref().ok()?;
            figures.peers.get(&name)
        };
        let said: Vec<_> = decided.attachments.iter().map(of_leader).collect();
        let mut row = Row {
            name: name.clone(),
            home: decided.home,
            attachments: decided.attachments,
            allowed_ips: peer.spec.allowed_ips,
            endpoint: peer.spec.endpoint,
            public_key: peer.spec.public_key,
            accepted,
            ready,
            connected_to: status.connected_to,
            last_handshake,
            handshake_seconds: None,
            heard_at: None,
            never: None,
        };
        row.observe(&said);
        Some(row)
    };
    objects
        .observed::<Peer>(Kind::Peer)
        .into_iter()
        .filter_map(row)
        .collect()
}

/// Returns the list for people.
#[must_use]
pub fn text(rows: &[Row], wide: bool) -> String {
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            dash(&row.home),
            joined(&row.attachments),
            joined(&row.allowed_ips),
            row.accepted.clone(),
            row.ready.clone(),
            joined(&row.connected_to),
            row.handshake(),
            dash(&row.heard_at),
        ];
        if wide {
            cells.extend([dash(&row.endpoint), row.public_key.clone()]);
        }
        cells
    });
    let mut heading = vec![
        "PEER",
        "HOME",
        "ATTACHED TO",
        "ALLOWED IPS",
        "ACCEPTED",
        "READY",
        "CONNECTED TO",
        "HANDSHAKE",
        "HEARD AT",
    ];
    if wide {
        heading.extend(["ENDPOINT", "PUBLIC KEY"]);
    }
    let cells: Vec<_> = cells.collect();
    if cells.is_empty() {
        return "There is no Peer.\n".to_owned();
    }
    table(&heading, &cells)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spanwire_topology::{decide, scenario::World};

    use super::*;

    #[test]
    fn the_default_pool_lies_in_no_network_that_clusters_have_by_default() {
        let pool: Prefix = DEFAULT_POOL.parse().unwrap();
        for network in [
            "10.96.0.0/12",
            "10.42.0.0/15",
            "10.244.0.0/16",
            "100.64.0.0/10",
            "10.233.0.0/16",
            "10.128.0.0/14",
            "10.152.183.0/24",
            "10.1.0.0/16",
            "192.168.0.0/16",
            "172.16.0.0/12",
            "10.0.0.0/12",
            "10.32.0.0/12",
            "10.4.0.0/15",
            "10.88.0.0/16",
        ] {
            assert!(!pool.overlaps(&network.parse().unwrap()), "{network}");
        }
    }

    #[test]
    fn an_address_of_services_is_no_free_one() {
        // As kubeadm has them.
        let services = ["10.96.0.0/12".parse().unwrap()];
        let within = "10.99.0.0/16".parse().unwrap();
        let said = free_address(&objects(), within, &services).unwrap_err();
        assert!(
            said.contains("10.99.0.0/16 is free, which lies in 10.96.0.0/12"),
            "{said}"
        );
        let free = free_address(&objects(), DEFAULT_POOL.parse().unwrap(), &services).unwrap();
        assert_eq!(free.to_string(), "10.199.0.1/32");
    }

    #[test]
    fn a_peer_is_served_with_all_that_it_asks_for_or_it_is_said_what_is_not_granted() {
        let asked: Vec<Prefix> = ["10.99.0.1/32", "fd99::1/128"]
            .map(|text| text.parse().unwrap())
            .into();
        let condition = |about: &str, status: &str, message: &str| json!({"type": about, "status": status, "message": message});
        let ready = condition("Ready", "False", "was not accepted");
        let accepted = condition("Accepted", "False", "overlaps 10.96.0.0/12");
        // A Peer of which nothing is granted keeps its home, and may even be ready.
        let with = |home: Option<&str>, allowed: &[&str], conditions: &[&Value]| {
            decided(
                &json!({"accepted": {"home": home, "allowedIPs": allowed}, "conditions": conditions}),
                &asked,
            )
        };
        let refused = Some(Err("overlaps 10.96.0.0/12".to_owned()));
        assert_eq!(decided(&Value::Null, &asked), None);
        assert_eq!(
            with(Some("a"), &["10.99.0.1/32", "fd99::1/128"], &[]),
            Some(Ok(()))
        );
        let attached = condition("Ready", "True", "has a tunnel with a");
        assert_eq!(with(Some("a"), &[], &[&attached, &accepted]), refused);
        assert_eq!(
            with(Some("a"), &["10.99.0.1/32"], &[&attached, &accepted]),
            refused
        );
        assert_eq!(with(None, &[], &[&ready, &accepted]), refused);
        assert_eq!(
            decided(&json!({"conditions": [ready, accepted]}), &asked),
            refused
        );
        let homeless = condition("Ready", "False", "no location");
        let all = ["10.99.0.1/32", "fd99::1/128"];
        let whole = condition("Accepted", "True", "");
        assert_eq!(
            with(None, &all, &[&homeless, &whole]),
            Some(Err("no location".to_owned()))
        );
        assert_eq!(
            with(Some("a"), &["10.99.0.1/32"], &[&attached]),
            None,
            "half written"
        );
    }

    fn objects() -> Objects {
        let mut world = World::default();
        for line in [
            "overlay 10.4.0.0/16",
            "node a1 region=a addresses=10.99.0.2 pods=10.99.0.4/30 key=1",
            "peer p allowed=10.99.0.1 key=9 location=a",
        ] {
            world.line(line).unwrap();
        }
        Objects::of_mesh(&decide(&world.facts, &Mesh::default()).mesh)
    }

    fn free(objects: &Objects, pool: &str) -> Result<String, String> {
        let pool: Prefix = pool.parse().map_err(|_| "is no network".to_owned())?;
        free_address(objects, pool, &[]).map(|prefix| prefix.to_string())
    }

    #[test]
    fn the_first_address_that_nothing_has_is_taken() {
        let mut objects = objects();
        assert_eq!(free(&objects, "10.99.0.0/24").unwrap(), "10.99.0.3/32");
        // A Peer that is not accepted may be.
        let object = json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "Peer", "metadata": {"name": "q"},
            "spec": {"publicKey": "x", "allowedIPs": ["10.99.0.3/32"]}});
        objects.add(object).unwrap();
        assert_eq!(free(&objects, "10.99.0.0/24").unwrap(), "10.99.0.8/32");
        assert_eq!(free(&objects, "fd99::/64").unwrap(), "fd99::1/128");
        let pool = "10.99.0.0/16".parse().unwrap();
        let beside = ["10.99.0.0/24".parse().unwrap()];
        let free = free_address(&objects, pool, &beside).unwrap();
        assert_eq!(free.to_string(), "10.99.1.0/32");
    }

    #[test]
    fn a_pool_that_is_used_up_is_an_error_that_names_the_flags() {
        let objects = objects();
        assert!(free(&objects, "10.99.0.1/32").unwrap_err().contains("--pool"));
        assert!(
            free(&objects, "10.99.0.4/30")
                .unwrap_err()
                .contains("--allowed-ip")
        );
        assert_eq!(free(&objects, "10.99.0.9/32").unwrap(), "10.99.0.9/32");
    }
}
