//! Conditions, and Events for what was not granted.

mod connected;
mod leases;
mod networks;
mod peers;

use std::collections::{BTreeMap, BTreeSet};

use spanwire_crds::{
    LocationStatus,
    annotations::{INTERNAL_IP, LOCATION_CIDRS},
    conditions::{ConditionType, Finding, Reason, conditions},
    translate::{
        FelixConfiguration,
        networks::{IpamBlock, object_kind},
    },
};
use spanwire_topology::{
    Claim, Claimant, Decision, Location, LocationName, MeshMode, NodeName, PodSource, Prefix, Rejected,
};

use super::{Now, OperatorState, records::VALUES};
use crate::batch::{Notice, Write};

/// How many problems a condition names; a person reads no more.
const NAMED: usize = 8;
/// How many leaders a status names: with `mesh: Nodes` there are as many as nodes.
const LEADERS: usize = 16;
/// The longest note of an Event that the API server takes is 1024 bytes.
const LONGEST_NOTE: usize = 1000;

/// What was not granted, and what could not be read, by whose object it is: one for each field.
pub(super) type Problems = BTreeMap<Claimant, OfObject>;
/// Those of one object, by reason and field.
type OfObject = BTreeMap<(Reason, String), Problem>;

/// What is wrong with a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    /// Some texts, each about one of its values.
    texts: BTreeSet<String>,
    /// How many more there are.
    more: usize,
}

impl Problem {
    fn add(&mut self, text: String) {
        self.texts.insert(text);
        if self.texts.len() > VALUES {
            self.texts.pop_last();
            self.more += 1;
        }
    }

    /// Returns what people read.
    fn text(&self) -> String {
        let mut text: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let more = format!("and {} more", self.more);
        text.extend((self.more > 0).then_some(more.as_str()));
        text.join("; ")
    }
}

impl OperatorState {
    pub(super) fn problems(&self, decision: &Decision) -> Problems {
        let mut all = Problems::new();
        let mut add = |claimant: Claimant, reason: Reason, field: String, text: String| {
            let of_claimant = all.entry(claimant).or_default();
            of_claimant.entry((reason, field)).or_default().add(text);
        };
        for name in &self.faulty {
            let of_node = self.nodes.get(name).map(|record| &record.problems);
            let of_report = self.mesh_nodes.get(name).map(|record| &record.problems);
            for problem in of_node.into_iter().chain(of_report).flatten() {
                let text = format!("node {name}: {problem}");
                let claimant = Claimant::Node(name.clone());
                add(claimant, Reason::InvalidField, problem.field.clone(), text);
            }
        }
        for (name, problem) in self.networks.excess() {
            let field = networks::field(self.networks.counts().0).to_owned();
            let text = format!("node {name}: {problem}");
            add(Claimant::Node(name.clone()), Reason::InvalidField, field, text);
        }
        for (name, record) in self.locations.objects() {
            for problem in &record.problems {
                let text = format!("location {name}: {problem}");
                let claimant = Claimant::Location(name.clone());
                add(claimant, Reason::InvalidField, problem.field.clone(), text);
            }
        }
        for (name, record) in self.peers.objects() {
            for problem in &record.problems {
                let text = format!("peer {name}: {problem}");
                let claimant = Claimant::Peer(name.clone());
                add(claimant, Reason::InvalidField, problem.field.clone(), text);
            }
        }
        for rejected in &decision.rejected {
            let (field, text) = self.refused(rejected);
            add(rejected.by.clone(), Reason::ClaimRejected, field, text);
        }
        all
    }

    /// Returns the field that the claim stands in, and a text with the object, the field, the value and what to do.
    fn refused(&self, rejected: &Rejected) -> (String, String) {
        let (by, reason) = (&rejected.by, &rejected.reason);
        let (field, value) = match (by, &rejected.claim) {
            (Claimant::Node(node), Claim::Cidr(cidr)) => {
                let key = self.nodes.get(node).map_or(LOCATION_CIDRS, |node| node.cidrs_key);
                (format!("annotation {key}"), cidr.to_string())
            }
            (_, Claim::Cidr(cidr)) => ("spec.cidrs".to_owned(), cidr.to_string()),
            (Claimant::Node(node), Claim::PodPrefix(prefix)) if self.has_borrowed(node, prefix) => {
                ("spec.allocations of an IPAMBlock".to_owned(), prefix.to_string())
            }
            (_, Claim::PodPrefix(prefix)) => {
                let source = self.networks.counts().0;
                (networks::field(source).to_owned(), prefix.to_string())
            }
            (Claimant::Node(node), Claim::NodeAddress(address)) if self.annotated(node) => {
                let key = self.nodes.get(node).map_or(INTERNAL_IP, |node| node.internal_key);
                (format!("annotation {key}"), address.to_string())
            }
            (_, Claim::NodeAddress(address)) => ("status.addresses".to_owned(), address.to_string()),
            (_, Claim::NodeCidr(network)) => ("spec.nodeCIDRs".to_owned(), network.to_string()),
            (_, Claim::AllowedIp(prefix)) => ("spec.allowedIPs".to_owned(), prefix.to_string()),
            (Claimant::Peer(_), Claim::PublicKey(key)) => ("spec.publicKey".to_owned(), key.to_string()),
            (_, Claim::PublicKey(key)) => ("status.publicKey of its MeshNode".to_owned(), key.to_string()),
            (_, Claim::Location(location)) => ("spec.location".to_owned(), location.to_string()),
            (_, claim @ (Claim::Selector(_) | Claim::Overlay(_))) => {
                let text = claim.to_string();
                let said = format!("{by}: {text}: {reason}");
                return (text, said);
            }
        };
        let text = format!("{by}: {field}: {value}: {reason}");
        (field, text)
    }

    /// Returns whether a node has an address out of a block of another node.
    fn has_borrowed(&self, node: &NodeName, prefix: &Prefix) -> bool {
        let fact = self.facts.nodes.get(node);
        prefix.is_host() && fact.is_some_and(|fact| fact.borrowed.contains(&prefix.address()))
    }

    /// Returns whether the addresses of a node are those of its annotation.
    fn annotated(&self, node: &NodeName) -> bool {
        self.facts.nodes.get(node).is_some_and(|fact| fact.annotated)
    }

    /// Everything that is wrong, for Events: one for each field of an object, also where several things are wrong there.
    pub(super) fn notices(&self, problems: Problems) -> Vec<Notice> {
        let of_claimants = problems.into_iter().flat_map(|(claimant, problems)| {
            let notice = move |((reason, field), problem): ((Reason, String), Problem)| {
                self.notice(&claimant, reason, field, problem.text())
            };
            problems.into_iter().filter_map(notice)
        });
        by_field(of_claimants.chain(self.unreadable_notices()))
    }

    /// Of objects of which nothing can be read.
    fn unreadable_notices(&self) -> impl Iterator<Item = Notice> {
        const OURS: &str = spanwire_crds::names::API_VERSION;
        let kinds = [
            ("v1", "Node"),
            (OURS, "Location"),
            (OURS, "Peer"),
            (OURS, "LocationSlice"),
            object_kind(PodSource::Calico),
            IpamBlock::OBJECT_KIND,
            object_kind(PodSource::Cilium),
            FelixConfiguration::OBJECT_KIND,
        ];
        let of_kind = move |(api_version, kind): (&'static str, &'static str)| {
            let faults = self.unreadable.of(kind);
            faults.flat_map(move |(name, fault)| {
                fault.problems.iter().map(move |problem| Notice {
                    api_version,
                    kind,
                    name: name.clone(),
                    uid: fault.uid.clone(),
                    reason: Reason::InvalidField.as_str(),
                    field: problem.field.clone(),
                    note: format!("{kind} {name}: {problem}; {}", fault.follows()),
                })
            })
        };
        // An Event lies in the namespace of its object, and these are written where those of Nodes and namespaces are.
        let pods = self.unreadable.of("Pod").flat_map(|(name, fault)| {
            let namespace = name
                .split_once('/')
                .map_or(name.as_str(), |(namespace, _)| namespace);
            fault.problems.iter().map(move |problem| Notice {
                api_version: "v1",
                kind: "Namespace",
                name: namespace.to_owned(),
                uid: String::new(),
                reason: Reason::InvalidField.as_str(),
                field: format!("Pod {name} {}", problem.field),
                note: format!("Pod {name}: {problem}; {}", fault.follows()),
            })
        });
        let leases = self.unreadable.of("Lease").filter_map(|(name, fault)| {
            let node = spanwire_crds::names::node_of_lease(name)?;
            let problem = fault.problems.first()?;
            let text = format!("node {node}: its Lease {name}: {problem}; it does not count as renewed");
            let claimant = Claimant::Node(node);
            self.notice(
                &claimant,
                Reason::InvalidField,
                format!("Lease {}", problem.field),
                text,
            )
        });
        kinds.into_iter().flat_map(of_kind).chain(pods).chain(leases)
    }

    fn notice(&self, claimant: &Claimant, reason: Reason, field: String, text: String) -> Option<Notice> {
        const OURS: &str = spanwire_crds::names::API_VERSION;
        let (api_version, kind, name, uid) = match claimant {
            Claimant::Node(name) => ("v1", "Node", name.as_str(), &self.nodes.get(name)?.uid),
            Claimant::Location(name) => (
                OURS,
                "Location",
                name.as_str(),
                &self.locations.get(name)?.revision.uid,
            ),
            Claimant::Peer(name) => (OURS, "Peer", name.as_str(), &self.peers.get(name)?.revision.uid),
        };
        Some(Notice {
            api_version,
            kind,
            name: name.to_owned(),
            uid: uid.clone(),
            reason: reason.as_str(),
            field,
            note: text,
        })
    }

    /// The writes of statuses of Locations that are not as they are to be.
    pub(super) fn location_status_writes(
        &mut self,
        decision: &Decision,
        problems: &Problems,
        now: Now,
    ) -> Vec<Write> {
        let of_members = self.problems_of_members(problems);
        let nothing = Location::default();
        let degraded = self.degraded_members();
        let unanswered = self.unanswered_leaders(decision);
        let hindered = self.leaders_hindered_by_felix(decision);
        let mistaken = self.mistaken_members();
        let unrenewed = self.unrenewed();
        let avoided = self.avoided_by_location();
        let (mut statuses, mut writes) = (BTreeMap::new(), Vec::new());
        for (name, record) in self.locations.objects() {
            let location = decision.mesh.locations.get(name).unwrap_or(&nothing);
            if record.disposable && location.members.is_empty() {
                continue; // it is about to be deleted
            }
            let own = problems.get(&Claimant::Location(name.clone())).into_iter();
            let of_members = of_members.get(name).into_iter().flatten().copied();
            let accepted = accepted_finding(own.chain(of_members).flatten());
            let elected = self.elected(location);
            let mut degraded = degraded.get(name).cloned().unwrap_or_default();
            degraded.extend(hindered.get(name).into_iter().flatten().copied());
            degraded.extend(mistaken.get(name).into_iter().flatten().copied());
            let avoided = avoided.get(name).map_or(&[][..], Vec::as_slice);
            let connected = self.connected(name, location, &decision.mesh, avoided);
            let connected = through_leaders(connected, location, &degraded);
            degraded.extend(unanswered.get(name).into_iter().flatten().copied());
            let mut findings = vec![
                ready(&elected, &connected, &degraded),
                elected,
                connected,
                accepted,
                self.pod_networks(name, location),
            ];
            findings.extend(unrenewed.get(name).map(|unrenewed| self.lease_renewed(unrenewed)));
            let previous = record.status.as_ref();
            let previous = previous.map_or(&[][..], |status| &status.conditions);
            let generation = record.revision.generation;
            let leaders = location.leaders.iter().take(LEADERS);
            let status = LocationStatus {
                leaders: leaders.map(|leader| leader.node.to_string()).collect(),
                endpoint: self.reached_at(location),
                nodes: u32::try_from(location.members.len()).unwrap_or(u32::MAX),
                established: location.established.iter().map(ToString::to_string).collect(),
                conditions: conditions(findings, previous, generation, now.wall),
            };
            if record.status.as_ref() != Some(&status) {
                writes.push(Write::LocationStatus {
                    name: name.to_string(),
                    version: Some(record.revision.version()),
                    status: status.clone(),
                });
            }
            statuses.insert(name.clone(), status);
        }
        self.location_statuses = statuses;
        writes
    }

    /// Whether a node is alive, as far as its kubelet and its Lease tell.
    pub(super) fn is_alive(&self, node: &NodeName) -> bool {
        let known = self.nodes.get(node);
        known.is_some_and(|record| self.liveness.alive(node, record.ready))
    }

    /// The nodes of each location whose agents say that packets may be lost there. What a node that is not alive said last is
    /// no news of it.
    fn degraded_members(&self) -> BTreeMap<LocationName, Vec<Degraded<'_>>> {
        let mut of_locations: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for node in &self.degraded {
            let record = self.mesh_nodes.get(node).filter(|_| self.is_alive(node));
            let cause = record.and_then(|record| record.report.degraded.as_deref());
            if let (Some(cause), Some(location)) = (cause, self.assignments.home(node)) {
                of_locations
                    .entry(location.clone())
                    .or_default()
                    .push((node, cause));
            }
        }
        for (node, silence) in self.mute.lasting() {
            if let Some(location) = self.assignments.home(node) {
                of_locations
                    .entry(location.clone())
                    .or_default()
                    .push((node, silence.text()));
            }
        }
        of_locations
    }

    /// The leaders of each location that a member of it, or of another one, does not answer, with what follows for each such member. One
    /// that is not alive answers nothing, and then its Node says so.
    fn unanswered_leaders(&self, decision: &Decision) -> BTreeMap<LocationName, Vec<Degraded<'_>>> {
        let mut of_locations: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for node in self.unanswered.iter().filter(|node| self.is_alive(node)) {
            let (Some(record), Some(name)) = (self.mesh_nodes.get(node), self.assignments.home(node)) else {
                continue;
            };
            let Some(location) = decision.mesh.locations.get(name) else {
                continue;
            };
            if location.role(node).is_none() {
                continue;
            }
            let silent = record.report.silent.iter();
            let silent =
                silent.filter(|(member, _)| self.assignments.home(member).is_some() && self.is_alive(member));
            // Those of another location behind the same leader have one cause.
            let mut causes: Vec<&str> = silent.map(|(_, cause)| cause.as_str()).collect();
            causes.sort_unstable();
            causes.dedup();
            let causes = causes.into_iter().map(|cause| (node, cause));
            of_locations.entry(name.clone()).or_default().extend(causes);
        }
        of_locations
    }

    /// The problems of the members of each location.
    fn problems_of_members<'a>(&self, problems: &'a Problems) -> BTreeMap<LocationName, Vec<&'a OfObject>> {
        let mut of_members: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (claimant, problems) in problems {
            if let Claimant::Node(node) = claimant
                && let Some(location) = self.assignments.home(node)
            {
                of_members.entry(location.clone()).or_default().push(problems);
            }
        }
        of_members
    }

    fn elected(&self, location: &Location) -> Finding {
        let (holds, reason, message) = if location.members.is_empty() {
            let remedy = "annotate nodes with spanwire.dev/location, or name them with nodeSelector";
            (false, Reason::NoNode, format!("no node is here; {remedy}"))
        } else if location.leaders.is_empty() {
            (false, Reason::NoCandidate, self.why_no_leader(location))
        } else if location.settings.mode == MeshMode::Nodes {
            (
                true,
                Reason::Elected,
                format!("{} nodes lead themselves", location.leaders.len()),
            )
        } else {
            let leader = |leader: &spanwire_topology::Leader| match leader.role {
                spanwire_topology::LeaderRole::Active => leader.node.to_string(),
                spanwire_topology::LeaderRole::Standby => format!("{} stands by", leader.node),
            };
            let leaders: Vec<String> = location.leaders.iter().take(LEADERS).map(leader).collect();
            let resting = self.resting(|node| location.members.contains_key(node));
            let resting = resting.into_iter().take(NAMED);
            let texts: Vec<String> = std::iter::once(leaders.join(", ")).chain(resting).collect();
            (true, Reason::Elected, texts.join("; "))
        };
        finding(ConditionType::LeaderElected, holds, reason, message)
    }

    /// Returns where the first active leader is reached from outside, best first: what a user named, or a public address.
    /// At a private one only those get an answer who are in its network.
    fn reached_at(&self, location: &Location) -> Option<String> {
        let leader = location.active().next()?;
        let fact = self.facts.nodes.get(leader);
        let named = fact.is_some_and(|fact| !fact.endpoints.is_empty());
        let own = &location.members.get(leader)?.endpoints;
        let outside = own.iter().find(|endpoint| named || endpoint.is_public());
        let endpoint = location.settings.endpoint.as_ref().or(outside);
        endpoint.map(ToString::to_string)
    }

    fn why_no_leader(&self, location: &Location) -> String {
        let (mut silent, mut dead) = (0, 0);
        for (node, member) in location.members.iter() {
            let ready = self.nodes.get(node).is_some_and(|record| record.ready);
            silent += usize::from(member.public_key.is_none());
            dead += usize::from(member.public_key.is_some() && !self.liveness.alive(node, ready));
        }
        let all = location.members.len();
        format!(
            "none of {all} nodes can lead: {silent} have no key from their agent (does it run there?), {dead} are not \
             ready, the others may not lead (spanwire.dev/leader: \"false\", leaders.nodeSelector) or know no way to \
             connect (give one spanwire.dev/endpoint or spanwire.dev/persistent-keepalive)"
        )
    }
}

/// Joins what is said of the same field of an object, under the reason that comes first, and shortens it to what an Event takes.
fn by_field(notices: impl Iterator<Item = Notice>) -> Vec<Notice> {
    let mut fields = BTreeMap::new();
    let mut joined: Vec<Notice> = Vec::new();
    for notice in notices {
        let key = (notice.kind, notice.name.clone(), notice.field.clone());
        let place = *fields.entry(key).or_insert(joined.len());
        match joined.get_mut(place) {
            Some(known) => {
                known.note.push_str("; ");
                known.note.push_str(&notice.note);
            }
            None => joined.push(notice),
        }
    }
    for notice in &mut joined {
        notice.note = shortened(std::mem::take(&mut notice.note));
    }
    joined
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let end = (0..=LONGEST_NOTE).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or_default());
        note.push('…');
    }
    note
}

fn finding(about: ConditionType, holds: bool, reason: Reason, message: String) -> Finding {
    Finding {
        about,
        holds,
        reason,
        message,
    }
}

/// A node, and what its agent cannot do.
pub(super) type Degraded<'a> = (&'a NodeName, &'a str);

/// A tunnel that is up carries nothing where its leader drops what goes through it. With `mesh: Nodes` all of thousands of
/// nodes may lead and be degraded.
fn through_leaders(connected: Finding, location: &Location, degraded: &[Degraded<'_>]) -> Finding {
    if !connected.holds || connected.reason == Reason::NothingToConnect || degraded.is_empty() {
        return connected;
    }
    let active: BTreeSet<&NodeName> = location.active().collect();
    let leads = |(node, _): &&Degraded<'_>| active.contains(node);
    let leaders: Vec<Degraded<'_>> = degraded.iter().filter(leads).copied().collect();
    if leaders.is_empty() {
        return connected;
    }
    finding(connected.about, false, Reason::Degraded, nodes(&leaders))
}

/// Returns the nodes with what they cannot do.
fn nodes(degraded: &[Degraded<'_>]) -> String {
    let text = |(node, cause): &Degraded<'_>| format!("node {node}: {cause}");
    let mut texts: Vec<String> = degraded.iter().take(NAMED).map(text).collect();
    if degraded.len() > NAMED {
        texts.push(format!("and {} more nodes", degraded.len() - NAMED));
    }
    texts.join("; ")
}

fn ready(elected: &Finding, connected: &Finding, degraded: &[Degraded<'_>]) -> Finding {
    if elected.holds && connected.holds {
        return match degraded {
            [] => finding(ConditionType::Ready, true, Reason::AllWell, String::new()),
            degraded => finding(ConditionType::Ready, false, Reason::Degraded, nodes(degraded)),
        };
    }
    let because = if elected.holds { connected } else { elected };
    finding(
        ConditionType::Ready,
        false,
        Reason::NotYet,
        because.message.clone(),
    )
}

pub(super) fn accepted_finding<'a>(
    problems: impl Iterator<Item = (&'a (Reason, String), &'a Problem)>,
) -> Finding {
    let about = ConditionType::Accepted;
    let problems: Vec<(&(Reason, String), &Problem)> = problems.collect();
    let Some(((reason, _), _)) = problems.first() else {
        return finding(about, true, Reason::AllAccepted, String::new());
    };
    let mut texts: Vec<String> = problems
        .iter()
        .take(NAMED)
        .map(|(_, problem)| problem.text())
        .collect();
    if problems.len() > NAMED {
        texts.push(format!("and {} more", problems.len() - NAMED));
    }
    finding(about, false, *reason, texts.join("; "))
}

fn list(names: &[&LocationName]) -> String {
    let mut texts: Vec<String> = names.iter().take(NAMED).map(ToString::to_string).collect();
    if names.len() > NAMED {
        texts.push(format!("{} more", names.len() - NAMED));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use spanwire_topology::{Leader, LeaderRole};

    use super::*;

    #[test]
    fn thousands_of_degraded_leaders_cost_no_more_than_each_once() {
        let names: Vec<NodeName> = (0..20_000)
            .map(|number| format!("n{number:05}").parse().unwrap())
            .collect();
        let leader = |node: &NodeName| Leader {
            node: node.clone(),
            role: LeaderRole::Active,
        };
        let location = Location {
            leaders: names.iter().map(leader).collect(),
            ..Location::default()
        };
        let degraded: Vec<Degraded<'_>> = names.iter().map(|node| (node, "drops")).collect();
        let connected = || {
            finding(
                ConditionType::Connected,
                true,
                Reason::AllConnected,
                String::new(),
            )
        };
        let start = Instant::now();
        let found = through_leaders(connected(), &location, &degraded);
        // Milliseconds; to look for each among all took 7 seconds in a debug build.
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!((found.holds, found.reason), (false, Reason::Degraded));
        assert!(
            found.message.ends_with("and 19992 more nodes"),
            "{}",
            found.message
        );
        let follower = "f".parse().unwrap();
        assert!(through_leaders(connected(), &location, &[(&follower, "drops")]).holds);
    }
}
