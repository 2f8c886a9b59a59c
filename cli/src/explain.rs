//! The way of a packet, hop by hop, as the nodes plan it with what they observe.

use std::{fmt::Write as _, net::IpAddr};

use serde::Serialize;
use spanwire_crds::{Backend, MeshNode};
use spanwire_topology::{
    Family, Mesh, NodeName, Reachability, plan,
    trace::{Action, Arrival, GroundTruth, Place, Plans, Spot, Trace, Verdict as End, trace},
};

use crate::{
    answer::Verdict,
    findings::Answers,
    firewall::Firewall,
    objects::{Kind, Objects},
    ways::{KernelWay, NodeWay, Packet, PlannedWay, Question, Ways},
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
    /// What it carries; `None`: that is left open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
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
    /// Whether what its firewalls do depends on what is left open.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.firewall.as_ref().is_some_and(Firewall::is_in_doubt)
    }

    fn drops(&self) -> bool {
        self.firewall.as_ref().is_some_and(Firewall::drops)
    }
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
pub fn explain(objects: &Objects, answers: &Answers, packet: Packet) -> Result<Report, String> {
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
    let there = way(&mesh, &ground, &plans, packet, false)?;
    let answers = is_known(&mesh, packet.to);
    let back = answers.then(|| way(&mesh, &ground, &plans, packet.answer(), true));
    Ok(Report {
        there,
        back: back.transpose()?,
    })
}

fn way(
    mesh: &Mesh,
    ground: &GroundTruth<'_>,
    plans: &Plans,
    packet: Packet,
    answers: bool,
) -> Result<Way, String> {
    let Packet { from, to, transport } = packet;
    let spot = ground.spot(from);
    if from.is_ipv4() != to.is_ipv4() {
        let barred = spot.and_then(|spot| barred(plans, &spot, to));
        return Err(format!(
            "{from} and {to} are of two families: name two addresses of one{}",
            barred.unwrap_or_default()
        ));
    }
    let spot = spot.ok_or_else(|| format!("the mesh does not know {from}: {NOT_OF_MESH}"))?;
    let target = ground.spot(to);
    let trace = trace(ground, plans, &spot, to);
    let (verdict, remedy) = match &target {
        Some(target) => judged(mesh, &trace, &spot, target),
        None => outside(&trace, to),
    };
    Ok(Way {
        from: spot.to_string(),
        to: target.map_or_else(|| to.to_string(), |target| target.to_string()),
        packet: transport.map(|transport| transport.to_string()),
        hops: hops(mesh, &trace, packet, answers),
        end: trace.verdict.to_string(),
        mtu: None,
        remedy,
        verdict,
    })
}

/// Returns what there is to say where a node has no part in the family of an address, and what it sends there is dropped.
fn barred(plans: &Plans, from: &Spot, to: IpAddr) -> Option<String> {
    let Place::Node(node) = &from.place else {
        return None;
    };
    let family = Family::of(to);
    plans.get(node)?.unsent.bars(to).then(|| {
        format!(
            ". The mesh knows no {family} address or pods of {node}: what it sends to {to} all the same is dropped there"
        )
    })
}

fn hops(mesh: &Mesh, trace: &Trace, packet: Packet, answers: bool) -> Vec<Hop> {
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
        question: Question::of(step, packet, answers),
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
                Some(Ok(NodeWay {
                    kernel,
                    firewall,
                    packet,
                })) => {
                    hop.kernel = Some(kernel.to_string());
                    hop.differs = hop.planned.differs(kernel);
                    hop.firewall.clone_from(firewall);
                    if firewall.is_none() && !matches!(kernel, KernelWay::Nowhere { .. }) {
                        unknown.push(format!(
                            "what the firewall of {} does with it is not known: its agent is of an older version",
                            hop.node
                        ));
                    }
                    if packet.is_none() && self.packet.is_some() {
                        unknown.push(format!(
                            "what {} does by protocol and port is not known: its agent is of an older version",
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
        let packet = self.packet.as_ref().map(|packet| format!(", {packet}"));
        let mut text = format!("{} to {}{}\n", self.from, self.to, packet.unwrap_or_default());
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
