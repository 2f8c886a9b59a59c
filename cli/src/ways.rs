//! Which way the nodes' kernels send a packet now, beside what the nodes plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::Deserialize;
use spanwire_host::Transport;
use spanwire_topology::{
    Mesh, Party, Via,
    trace::{Action, Arrival, TraceStep},
};

use crate::firewall::Firewall;

/// A packet, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its sender.
    pub from: IpAddr,
    /// Where it is to go.
    pub to: IpAddr,
    /// What it carries; `None`: that is left open.
    pub transport: Option<Transport>,
}

impl Packet {
    /// Returns the answer to it.
    #[must_use]
    pub fn answer(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            transport: self.transport.map(Transport::answer),
        }
    }
}

/// What the agent of a node is asked: which way its kernel sends a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The node.
    pub node: String,
    /// The sender of the packet.
    pub from: IpAddr,
    /// Where it is to go.
    pub to: IpAddr,
    /// It comes to the node by the tunnel.
    pub from_tunnel: bool,
    /// Another node of its location sends it there by the hop.
    pub from_hop: bool,
    /// It answers another one.
    pub answers: bool,
    /// What it carries; `None`: that is left open.
    pub transport: Option<Transport>,
}

/// What agents answered; an error says why there is no answer.
pub type Ways = BTreeMap<Question, Result<NodeWay, String>>;

/// What a node does with a packet, as its agent answers it at `/debug/way`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct NodeWay {
    /// Where its kernel sends it.
    #[serde(flatten)]
    pub kernel: KernelWay,
    /// What its firewalls do with it; older agents do not say so, nor does any of what goes nowhere.
    pub firewall: Option<Firewall>,
    /// What it was taken to carry; older agents do not look at that.
    pub packet: Option<String>,
}

/// Where a kernel sends a packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum KernelWay {
    /// It is for the node itself.
    Here {
        /// Always true.
        here: bool,
    },
    /// It goes nowhere.
    Nowhere {
        /// Why.
        nowhere: String,
    },
    /// It leaves.
    Out {
        /// The device.
        device: String,
        /// The device is Spanwire's.
        tunnel: bool,
        /// The next hop.
        via: Option<IpAddr>,
        /// The routing table.
        table: u32,
        /// The largest packet, in bytes.
        mtu: u32,
        /// The public key of the WireGuard peer that takes it.
        peer: Option<String>,
    },
}

/// What a kernel should do with a packet, by the plan of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedWay {
    /// It leaves by no tunnel, or is for the node itself.
    Outside,
    /// It goes to one of these addresses, by no tunnel.
    NextHop(BTreeSet<IpAddr>),
    /// It goes through the tunnel to the peer with this public key.
    Tunnel(Option<String>),
    /// It goes nowhere.
    Nowhere,
}

impl Question {
    /// Returns the question that a step of a packet's way raises.
    #[must_use]
    pub fn of(step: &TraceStep, packet: Packet, answers: bool) -> Self {
        Self {
            node: step.node.to_string(),
            from: packet.from,
            to: packet.to,
            from_tunnel: step.arrival == Arrival::Tunnel,
            from_hop: step.arrival == Arrival::Hop,
            answers,
            transport: packet.transport,
        }
    }

    /// Returns the path at which the agent's admin endpoint answers it.
    #[must_use]
    pub fn path(&self) -> String {
        let by = if self.from_tunnel { "/tunnel" } else { "" };
        let mut query: Vec<String> = Vec::new();
        query.extend(self.from_hop.then(|| "hop".to_owned()));
        query.extend(self.answers.then(|| "answer".to_owned()));
        if let Some(transport) = self.transport {
            query.push(format!("protocol={}", transport.protocol.name()));
            let ports = [
                ("sport", transport.source_port),
                ("dport", transport.destination_port),
            ];
            let known = ports.iter().filter_map(|(name, port)| Some((name, (*port)?)));
            query.extend(known.map(|(name, port)| format!("{name}={port}")));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        format!(
            "/debug/way/{}/{}{by}{mark}{}",
            self.from,
            self.to,
            query.join("&")
        )
    }
}

impl PlannedWay {
    /// Returns what the kernel of the node should do in a step.
    #[must_use]
    pub fn of(mesh: &Mesh, step: &TraceStep) -> Self {
        let tunnel = |party: &Option<Party>| {
            Self::Tunnel(
                party
                    .as_ref()
                    .and_then(|party| key(mesh, party))
                    .map(|key| key.to_string()),
            )
        };
        match &step.action {
            Action::Deliver | Action::Local | Action::NoRoute => Self::Outside,
            Action::Route(_, Via::Tunnel, party) | Action::Relay(party) => tunnel(party),
            Action::Return(Via::Tunnel) => Self::Tunnel(None),
            Action::Route(_, Via::Hop { hop, addresses, .. }, _)
            | Action::Return(Via::Hop { hop, addresses, .. }) => {
                Self::NextHop(hop.iter().chain(addresses.iter()).copied().collect())
            }
            Action::Route(_, Via::Unreachable, _) | Action::Return(Via::Unreachable) => Self::Nowhere,
        }
    }

    /// Returns what of it the kernel does not do.
    #[must_use]
    pub fn differs(&self, kernel: &KernelWay) -> Option<String> {
        match (self, kernel) {
            (Self::Nowhere, KernelWay::Nowhere { .. })
            | (Self::Outside, KernelWay::Here { .. } | KernelWay::Out { tunnel: false, .. }) => None,
            (
                Self::NextHop(hops),
                KernelWay::Out {
                    tunnel: false, via, ..
                },
            ) => {
                if via.is_some_and(|via| hops.contains(&via)) {
                    return None;
                }
                let hops: Vec<String> = hops.iter().map(ToString::to_string).collect();
                Some(format!("its plan sends it to {}", hops.join(" or ")))
            }
            (
                Self::Tunnel(planned),
                KernelWay::Out {
                    tunnel: true, peer, ..
                },
            ) => match (planned, peer) {
                (Some(planned), Some(peer)) if planned != peer => {
                    Some(format!("its plan sends it to the WireGuard peer {planned}"))
                }
                (_, None) => Some("no WireGuard peer is allowed to have its destination".to_owned()),
                _ => None,
            },
            (Self::Nowhere, _) => Some("its plan has the sender hear that it is unreachable".to_owned()),
            (Self::Outside, _) => Some("its plan leaves it to the CNI and the LAN".to_owned()),
            (Self::NextHop(_), _) => Some("its plan sends it to another node of its location".to_owned()),
            (Self::Tunnel(_), _) => Some("its plan sends it through the tunnel".to_owned()),
        }
    }
}

fn key<'a>(mesh: &'a Mesh, party: &Party) -> Option<&'a spanwire_topology::PublicKey> {
    match party {
        Party::Leader(location, node) => mesh
            .locations
            .get(location)?
            .members
            .get(node)?
            .public_key
            .as_ref(),
        Party::Peer(name) => Some(&mesh.peers.get(name)?.public_key),
    }
}

impl KernelWay {
    /// Returns the largest packet that gets through here, in bytes.
    #[must_use]
    pub const fn mtu(&self) -> Option<u32> {
        match self {
            Self::Out { mtu, .. } => Some(*mtu),
            Self::Here { .. } | Self::Nowhere { .. } => None,
        }
    }
}

impl fmt::Display for KernelWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here { .. } => f.write_str("for the node itself"),
            Self::Nowhere { nowhere } => write!(f, "goes nowhere: {nowhere}"),
            Self::Out {
                device,
                via,
                table,
                mtu,
                ..
            } => {
                write!(f, "dev {device}")?;
                if let Some(via) = via {
                    write!(f, " via {via}")?;
                }
                match table {
                    254 => f.write_str(" table main")?,
                    table => write!(f, " table {table}")?,
                }
                write!(f, " mtu {mtu}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spanwire_host::Protocol;

    use super::*;

    fn read(text: &str) -> KernelWay {
        serde_json::from_str(text).unwrap()
    }

    fn out(tunnel: bool, via: Option<&str>, peer: Option<&str>) -> KernelWay {
        KernelWay::Out {
            device: "x0".to_owned(),
            tunnel,
            via: via.map(|via| via.parse().unwrap()),
            table: 254,
            mtu: 1370,
            peer: peer.map(str::to_owned),
        }
    }

    #[test]
    fn an_agent_is_told_by_what_a_packet_comes_and_whether_it_answers_another() {
        let path_of = |from_tunnel, from_hop, answers, transport| {
            let question = Question {
                node: "a1".to_owned(),
                from: "10.0.0.1".parse().unwrap(),
                to: "10.0.0.2".parse().unwrap(),
                from_tunnel,
                from_hop,
                answers,
                transport,
            };
            question.path()
        };
        let path = |from_tunnel, from_hop, answers| path_of(from_tunnel, from_hop, answers, None);
        assert_eq!(path(false, false, false), "/debug/way/10.0.0.1/10.0.0.2");
        assert_eq!(
            path(true, false, true),
            "/debug/way/10.0.0.1/10.0.0.2/tunnel?answer"
        );
        assert_eq!(path(false, true, false), "/debug/way/10.0.0.1/10.0.0.2?hop");
        assert_eq!(path(false, true, true), "/debug/way/10.0.0.1/10.0.0.2?hop&answer");
        let asked = Transport {
            protocol: Protocol::Tcp,
            source_port: None,
            destination_port: Some(443),
        };
        assert_eq!(
            path_of(false, false, false, Some(asked)),
            "/debug/way/10.0.0.1/10.0.0.2?protocol=tcp&dport=443"
        );
        assert_eq!(
            path_of(true, false, true, Some(asked.answer())),
            "/debug/way/10.0.0.1/10.0.0.2/tunnel?answer&protocol=tcp&sport=443"
        );
    }

    #[test]
    fn what_an_agent_answers_is_read() {
        assert_eq!(read(r#"{"here": true}"#), KernelWay::Here { here: true });
        let nowhere = read(r#"{"nowhere": "no route"}"#);
        assert_eq!(nowhere.to_string(), "goes nowhere: no route");
        let out = r#"{"device": "spanwire0", "tunnel": true, "via": null, "table": 51830, "mtu": 1370, "peer": "k="}"#;
        assert_eq!(read(out).to_string(), "dev spanwire0 table 51830 mtu 1370");
        let out = r#"{"device": "flannel.1", "tunnel": false, "via": "10.244.1.0", "table": 254, "mtu": 1450, "peer": null,
            "later": 1}"#;
        assert_eq!(
            read(out).to_string(),
            "dev flannel.1 via 10.244.1.0 table main mtu 1450"
        );
        let whole: NodeWay =
            serde_json::from_str(r#"{"here": true, "firewall": {"verdict": "accepted"}}"#).unwrap();
        assert_eq!(whole.kernel, KernelWay::Here { here: true });
        assert_eq!(whole.firewall.unwrap().to_string(), "accepted");
        let older: NodeWay = serde_json::from_str(r#"{"here": true}"#).unwrap();
        assert_eq!(older.firewall, None);
    }

    #[test]
    fn a_kernel_does_what_is_planned_or_it_is_said_what_not() {
        let here = KernelWay::Here { here: true };
        let nowhere = KernelWay::Nowhere {
            nowhere: "no route".to_owned(),
        };
        let hops = PlannedWay::NextHop(["10.244.1.0".parse().unwrap()].into());
        let tunnel = PlannedWay::Tunnel(Some("k".to_owned()));
        let as_planned = [
            (&PlannedWay::Outside, &here),
            (&PlannedWay::Outside, &out(false, None, None)),
            (&hops, &out(false, Some("10.244.1.0"), None)),
            (&tunnel, &out(true, None, Some("k"))),
            (&PlannedWay::Nowhere, &nowhere),
        ];
        for (planned, kernel) in as_planned {
            assert_eq!(planned.differs(kernel), None, "{planned:?} {kernel:?}");
        }
        let otherwise = [
            (
                &PlannedWay::Outside,
                &out(true, None, Some("k")),
                "the CNI and the LAN",
            ),
            (&PlannedWay::Outside, &nowhere, "the CNI and the LAN"),
            (&hops, &out(false, Some("192.168.0.1"), None), "to 10.244.1.0"),
            (&hops, &out(false, None, None), "to 10.244.1.0"),
            (&hops, &out(true, None, Some("k")), "another node"),
            (&tunnel, &out(true, None, Some("l")), "the WireGuard peer k"),
            (&tunnel, &out(true, None, None), "no WireGuard peer"),
            (
                &tunnel,
                &out(false, Some("192.168.0.1"), None),
                "through the tunnel",
            ),
            (&tunnel, &here, "through the tunnel"),
            (&PlannedWay::Nowhere, &out(false, None, None), "unreachable"),
        ];
        for (planned, kernel, what) in otherwise {
            let said = planned.differs(kernel).unwrap_or_default();
            assert!(said.contains(what), "{planned:?} {kernel:?}: {said}");
        }
    }
}
