//! The way of a packet, hop by hop, as the nodes plan it with what they observe.

use std::{fmt::Write as _, net::IpAddr};

use serde::Serialize;
use spanwire_crds::{Backend, MeshNode};
use spanwire_topology::{
    Mesh, NodeName, Reachability, plan,
    trace::{Action, Arrival, GroundTruth, Place, Plans, Spot, Trace, Verdict as End, trace},
};

use crate::{
    answer::Verdict,
    findings::Answers,
    firewall::Firewall,
    objects::{Kind, Objects},
    ways::{KernelWay, NodeWay, PlannedWay, Question, Ways},
};

/// What an address is not that the mesh does not have.
const NOT_OF_MESH: &str = "it is no address of a node, a pod, a Peer, or of the cidrs of a Location";

/// The way of a packet and of the answer to it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// From where to where.
    pub there: Way,
    /// The way of the answer; `None`: who answers is none of the mesh's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<Way>,
}

/// The way of one packet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// Where it begins.
    pub from: String,
    /// Where it is to go.
    pub to: String,
    /// The nodes that see it.
    pub hops: Vec<Hop>,
    /// How it ends.
    pub end: String,
    /// The largest packet that gets through, in bytes, where all kernels on the way have said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// What to do, where it does not arrive through the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Nothing is wrong, or it leaves the mesh, or it is lost.
    #[serde(skip)]
    verdict: Verdict,
}

/// What one node does with the packet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The node.
    pub node: String,
    /// Its part.
    pub role: String,
    /// How the packet comes to it.
    pub arrival: String,
    /// What it does.
    pub action: String,
    /// Whether WireGuard encrypts it from here to the next node; `None`: it goes no further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Which way its kernel sends the packet now; `None`: that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// What of the plan its kernel does not do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
    /// What its firewalls do with the packet; `None`: it meets none, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
    #[serde(skip)]
    question: Question,
    #[serde(skip)]
    planned: PlannedWay,
}

impl Hop {
    fn drops(&self) -> bool {
        self.firewall.as_ref().is_some_and(Firewall::drops)
    }
}

/// What a name on the command line may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(IpAddr),
    /// A pod, with its namespace.
    Pod(String, String),
    /// A service, with its namespace.
    Service(String, String),
    /// A node.
    Node(String),
    /// A location: its first active leader.
    Location(String),
    /// A Peer.
    Peer(String),
    /// A node, a location or a Peer, whichever has the name.
    Any(String),
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let parts: Vec<&str> = text.split('/').collect();
        let own = |name: &&str| (*name).to_owned();
        Ok(match &parts[..] {
            [name] if !name.is_empty() => Self::Any(own(name)),
            ["pod" | "pods", name] => Self::Pod("default".to_owned(), own(name)),
            ["pod" | "pods", namespace, name] => Self::Pod(own(namespace), own(name)),
            ["service" | "svc" | "services", name] => Self::Service("default".to_owned(), own(name)),
            ["service" | "svc" | "services", namespace, name] => Self::Service(own(namespace), own(name)),
            ["node" | "nodes", name] => Self::Node(own(name)),
            ["location" | "loc" | "locations", name] => Self::Location(own(name)),
            ["peer" | "swp" | "peers", name] => Self::Peer(own(name)),
            _ => {
                return Err(
                    "is none of: an address, NODE, node/NAME, pod/NAME, pod/NAMESPACE/NAME, service/NAME, \
                     service/NAMESPACE/NAME, location/NAME, peer/NAME"
                        .to_owned(),
                );
            }
        })
    }
}

/// Returns an address of a node, a location or a Peer; `v6` picks the family where there is a choice.
///
/// # Errors
/// Where the mesh has nothing of this name, or it has no address.
pub fn address(mesh: &Mesh, target: &Target, v6: bool) -> Result<IpAddr, String> {
    let member = |name: &str| {
        let members = mesh
            .locations
            .values()
            .flat_map(|location| location.members.iter());
        members.into_iter().find(|(node, _)| node.as_str() == name)
    };
    let of_node = |name: &str| {
        let (_, member) = member(name)?;
        let pods = member.prefixes.iter().map(|prefix| prefix.address());
        Some(member.addresses.iter().copied().chain(pods).collect::<Vec<_>>())
    };
    let of_location = |name: &str| {
        let (_, location) = mesh.locations.iter().find(|(known, _)| known.as_str() == name)?;
        Some(
            location
                .active()
                .next()
                .and_then(|leader| of_node(leader.as_str()))
                .unwrap_or_default(),
        )
    };
    let of_peer = |name: &str| {
        let (_, peer) = mesh.peers.iter().find(|(known, _)| known.as_str() == name)?;
        Some(
            peer.allowed_ips
                .iter()
                .map(|prefix| prefix.address())
                .collect::<Vec<_>>(),
        )
    };
    let (name, found) = match target {
        Target::Address(address) => return Ok(*address),
        Target::Pod(_, name) | Target::Service(_, name) => {
            return Err(format!("{name}: only a cluster knows its address"));
        }
        Target::Node(name) => (name, of_node(name)),
        Target::Location(name) => (name, of_location(name)),
        Target::Peer(name) => (name, of_peer(name)),
        Target::Any(name) => (
            name,
            of_node(name)
                .or_else(|| of_location(name))
                .or_else(|| of_peer(name)),
        ),
    };
    let found = found.ok_or_else(|| {
        format!("the mesh has nothing of the name {name}; `kubectl get locations,meshnodes,peers` shows what it has")
    })?;
    let of_family = found.iter().find(|address| address.is_ipv6() == v6);
    of_family
        .or(found.first())
        .copied()
        .ok_or_else(|| format!("the mesh routes no address of {name}"))
}

/// Returns whether the mesh has an address.
#[must_use]
pub fn is_known(mesh: &Mesh, address: IpAddr) -> bool {
    !GroundTruth::new([mesh]).hosts(address).is_empty()
}

/// Traces a packet and the answer to it. Each node plans with what its agent answered, or as if it had observed nothing.
///
/// # Errors
/// Where the mesh does not know the sender.
pub fn explain(objects: &Objects, answers: &Answers, from: IpAddr, to: IpAddr) -> Result<Report, String> {
    let mesh = objects.published();
    let kernel = objects
        .observed::<MeshNode>(Kind::MeshNode)
        .into_iter()
        .filter_map(|node| {
            let status = node.object.as_ref()?.status.as_ref()?;
            let is_kernel = status.backend == Some(Backend::Kernel);
            node.name().parse::<NodeName>().ok().filter(|_| is_kernel)
        });
    let ground = GroundTruth::new([&mesh]).without_groups(kernel);
    let members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.keys());
    let plans: Plans = members
        .map(|node| {
            let figures = answers.get(node.as_str()).and_then(|answer| answer.as_ref().ok());
            let observed = figures.map_or_else(Reachability::default, |figures| figures.reachability());
            (node.clone(), plan(&mesh, node, &observed))
        })
        .collect();
    let there = way(&mesh, &ground, &plans, (from, to), false)?;
    let answers = is_known(&mesh, to);
    let back = answers.then(|| way(&mesh, &ground, &plans, (to, from), true));
    Ok(Report {
        there,
        back: back.transpose()?,
    })
}

fn way(
    mesh: &Mesh,
    ground: &GroundTruth<'_>,
    plans: &Plans,
    (from, to): (IpAddr, IpAddr),
    answers: bool,
) -> Result<Way, String> {
    if from.is_ipv4() != to.is_ipv4() {
        return Err(format!(
            "{from} and {to} are of two families: name two addresses of one"
        ));
    }
    let spot = ground
        .spot(from)
        .ok_or_else(|| format!("the mesh does not know {from}: {NOT_OF_MESH}"))?;
    let target = ground.spot(to);
    let trace = trace(ground, plans, &spot, to);
    let (verdict, remedy) = match &target {
        Some(target) => judged(mesh, &trace, &spot, target),
        None => outside(&trace, to),
    };
    Ok(Way {
        from: spot.to_string(),
        to: target.map_or_else(|| to.to_string(), |target| target.to_string()),
        hops: hops(mesh, &trace, (from, to), answers),
        end: trace.verdict.to_string(),
        mtu: None,
        remedy,
        verdict,
    })
}

fn hops(mesh: &Mesh, trace: &Trace, (from, to): (IpAddr, IpAddr), answers: bool) -> Vec<Hop> {
    use spanwire_topology::Via;
    let steps = trace.steps.iter().map(|step| Hop {
        node: step.node.to_string(),
        role: step.role.to_string(),
        arrival: match step.arrival {
            Arrival::Origin => "begins here".to_owned(),
            other @ (Arrival::Lan | Arrival::Hop | Arrival::Tunnel) => other.to_string(),
        },
        action: step.action.to_string(),
        encrypted: match &step.action {
            Action::Route(_, Via::Tunnel, _) | Action::Relay(_) => Some(true),
            Action::Route(_, Via::Hop { .. }, _) | Action::Return(Via::Hop { .. }) | Action::Local => {
                Some(false)
            }
            Action::Return(Via::Tunnel) => Some(true),
            Action::Deliver
            | Action::NoRoute
            | Action::Route(_, Via::Unreachable, _)
            | Action::Return(Via::Unreachable) => None,
        },
        kernel: None,
        differs: None,
        firewall: None,
        question: Question::of(step, from, to, answers),
        planned: PlannedWay::of(mesh, step),
    });
    steps.collect()
}

/// Returns how bad the end is of what goes to an address that the mesh does not have, and what to do.
fn outside(trace: &Trace, to: IpAddr) -> (Verdict, Option<String>) {
    let unknown = format!("the mesh does not have {to}: {NOT_OF_MESH}");
    let remedy = "where it is to be reached through the mesh, name its network in `spec.cidrs` of the Location that has it";
    match &trace.verdict {
        End::Underlay(node) => (
            Verdict::Warnings,
            Some(format!(
                "{unknown}. {node} sends it by its own routes and those of its CNI, and nothing of the mesh encrypts it; {remedy}"
            )),
        ),
        End::Arrived(_) | End::Dropped(..) | End::Misdelivered(..) | End::Loop => {
            (Verdict::Errors, Some(format!("{unknown}; {remedy}")))
        }
    }
}

/// Returns how bad the end is, and what to do.
fn judged(mesh: &Mesh, trace: &Trace, from: &Spot, to: &Spot) -> (Verdict, Option<String>) {
    match &trace.verdict {
        End::Arrived(_) => (Verdict::Clean, None),
        End::Underlay(_) => match (&from.location, &to.location) {
            (Some(here), Some(there)) if here != there => {
                let established = mesh
                    .locations
                    .get(here)
                    .is_some_and(|it| it.established.contains(there));
                let remedy = if established {
                    format!(
                        "`kubectl spanwire diagnose {here} {there}` says what is wrong with the two locations"
                    )
                } else {
                    format!(
                        "{here} and {there} have no tunnel yet, so the packet goes the way that it went before Spanwire, \
                         unencrypted if at all: `kubectl describe location {here}` says what is waited for"
                    )
                };
                (Verdict::Warnings, Some(remedy))
            }
            _ => (Verdict::Clean, None),
        },
        End::Dropped(..) | End::Misdelivered(..) | End::Loop => {
            let of = |spot: &Spot| match (&spot.location, &spot.place) {
                (Some(location), _) => format!("location {location}"),
                (None, Place::Peer(peer)) => format!("peer {peer}"),
                (None, Place::Node(node)) => format!("meshnode {node}"),
                (None, Place::Lan(location)) => format!("location {location}"),
            };
            let remedy = format!(
                "look at `kubectl describe {}` and `kubectl describe {}`",
                of(from),
                of(to)
            );
            (Verdict::Errors, Some(remedy))
        }
    }
}

impl Report {
    /// Returns the worse of both ways.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let back = self.back.as_ref().map(|back| back.verdict);
        self.there.verdict.max(back.unwrap_or_default())
    }

    /// Returns what the nodes on both ways do.
    pub fn hops(&self) -> impl Iterator<Item = &Hop> {
        let back = self.back.iter().flat_map(|back| &back.hops);
        self.there.hops.iter().chain(back)
    }

    /// Returns what the agents of the nodes on both ways are to be asked.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        self.hops().map(|hop| hop.question.clone()).collect()
    }

    /// Enters which way the kernels send the packets; returns why that is not known of some. Where it is not known of a node on the
    /// way, that is worth a look.
    pub fn compare(&mut self, ways: &Ways) -> Vec<String> {
        [&mut self.there]
            .into_iter()
            .chain(&mut self.back)
            .flat_map(|way| way.compare(ways))
            .collect()
    }

    /// Returns the report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let back = self.back.as_ref().map_or_else(
            || "its way is not known: it begins outside of the mesh\n".to_owned(),
            Way::text,
        );
        format!("{}\nThe answer:\n{back}", self.there.text())
    }
}

impl Way {
    fn compare(&mut self, ways: &Ways) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut mtus = Vec::new();
        for hop in &mut self.hops {
            match ways.get(&hop.question) {
                None => self.verdict = self.verdict.max(Verdict::Warnings),
                Some(Err(why)) => {
                    unknown.push(format!(
                        "which way the kernel of {} sends it is not known: {why}",
                        hop.node
                    ));
                }
                Some(Ok(NodeWay { kernel, firewall })) => {
                    hop.kernel = Some(kernel.to_string());
                    hop.differs = hop.planned.differs(kernel);
                    hop.firewall.clone_from(firewall);
                    if firewall.is_none() && !matches!(kernel, KernelWay::Nowhere { .. }) {
                        unknown.push(format!(
                            "what the firewall of {} does with it is not known: its agent is of an older version",
                            hop.node
                        ));
                    }
                    mtus.extend(kernel.mtu());
                    // What comes to a node on another way than planned is not what was asked about, and what is dropped comes to none.
                    if hop.differs.is_some() || hop.drops() {
                        break;
                    }
                }
            }
        }
        if let Some(hop) = self.hops.iter().find(|hop| hop.differs.is_some()) {
            self.verdict = Verdict::Errors;
            self.remedy = Some(format!(
                "the kernel of {0} does not do what its agent plans: `kubectl describe meshnode {0}` says what could not be \
                 set up, and `ip rule` and `ip route show table all` on {0} which rule or route of others stands before",
                hop.node
            ));
        } else if let Some((hop, firewall)) = self.dropped() {
            let remedy = firewall.remedy(&hop.node);
            self.verdict = Verdict::Errors;
            self.remedy = Some(remedy);
        } else if self.hops.iter().all(|hop| hop.kernel.is_some()) {
            self.mtu = mtus.into_iter().min();
        }
        if !unknown.is_empty() {
            self.verdict = self.verdict.max(Verdict::Warnings);
        }
        unknown
    }

    /// Returns the first node whose firewall drops it.
    fn dropped(&self) -> Option<(&Hop, &Firewall)> {
        let mut dropping = self.hops.iter().filter(|hop| hop.drops());
        dropping.find_map(|hop| Some((hop, hop.firewall.as_ref()?)))
    }

    fn text(&self) -> String {
        let mut text = format!("{} to {}\n", self.from, self.to);
        for (index, hop) in self.hops.iter().enumerate() {
            let encrypted = match hop.encrypted {
                Some(true) => "  [encrypted]",
                Some(false) => "  [not encrypted by the mesh]",
                None => "",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  {}. {} ({}, {}): {}{encrypted}",
                index + 1,
                hop.node,
                hop.role,
                hop.arrival,
                hop.action
            );
            if let Some(kernel) = &hop.kernel {
                let differs = hop.differs.as_ref().map(|differs| format!("; {differs}"));
                let _ = writeln!(text, "     its kernel: {kernel}{}", differs.unwrap_or_default());
            }
            if let Some(firewall) = &hop.firewall {
                let _ = writeln!(text, "     its firewall: {firewall}");
            }
        }
        let mtu = self.mtu.map(|mtu| format!(", with packets of up to {mtu} bytes"));
        let elsewhere = self.hops.iter().find(|hop| hop.differs.is_some());
        let _ = match (elsewhere, self.dropped()) {
            (Some(hop), _) => writeln!(text, "  goes another way from {} on", hop.node),
            (None, Some((hop, _))) => writeln!(text, "  is dropped by the firewall of {}", hop.node),
            (None, None) => writeln!(text, "  {}{}", self.end, mtu.unwrap_or_default()),
        };
        if let Some(remedy) = &self.remedy {
            let _ = writeln!(text, "  {remedy}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_a_name_or_a_kind_with_a_name() {
        let of = |text: &str| text.parse::<Target>();
        assert_eq!(of("10.0.0.1"), Ok(Target::Address("10.0.0.1".parse().unwrap())));
        assert_eq!(of("fd00::1"), Ok(Target::Address("fd00::1".parse().unwrap())));
        assert_eq!(of("a1"), Ok(Target::Any("a1".to_owned())));
        assert_eq!(of("pod/x"), Ok(Target::Pod("default".to_owned(), "x".to_owned())));
        assert_eq!(of("svc/n/x"), Ok(Target::Service("n".to_owned(), "x".to_owned())));
        assert_eq!(of("location/a"), Ok(Target::Location("a".to_owned())));
        for bad in ["", "gizmo/x", "node/x/y", "a/b/c/d"] {
            assert!(of(bad).unwrap_err().contains("node/NAME"), "{bad}");
        }
    }
}
