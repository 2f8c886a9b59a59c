//! From facts to the mesh.
//!
//! 1. Every node gets a location, every claim of a key or a network is judged.
//! 2. Members are put together, with the overlay addresses they had; of a pool that is not named by the user only while
//!    the cluster has its family.
//! 3. Every location elects its leaders, keeping incumbents. While no node that may lead is alive they stay: it is more
//!    likely that the way to the API server is cut than that all died, and without them it could never come back. A leader that
//!    is doubtful stays until another node is not. Roles move in stages: who takes over is connected before, and who is relieved stays connected for a while.
//!    A location that does not say how its followers and leaders hand packets to each other gets what suits its nodes.
//! 4. Pairs of locations whose leaders both report the link become established, and stay so when one has no node any more.
//! 5. Peers get a home, the one they had where it still serves.
//! 6. What differs from the decision before gets a new generation.
//!
//! Deciding again on the same facts changes nothing, generation included.

mod established;
mod handover;
mod hop;
mod kept;
mod limits;
mod members;
mod peers;
mod place;
mod requests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Candidate, Decision, Facts, Generation, HopMode, Leader, Leaving, Location, LocationFact, LocationName,
    Member, Mesh, MeshMode, NodeName, Prefix, Seats, Settings,
    claims::{self, ClaimantRef, Denied, Purpose},
    elect,
};
use handover::Standing;
use hop::Seen;
use kept::Kept;
use limits::{Limits, Ranges};
use members::MemberUpdate;
use place::{Placed, Places};
use requests::Stale;

/// Decides the mesh. `previous` is what was published last; it only makes the answer steady.
#[must_use]
pub fn decide(facts: &Facts, previous: &Mesh) -> Decision {
    let mut rejected = Vec::new();
    let kept = Kept::new(facts, previous);
    let cluster = &facts.cluster;
    let fallback = cluster.default_location.clone().unwrap_or_else(default_location);
    let places = place::place(&kept, previous, &fallback, &mut rejected);
    let objects: Vec<_> = places.locations.iter().map(|name| kept.location(name)).collect();
    let stale = Stale::new(&places.nodes);
    let keyless = claims::keys(&requests::keys(&kept, previous, &stale), &mut rejected);
    let ranges = Ranges::new(cluster, &places.nodes);
    let requests = requests::networks(&kept, previous, &stale, &ranges, &keyless);
    let limits = Limits::new(
        cluster,
        &ranges,
        &places.nodes,
        (&places.locations, &objects),
        &requests,
    );
    rejected.extend(limits::unusable(&places.locations, &objects));
    let denied = claims::networks(&requests, |request| limits.refusal(request), &mut rejected);
    let generation = later(previous);
    let members = members::members(
        cluster,
        &places.nodes,
        &objects,
        &keyless,
        &denied,
        generation,
        &mut rejected,
    );

    let (locations, leaving) = locations(&kept, previous, &places, &objects, &denied, members, cluster.hop);
    let mut mesh = Mesh {
        generation,
        locations,
        ..Mesh::default()
    };
    established::establish(facts, previous, &mut mesh);
    peers::attach(&kept, previous, &keyless, &denied, &mut mesh, &mut rejected);
    if same(&mesh, previous) {
        mesh.generation = previous.generation;
    }
    rejected.sort_unstable();
    rejected.dedup();
    Decision {
        mesh,
        rejected,
        leaving,
    }
}

fn default_location() -> LocationName {
    "default".parse().expect("it is a name of lower-case letters")
}

/// Returns the generation after everything in the mesh, also where the mesh was put together from several publications.
fn later(previous: &Mesh) -> Generation {
    let members = previous
        .locations
        .values()
        .flat_map(|location| location.members.values());
    let latest = members.map(|member| member.generation).max().unwrap_or_default();
    Generation(latest.max(previous.generation).0.saturating_add(1))
}

/// Returns whether nothing changed. Members that did not are shared with the decision before.
fn same(mesh: &Mesh, previous: &Mesh) -> bool {
    let head = |a: &Location, b: &Location| {
        let heads = a.leaders == b.leaders && a.settings == b.settings && a.established == b.established;
        heads && Arc::ptr_eq(&a.members, &b.members)
    };
    let mut pairs = mesh.locations.iter().zip(&previous.locations);
    mesh.locations.len() == previous.locations.len()
        && pairs.all(|((name, now), (other, before))| name == other && head(now, before))
        && mesh.peers == previous.peers
}

/// Returns every location with its settings, members and leaders, and which of these are about to leave. `hop` is what the source of
/// pod networks asks of those that name none.
fn locations<'a>(
    kept: &'a Kept<'_>,
    previous: &'a Mesh,
    places: &Places<'a>,
    objects: &[Option<&'a LocationFact>],
    denied: &Denied<'_>,
    members: Vec<MemberUpdate<'a>>,
    hop: HopMode,
) -> (BTreeMap<LocationName, Location>, BTreeMap<NodeName, Leaving>) {
    let named = places.locations.iter().zip(objects);
    let incumbents = |name: &LocationName| {
        previous
            .locations
            .get(name)
            .map_or(&[][..], |before| &before.leaders)
    };
    let site = |(name, fact): (&&'a LocationName, &Option<&'a LocationFact>)| {
        Site::new(name, *fact, incumbents(name))
    };
    let mut sites: Vec<Site<'_>> = named.map(site).collect();
    for (node, member) in places.nodes.iter().zip(members) {
        let site = &mut sites[node.site];
        let candidate = place::candidate(node, member.get(), site.fact, &site.incumbents);
        site.propose(node, candidate);
        site.seen.enter(node.fact);
        let by = ClaimantRef::Node(node.name);
        let granted = node
            .fact
            .cidrs
            .iter()
            .filter(|cidr| denied.granted(by, Purpose::Cidr, **cidr));
        site.cidrs.extend(granted.copied());
        site.members.push((node.name, member));
    }
    let mut leaving = BTreeMap::new();
    let location = |site: Site<'_>| {
        let by = ClaimantRef::Location(site.name);
        let named = site.fact.into_iter().flat_map(|fact| &fact.cidrs);
        let granted = named
            .filter(|cidr| denied.granted(by, Purpose::Cidr, **cidr))
            .copied();
        let before = previous.locations.get(site.name);
        let candidates = if site.candidates.is_empty() {
            &site.silent
        } else {
            &site.candidates
        };
        let mut settings = settings(site.fact, site.seen.hop(hop, before));
        settings.cidrs = site.cidrs.into_iter().chain(granted).collect();
        let members = together(site.members, before.map(|before| &before.members));
        let elected = elect(candidates, incumbents(site.name), seats(site.fact));
        let few =
            |before: &&Location| [&before.settings, &settings].map(|of| of.mode) == [MeshMode::Leaders; 2];
        let leaders = match before.filter(few) {
            Some(before) => {
                let standing = |node: &NodeName| standing(kept, &members, &site.candidates, node);
                let stage = handover::stage(&before.leaders, &elected, standing);
                leaving.extend(stage.leaving);
                stage.leaders
            }
            // Where every node leads itself each takes its own part alone.
            None => elected,
        };
        let location = Location {
            leaders,
            settings,
            established: BTreeSet::new(),
            members,
        };
        (site.name.clone(), location)
    };
    let locations = sites.into_iter().map(location).collect();
    (locations, leaving)
}

/// Returns how a node of a location stands as a leader; `None`: it is no node of it.
fn standing<'a>(
    kept: &'a Kept<'_>,
    members: &BTreeMap<NodeName, Member>,
    candidates: &[Candidate<'_>],
    node: &NodeName,
) -> Option<Standing<'a>> {
    let (member, fact) = (members.get(node)?, kept.node(node)?);
    let candidate = candidates.iter().find(|candidate| candidate.node == node);
    Some(Standing {
        links: &fact.links,
        serves: fact.alive && !fact.doubtful && !fact.released && member.public_key.is_some(),
        allowed: candidate.is_some(),
        preferred: candidate.is_some_and(|candidate| candidate.preferred),
    })
}

/// Returns the members of a location; those of the decision before themselves where none has come, changed or gone.
fn together(
    members: Vec<(&NodeName, MemberUpdate<'_>)>,
    before: Option<&Arc<BTreeMap<NodeName, Member>>>,
) -> Arc<BTreeMap<NodeName, Member>> {
    let stayed = members
        .iter()
        .all(|(_, member)| matches!(member, MemberUpdate::Same(_)));
    match before.filter(|before| stayed && before.len() == members.len()) {
        Some(before) => Arc::clone(before),
        None => {
            let members = members.into_iter();
            Arc::new(
                members
                    .map(|(node, member)| (node.clone(), member.into_member()))
                    .collect(),
            )
        }
    }
}

/// A location while it is put together.
struct Site<'a> {
    name: &'a LocationName,
    fact: Option<&'a LocationFact>,
    /// Its leaders in the decision before; with [`MeshMode::Nodes`] nearly all of its nodes.
    incumbents: BTreeSet<&'a NodeName>,
    /// Those that are alive.
    candidates: Vec<Candidate<'a>>,
    /// Incumbents that are not.
    silent: Vec<Candidate<'a>>,
    cidrs: Vec<Prefix>,
    /// By which the hop is chosen.
    seen: Seen,
    members: Vec<(&'a NodeName, MemberUpdate<'a>)>,
}

impl<'a> Site<'a> {
    fn new(name: &'a LocationName, fact: Option<&'a LocationFact>, incumbents: &'a [Leader]) -> Self {
        Self {
            name,
            fact,
            incumbents: incumbents.iter().map(|leader| &leader.node).collect(),
            candidates: Vec::new(),
            silent: Vec::new(),
            cidrs: Vec::new(),
            seen: Seen::default(),
            members: Vec::new(),
        }
    }

    fn propose(&mut self, node: &Placed<'a>, candidate: Option<Candidate<'a>>) {
        if node.fact.alive {
            self.candidates.extend(candidate);
        } else if self.incumbents.contains(node.name) {
            self.silent.extend(candidate);
        }
    }
}

fn settings(fact: Option<&LocationFact>, hop: HopMode) -> Settings {
    let Some(fact) = fact else {
        return Settings {
            hop,
            ..Settings::default()
        };
    };
    Settings {
        mode: fact.mode,
        endpoint: fact.endpoint.clone(),
        cidrs: BTreeSet::new(),
        masquerade: fact.masquerade,
        hop: fact.hop.unwrap_or(hop),
        keepalive: fact.keepalive,
    }
}

fn seats(fact: Option<&LocationFact>) -> Seats {
    fact.map_or(
        Seats {
            mode: MeshMode::Leaders,
            active: 1,
            standby: 1,
        },
        |fact| Seats {
            mode: fact.mode,
            active: fact.active,
            standby: fact.standby,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LeaderRole, NodeFact, NodeName, PublicKey, Reachability, Role, Via, plan};

    #[test]
    fn a_follower_sends_through_its_leader_once_the_locations_are_established() {
        let mut facts = facts();
        let first = decide(&facts, &Mesh::default());
        assert_eq!(first.rejected, []);
        let follower = follower(&first.mesh, "left");
        let remote = "10.244.3.0/24".parse().unwrap();
        assert!(
            !plan(&first.mesh, &follower, &Reachability::default())
                .routes
                .contains_key(&remote)
        );

        for node in facts.nodes.values_mut() {
            node.links = ["left", "right"]
                .map(|other| (other.parse().unwrap(), true))
                .into();
        }
        let second = decide(&facts, &first.mesh);
        let plan = plan(&second.mesh, &follower, &Reachability::default());
        assert_eq!(plan.role, Role::Follower);
        let route = &plan.routes[&remote];
        assert!(matches!(&route.via, Via::Hop { node, .. } if *node != follower));
        assert_eq!(decide(&facts, &second.mesh).mesh, second.mesh);
    }

    #[test]
    fn members_are_shared_with_the_decision_before_until_one_comes_changes_or_goes() {
        let facts = facts();
        let first = decide(&facts, &Mesh::default()).mesh;
        let shared = |facts: &Facts| {
            let next = decide(facts, &first).mesh;
            let same = ["left", "right"].map(|name| {
                let name: LocationName = name.parse().unwrap();
                Arc::ptr_eq(&next.locations[&name].members, &first.locations[&name].members)
            });
            (same, next.generation == first.generation)
        };
        assert_eq!(shared(&facts), ([true, true], true));
        let node: NodeName = "n1".parse().unwrap();

        let mut changed = facts.clone();
        changed.nodes.get_mut(&node).unwrap().keepalive = Some(crate::Keepalive(25));
        assert_eq!(shared(&changed), ([false, true], false));
        let mut gone = facts.clone();
        gone.nodes.remove(&node);
        assert_eq!(shared(&gone), ([false, true], false));
        let mut moved = facts.clone();
        moved.nodes.get_mut(&node).unwrap().region = Some("right".parse().unwrap());
        assert_eq!(shared(&moved), ([false, false], false));
        let mut come = facts;
        come.nodes.insert("n9".parse().unwrap(), NodeFact::default());
        assert_eq!(shared(&come), ([true, true], false));
    }

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.cluster.overlay.insert("10.4.0.0/16".parse().unwrap());
        for (index, location) in (1..).zip(["left", "left", "right", "right"]) {
            let node = NodeFact {
                region: Some(location.parse().unwrap()),
                addresses: [format!("192.168.0.{index}").parse().unwrap()].into(),
                prefixes: [format!("10.244.{index}.0/24").parse().unwrap()].into(),
                public_key: Some(PublicKey::new([index; 32])),
                alive: true,
                ..NodeFact::default()
            };
            facts.nodes.insert(format!("n{index}").parse().unwrap(), node);
        }
        for name in ["left", "right"] {
            facts
                .locations
                .insert(name.parse().unwrap(), LocationFact::default());
        }
        facts
    }

    fn follower(mesh: &Mesh, location: &str) -> NodeName {
        let location = &mesh.locations[&location.parse().unwrap()];
        assert_eq!(location.leaders.len(), 1);
        assert_eq!(location.leaders[0].role, LeaderRole::Active);
        let mut nodes = location.members.keys();
        nodes
            .find(|node| **node != location.leaders[0].node)
            .unwrap()
            .clone()
    }
}
