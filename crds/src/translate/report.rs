//! What the agent of a node reports in the status of its MeshNode.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use spanwire_topology::{Endpoint, LocationName, NodeFact, NodeName, PeerName, PublicKey};

use super::{Fields, Translated};
use crate::{
    FieldProblem, MOST_ATTACHED_PEERS, MOST_AVOIDED_LEADERS, MOST_SILENT_MEMBERS, MOST_UNKEYED_PEERS,
    MeshNodeStatus,
    conditions::{ConditionType, Reason},
};

/// How many letters of a message are kept.
const LONGEST: usize = 200;

/// What an agent reports, as far as the operator decides upon it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its key.
    pub public_key: Option<PublicKey>,
    /// The addresses of the CNI's device.
    pub hop: BTreeSet<IpAddr>,
    /// It has found how the CNI carries packets between nodes.
    pub carried: bool,
    /// The largest packet on the ways to other locations.
    pub mtu: Option<u16>,
    /// Whether its tunnels to other locations are up.
    pub links: BTreeMap<LocationName, bool>,
    /// No trace of Spanwire is left on the node.
    pub retired: bool,
    /// What the agent cannot do, where packets may be lost for that; bounded, for it is the node's own word.
    pub degraded: Option<String>,
    /// Why the API server does not take its Lease, where that is so; bounded likewise.
    pub lease_refused: Option<String>,
    /// Of a leader: the Peers that it does not talk to for want of their preshared keys, and why; bounded likewise.
    pub unkeyed: BTreeMap<PeerName, String>,
    /// Of a leader: the Peers with which it has had a handshake; bounded likewise.
    pub attached: BTreeMap<PeerName, Attached>,
    /// Of a leader: the nodes of its location that do not answer it, and what follows; bounded likewise.
    pub silent: BTreeMap<NodeName, String>,
    /// The leaders that the node does not use.
    pub avoided: BTreeSet<Avoided>,
}

/// A leader that a node does not use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Avoided {
    /// The location that it leads.
    pub location: LocationName,
    /// The leader.
    pub leader: NodeName,
    /// Of a leader of the node's own location: the one at which nothing arrives through it.
    pub towards: Option<LocationName>,
}

/// What a leader says of a Peer that is attached to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// It is connected.
    pub connected: bool,
    /// When its last handshake was, as it was when that changed.
    pub handshake: Timestamp,
}

/// Returns what the agent says.
#[must_use]
pub fn report(status: &MeshNodeStatus) -> Translated<Report> {
    let mut fields = Fields::default();
    let link = |fields: &mut Fields, link: &crate::Link| {
        Some((fields.one("status.links", &link.location)?, link.up))
    };
    let fact = Report {
        public_key: status
            .public_key
            .as_ref()
            .and_then(|key| fields.one("status.publicKey", key)),
        hop: hops(&mut fields, &status.hop_addresses),
        carried: status.cni.is_some(),
        mtu: status.mtu,
        links: status
            .links
            .iter()
            .filter_map(|entry| link(&mut fields, entry))
            .collect(),
        retired: status.retired,
        degraded: fault(&status.conditions, ConditionType::Ready, Reason::Degraded),
        lease_refused: fault(
            &status.conditions,
            ConditionType::LeaseRenewed,
            Reason::LeaseRefused,
        ),
        unkeyed: status
            .unkeyed_peers
            .iter()
            .take(MOST_UNKEYED_PEERS)
            .filter_map(|entry| {
                let peer = fields.one("status.unkeyedPeers", &entry.peer)?;
                // It names the object, and what to do.
                Some((peer, bounded(&entry.cause, 2 * LONGEST)))
            })
            .collect(),
        attached: status
            .attached_peers
            .iter()
            .take(MOST_ATTACHED_PEERS)
            .filter_map(|entry| {
                let peer = fields.one("status.attachedPeers", &entry.peer)?;
                let attached = Attached {
                    connected: entry.connected,
                    handshake: entry.last_handshake.0,
                };
                Some((peer, attached))
            })
            .collect(),
        silent: status
            .silent_members
            .iter()
            .take(MOST_SILENT_MEMBERS)
            .filter_map(|entry| {
                let node = fields.one("status.silentMembers", &entry.node)?;
                Some((node, bounded(&entry.cause, 2 * LONGEST)))
            })
            .collect(),
        avoided: status
            .avoided_leaders
            .iter()
            .take(MOST_AVOIDED_LEADERS)
            .filter_map(|entry| avoided(&mut fields, entry))
            .collect(),
    };
    Translated {
        fact,
        problems: fields.problems,
    }
}

fn avoided(fields: &mut Fields, entry: &crate::AvoidedLeader) -> Option<Avoided> {
    const FIELD: &str = "status.avoidedLeaders";
    Some(Avoided {
        location: fields.one(FIELD, &entry.location)?,
        leader: fields.one(FIELD, &entry.node)?,
        towards: match &entry.towards {
            Some(towards) => Some(fields.one(FIELD, towards)?),
            None => None,
        },
    })
}

/// Returns the first addresses that a device of another node can have. Linux refuses a route by any other, and the nodes that
/// are to have it would say that something is wrong with them.
fn hops(fields: &mut Fields, texts: &[String]) -> BTreeSet<IpAddr> {
    const FIELD: &str = "status.hopAddresses";
    let counted = &texts[..texts.len().min(NodeFact::MAX_ADDRESSES)];
    let mut read: BTreeSet<IpAddr> = fields.list(FIELD, counted);
    read.retain(|address| {
        let usable = Endpoint::at(*address, 1).is_ok();
        if !usable {
            let problem = "is no address of a device that other nodes reach; restart the agent of that node";
            let said = address.to_string();
            fields.problems.push(FieldProblem::new(FIELD, &said, problem));
        }
        usable
    });
    read
}

/// Returns the message of a condition that is false for this reason.
fn fault(conditions: &[Condition], about: ConditionType, reason: Reason) -> Option<String> {
    let said = conditions
        .iter()
        .find(|condition| condition.type_ == about.as_str())?;
    let holds = said.status != "False" || said.reason != reason.as_str();
    (!holds).then(|| bounded(&said.message, LONGEST))
}

/// Returns the first letters of a text that a node wrote.
fn bounded(said: &str, longest: usize) -> String {
    let printable = said.chars().filter(|letter| !letter.is_control());
    let mut text: String = printable.take(longest).collect();
    if text.len() < said.len() {
        text.push('…');
    }
    text
}

impl Report {
    /// Adds what the agent reports to what the Node says. The port on which it listens is left out: it is the one that
    /// the operator published, and would stay when that goes.
    pub fn complete(&self, fact: &mut NodeFact) {
        fact.public_key = if self.retired { None } else { self.public_key };
        fact.hop.clone_from(&self.hop);
        fact.carried = self.carried;
        fact.mtu = self.mtu;
        fact.links.clone_from(&self.links);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::Link;

    #[test]
    fn whose_preshared_key_is_not_known_is_said_by_name_and_in_bounds() {
        let unkeyed = |peer: &str, cause: String| crate::UnkeyedPeer {
            peer: peer.to_owned(),
            cause,
        };
        let status = MeshNodeStatus {
            unkeyed_peers: vec![
                unkeyed("laptop", "gone\n".to_owned()),
                unkeyed("phone", "x".repeat(5 * LONGEST)),
                unkeyed("No name", String::new()),
            ],
            ..MeshNodeStatus::default()
        };
        let read = report(&status);
        let said: Vec<_> = read
            .fact
            .unkeyed
            .iter()
            .map(|(peer, cause)| (peer.as_str(), cause.as_str()))
            .collect();
        assert_eq!(
            (said[0], said[1].0, said.len()),
            (("laptop", "gone…"), "phone", 2)
        );
        assert!(said[1].1.chars().count() <= 2 * LONGEST + 1);
        assert!(read.problems[0].to_string().starts_with("status.unkeyedPeers"));
    }

    #[test]
    fn which_peers_are_connected_is_said_by_name_and_in_bounds() {
        let attached = |peer: &str| crate::AttachedPeer {
            peer: peer.to_owned(),
            connected: true,
            last_handshake: Time(Timestamp::UNIX_EPOCH),
        };
        let mut peers = vec![attached("laptop"), attached("No name")];
        peers.extend((0..MOST_ATTACHED_PEERS).map(|number| attached(&format!("p{number}"))));
        let read = report(&MeshNodeStatus {
            attached_peers: peers,
            ..MeshNodeStatus::default()
        });
        let said = &read.fact.attached;
        assert!(said[&"laptop".parse::<PeerName>().unwrap()].connected);
        assert_eq!(said.len(), MOST_ATTACHED_PEERS - 1, "one is no name");
        assert!(read.problems[0].to_string().starts_with("status.attachedPeers"));
    }

    #[test]
    fn which_members_are_silent_is_said_by_name_and_in_bounds() {
        let silent = |node: &str, cause: String| crate::SilentMember {
            node: node.to_owned(),
            cause,
        };
        let mut members = vec![
            silent("a1", "gone\n".to_owned()),
            silent("No name", String::new()),
            silent("a2", "x".repeat(5 * LONGEST)),
        ];
        members.extend((0..MOST_SILENT_MEMBERS).map(|number| silent(&format!("b{number}"), String::new())));
        let status = MeshNodeStatus {
            silent_members: members,
            ..MeshNodeStatus::default()
        };
        let read = report(&status);
        let said = &read.fact.silent;
        assert_eq!(said[&"a1".parse::<NodeName>().unwrap()], "gone…");
        assert!(said[&"a2".parse::<NodeName>().unwrap()].chars().count() <= 2 * LONGEST + 1);
        assert_eq!(said.len(), MOST_SILENT_MEMBERS - 1, "one is no name");
        assert!(read.problems[0].to_string().starts_with("status.silentMembers"));
    }

    #[test]
    fn which_leaders_are_avoided_is_read_one_by_one_and_in_bounds() {
        let entry = |location: &str, node: &str, towards: Option<&str>| crate::AvoidedLeader {
            location: location.to_owned(),
            node: node.to_owned(),
            towards: towards.map(str::to_owned),
        };
        let mut avoided_leaders = vec![
            entry("b", "b1", None),
            entry("a", "a1", Some("b")),
            entry("No name", "a1", None),
            entry("a", "a1", Some("No name")),
        ];
        let many = (0..MOST_AVOIDED_LEADERS).map(|number| entry("c", &format!("c{number}"), None));
        avoided_leaders.extend(many);
        let read = report(&MeshNodeStatus {
            avoided_leaders,
            ..MeshNodeStatus::default()
        });
        let known = |location: &str, leader: &str, towards: Option<&str>| Avoided {
            location: location.parse().unwrap(),
            leader: leader.parse().unwrap(),
            towards: towards.map(|towards| towards.parse().unwrap()),
        };
        let said = &read.fact.avoided;
        assert!(said.contains(&known("b", "b1", None)) && said.contains(&known("a", "a1", Some("b"))));
        assert_eq!(
            (said.len(), read.problems.len()),
            (MOST_AVOIDED_LEADERS - 2, 2),
            "two are no names"
        );
        assert!(read.problems[0].to_string().starts_with("status.avoidedLeaders"));
    }

    #[test]
    fn a_report_completes_the_fact_and_takes_nothing_from_the_annotations() {
        let status = MeshNodeStatus {
            public_key: Some(PublicKey::new([7; 32]).to_string()),
            listen_port: Some(51821),
            hop_addresses: vec!["10.244.1.0".to_owned()],
            mtu: Some(9001),
            links: vec![Link {
                location: "b".to_owned(),
                up: true,
            }],
            ..MeshNodeStatus::default()
        };
        let annotated: Endpoint = "192.0.2.1:51820".parse().unwrap();
        let mut fact = NodeFact {
            endpoints: vec![annotated.clone()],
            ..NodeFact::default()
        };
        report(&status).fact.complete(&mut fact);
        assert_eq!(fact.endpoints, [annotated]);
        assert_eq!(
            fact.listen_port, None,
            "an annotation that goes takes its port with it"
        );
        assert_eq!(fact.public_key, Some(PublicKey::new([7; 32])));
        assert_eq!((fact.hop.len(), fact.links.len(), fact.mtu), (1, 1, Some(9001)));
    }

    #[test]
    fn what_an_agent_cannot_do_counts_where_packets_may_be_lost() {
        let of = |about: &str, status: &str, reason: &str| {
            let condition = serde_json::json!({
                "type": about, "status": status, "reason": reason, "message": "no\nway".repeat(100),
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            report(&MeshNodeStatus {
                conditions: vec![serde_json::from_value(condition).unwrap()],
                ..MeshNodeStatus::default()
            })
        };
        let degraded = of("Ready", "False", "Degraded").fact.degraded.unwrap();
        assert!(
            degraded.starts_with("nowayno") && degraded.chars().count() == LONGEST + 1,
            "{degraded}"
        );
        for (about, status, reason) in [
            ("Ready", "True", "AllWell"),
            ("Ready", "False", "Limited"),
            ("Other", "False", "Degraded"),
        ] {
            assert_eq!(
                of(about, status, reason).fact.degraded,
                None,
                "{about} {status} {reason}"
            );
        }
    }

    #[test]
    fn a_refused_lease_is_what_the_agent_says_it_is() {
        let of = |status: &str, reason: &str| {
            let condition = serde_json::json!({
                "type": "LeaseRenewed", "status": status, "reason": reason, "message": "leases is forbidden",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            let conditions = vec![serde_json::from_value(condition).unwrap()];
            report(&MeshNodeStatus {
                conditions,
                ..MeshNodeStatus::default()
            })
            .fact
        };
        let refused = of("False", "LeaseRefused");
        assert_eq!(refused.lease_refused.as_deref(), Some("leases is forbidden"));
        assert_eq!(refused.degraded, None);
        assert_eq!(of("True", "LeaseRefused").lease_refused, None);
        assert_eq!(of("False", "Other").lease_refused, None);
    }

    #[test]
    fn a_retired_node_has_no_key_and_so_leads_nothing() {
        let status = MeshNodeStatus {
            public_key: Some(PublicKey::new([7; 32]).to_string()),
            retired: true,
            ..MeshNodeStatus::default()
        };
        let mut fact = NodeFact::default();
        report(&status).fact.complete(&mut fact);
        assert_eq!(fact.public_key, None);
    }

    #[test]
    fn what_no_device_of_another_node_can_have_is_no_next_hop() {
        let hops = |texts: &[&str]| {
            let status = MeshNodeStatus {
                hop_addresses: texts.iter().map(|text| (*text).to_owned()).collect(),
                ..MeshNodeStatus::default()
            };
            let read = report(&status);
            (read.fact.hop.len(), read.problems.len())
        };
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.9",
            "255.255.255.255",
            "169.254.7.7",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:10.244.1.0",
        ] {
            assert_eq!(hops(&[bad, "10.244.1.0"]), (1, 1), "{bad}");
        }
        assert_eq!(hops(&["10.244.1.0", "fd00:244:1::", "100.64.7.1"]), (3, 0));
    }

    #[test]
    fn what_cannot_be_read_is_set_aside() {
        let status = MeshNodeStatus {
            public_key: Some("x".to_owned()),
            hop_addresses: vec!["y".to_owned(), "10.0.0.1".to_owned()],
            ..MeshNodeStatus::default()
        };
        let read = report(&status);
        assert_eq!((read.fact.hop.len(), read.problems.len()), (1, 2));
        assert!(read.problems[0].to_string().contains("wg pubkey"));
    }
}
