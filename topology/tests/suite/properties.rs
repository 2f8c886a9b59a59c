//! What holds for every cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use proptest::{collection::vec, prelude::*};
use spanwire_topology::{
    Claimant, Facts, Family, LocationName, Mesh, NodeFact, NodeName, PeerName, Prefix, PublicKey,
    Reachability, RejectReason, Severity, Via, carrier, decide, dot, lint, plan,
    trace::{Spot, Verdict, plans},
};

use crate::{
    arbitrary::{Stack, link, messy, sound, sound_of},
    expect::Expected,
    mixtures::coin,
    walk,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cluster_gives_a_sound_mesh(before in messy(), after in messy()) {
        let old = decide(&before, &Mesh::default());
        let new = decide(&after, &old.mesh);
        for decision in [&old, &new] {
            let errors = lint(&decision.mesh).into_iter().filter(|found| found.severity() == Severity::Error);
            prop_assert_eq!(errors.collect::<Vec<_>>(), vec![]);
        }
        let picture = dot(&new.mesh);
        let drawn = new.mesh.locations.values().map(|location| location.members.len()).sum::<usize>();
        prop_assert_eq!(picture.matches("[label=").count(), drawn + new.mesh.peers.len());
    }

    #[test]
    fn deciding_again_changes_nothing(before in messy(), after in messy()) {
        let old = decide(&before, &Mesh::default()).mesh;
        let new = decide(&after, &old);
        let again = decide(&after, &new.mesh);
        prop_assert_eq!(&again.mesh, &new.mesh);
        let changed = new.mesh.locations != old.locations || new.mesh.peers != old.peers;
        prop_assert_eq!(new.mesh.generation > old.generation, changed);
    }

    #[test]
    fn members_have_the_generation_that_changed_them(before in messy(), after in messy()) {
        let old = decide(&before, &Mesh::default()).mesh;
        let new = decide(&after, &old).mesh;
        for (name, location) in &new.locations {
            for (node, member) in location.members.iter() {
                let was = old.locations.get(name).and_then(|location| location.members.get(node));
                let kept = was.is_some_and(|was| was == member);
                prop_assert!(kept || member.generation == new.generation, "{} of {}", node, name);
            }
        }
    }

    #[test]
    fn a_newcomer_moves_no_leader_and_no_overlay_address(facts in sound(), at in 0_usize..4) {
        let mut facts = facts;
        for node in facts.nodes.values_mut() {
            (node.cordoned, node.doubtful) = (false, false);
        }
        let old = decide(&facts, &Mesh::default()).mesh;
        let place = ["berlin", "madrid", "paris", "atlantis"][at];
        let mut more = facts;
        let newcomer = NodeFact {
            region: Some(place.parse().unwrap()),
            public_key: Some(PublicKey::new([77; 32])),
            addresses: ["192.168.77.1".parse().unwrap()].into(),
            alive: true,
            ..NodeFact::default()
        };
        more.nodes.insert("a-newcomer".parse().unwrap(), newcomer);
        let new = decide(&more, &old).mesh;
        for (name, location) in &old.locations {
            // Where every node leads itself the newcomer does too; where a seat is free it takes it.
            let after = &new.locations[name].leaders;
            let old_ones: Vec<_> = after.iter().filter(|leader| leader.node.as_str() != "a-newcomer").collect();
            prop_assert_eq!(old_ones, location.leaders.iter().collect::<Vec<_>>());
        }
        let overlays = overlays(&new);
        for (node, overlay) in self::overlays(&old) {
            prop_assert_eq!(&overlays[&node], &overlay, "{}", node);
        }
    }

    #[test]
    fn every_rejection_of_a_taken_network_has_a_winner(before in messy(), after in messy()) {
        let old = decide(&before, &Mesh::default()).mesh;
        let decision = decide(&after, &old);
        for rejected in &decision.rejected {
            match &rejected.reason {
                RejectReason::Taken { holder, held } => {
                    prop_assert!(holds(&decision.mesh, &after, holder).contains(&held.to_string()), "{}", rejected);
                }
                RejectReason::KeyTaken(holder) => prop_assert!(has_key(&decision.mesh, holder), "{}", rejected),
                RejectReason::DefaultRoute
                | RejectReason::ApiServer(_)
                | RejectReason::OverlayPool(_)
                | RejectReason::Vast
                | RejectReason::VastTogether
                | RejectReason::NotControlPlane(..)
                | RejectReason::Services(_)
                | RejectReason::NodeInServices(..)
                | RejectReason::PodRange(..)
                | RejectReason::PeerInPodRange(_)
                | RejectReason::Pods(..)
                | RejectReason::NotOfLocation(_)
                | RejectReason::NodeOfOther(..)
                | RejectReason::Former(..)
                | RejectReason::Embedded(_)
                | RejectReason::NotPrivate(..)
                | RejectReason::ServedEverywhere(..)
                | RejectReason::NotRoutable
                | RejectReason::SelectorClash(_)
                | RejectReason::PoolExhausted(_)
                | RejectReason::NoSuchLocation => {}
            }
        }
    }

    #[test]
    fn what_stands_is_not_taken_away(before in messy(), after in messy()) {
        let old = decide(&before, &Mesh::default()).mesh;
        let mut merged = before.clone();
        for (name, node) in after.nodes {
            merged.nodes.entry(name).or_insert(node);
        }
        merged.peers.extend(after.peers.into_iter().filter(|(name, _)| !before.peers.contains_key(name)));
        // What a node says of itself goes behind pod networks that are handed out.
        let pods: Vec<Prefix> = merged.nodes.values().flat_map(|node| &node.prefixes).copied().collect();
        let new = decide(&merged, &old).mesh;
        for (name, location) in &old.locations {
            for (node, member) in location.members.iter() {
                let after = &new.locations[name].members[node];
                prop_assert!(after.prefixes.is_superset(&member.prefixes), "{}", node);
                for address in &member.addresses {
                    let of_pods = pods.iter().any(|pods| pods.contains(*address));
                    prop_assert!(of_pods || after.addresses.contains(address), "{}: {}", node, address);
                }
                prop_assert!(member.public_key.is_none() || after.public_key == member.public_key, "{}", node);
            }
        }
    }

    #[test]
    fn who_goes_takes_nothing_from_who_stays(
        facts in sound(),
        among_pods in vec(any::<bool>(), 12),
        stays in vec(any::<bool>(), 12),
    ) {
        let mut facts = facts;
        // Some of them have a LAN beside the pod networks.
        for (index, (node, _)) in (1..).zip(facts.nodes.values_mut().zip(among_pods).filter(|(_, lan)| *lan)) {
            node.addresses = [Ipv4Addr::new(10, 244, 200, index).into()].into();
        }
        let old = decide(&facts, &Mesh::default()).mesh;
        let mut fewer = facts;
        let mut stays = stays.into_iter();
        fewer.nodes.retain(|_, _| stays.next().unwrap_or(true));
        let new = decide(&fewer, &old).mesh;
        for (name, location) in &old.locations {
            for (node, member) in location.members.iter().filter(|(node, _)| fewer.nodes.contains_key(*node)) {
                let after = &new.locations[name].members[node];
                prop_assert!(after.prefixes.is_superset(&member.prefixes), "{}", node);
                prop_assert!(after.addresses.is_superset(&member.addresses), "{}", node);
            }
        }
    }

    #[test]
    fn every_member_has_a_carrier_where_anybody_leads(facts in messy()) {
        let mesh = decide(&facts, &Mesh::default()).mesh;
        for location in mesh.locations.values() {
            let active: BTreeSet<&NodeName> = location.active().collect();
            for node in location.members.keys() {
                let carrier = carrier(location, node);
                prop_assert_eq!(carrier.is_some(), !active.is_empty());
                prop_assert!(carrier.is_none_or(|carrier| active.contains(carrier)));
                prop_assert!(!active.contains(node) || carrier == Some(node));
            }
        }
    }

    #[test]
    fn no_prefix_stands_with_two_parties(before in messy(), after in messy()) {
        let old = decide(&before, &Mesh::default()).mesh;
        let mesh = decide(&after, &old).mesh;
        for node in after.nodes.keys() {
            let Some(tunnel) = plan(&mesh, node, &Reachability::default()).tunnel else { continue };
            let all: Vec<_> = tunnel.peers.values().flat_map(|peer| &peer.allowed_ips).collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }

    #[test]
    fn packets_arrive_where_the_design_says(facts in sound(), links in any::<bool>()) {
        let mut facts = facts;
        if links {
            link(&mut facts);
        }
        let mesh = decide(&facts, &Mesh::default()).mesh;
        judge(&mesh, walk::pairs(&mesh))?;
    }

    #[test]
    fn where_no_node_has_ipv6_no_plan_has_any(
        facts in sound_of(vec![Stack::V4; 12]),
        before in sound(),
        links in any::<bool>(),
    ) {
        let mut facts = facts;
        if links {
            link(&mut facts);
        }
        let mesh = decide(&facts, &decide(&before, &Mesh::default()).mesh).mesh;
        for node in facts.nodes.keys() {
            let plan = plan(&mesh, node, &Reachability::default());
            prop_assert!(!plan.to_string().contains("::"), "{}", plan);
        }
    }

    #[test]
    fn a_follower_routes_what_it_has_a_part_in(facts in sound()) {
        let mut facts = facts;
        link(&mut facts);
        let mesh = decide(&facts, &Mesh::default()).mesh;
        for (node, fact) in &facts.nodes {
            let plan = plan(&mesh, node, &Reachability::default());
            let own: BTreeSet<Family> = fact.addresses.iter().map(|address| Family::of(*address)).collect();
            let routed = plan.routes.keys().chain(&plan.local).map(Prefix::family).collect::<BTreeSet<_>>();
            prop_assert!(plan.tunnel.is_some() || routed.is_subset(&own), "{}", plan);
            let hops = plan.routes.iter().filter(|(_, route)| matches!(route.via, Via::Hop { .. }));
            let hops = hops.map(|(prefix, _)| prefix.family()).chain(plan.returns.keys().map(Prefix::family));
            prop_assert!(hops.collect::<BTreeSet<_>>().is_subset(&own), "{}", plan);
        }
    }

    #[test]
    fn overlay_addresses_come_with_a_family_and_come_back_as_they_were(facts in sound()) {
        let both = decide(&facts, &Mesh::default()).mesh;
        let mut single = facts.clone();
        for node in single.nodes.values_mut() {
            node.addresses.retain(IpAddr::is_ipv4);
            node.prefixes.retain(|prefix| prefix.family() == Family::V4);
        }
        let v6 = |mesh: &Mesh| {
            let mut members = mesh.locations.values().flat_map(|location| location.members.values());
            members.any(|member| member.overlay.iter().any(IpAddr::is_ipv6))
        };
        let had = facts.nodes.values().any(|node| node.addresses.iter().any(IpAddr::is_ipv6));
        prop_assert_eq!(v6(&both), had);
        let without = decide(&single, &both).mesh;
        prop_assert!(!v6(&without));
        prop_assert_eq!(overlays(&decide(&facts, &without).mesh), overlays(&both));
    }

    #[test]
    fn whichever_leaders_followers_find_usable_packets_arrive(facts in sound(), seed in any::<u64>()) {
        let mut facts = facts;
        link(&mut facts);
        let mesh = decide(&facts, &Mesh::default()).mesh;
        let mut plans = plans(&mesh);
        for location in mesh.locations.values() {
            let followers = location.members.keys().filter(|node| location.role(node).is_none());
            for node in followers {
                let mut seen = Reachability::default();
                for (leader, other) in location.leaders.iter().flat_map(|leader| {
                    mesh.locations.keys().map(move |other| (&leader.node, other))
                }) {
                    let arrives = coin(seed, &format!("{node} through {leader} to {other}"));
                    seen.observe(leader.clone(), other.clone(), arrives);
                }
                plans.insert(node.clone(), plan(&mesh, node, &seen));
            }
        }
        judge(&mesh, walk::pairs_by(&mesh, &plans))?;
    }

    #[test]
    fn packets_arrive_also_after_any_change(before in sound(), after in sound()) {
        let (mut before, mut after) = (before, after);
        link(&mut before);
        link(&mut after);
        let old = decide(&before, &Mesh::default()).mesh;
        let mesh = decide(&after, &old).mesh;
        judge(&mesh, walk::pairs(&mesh))?;
    }
}

pub(crate) fn judge(mesh: &Mesh, pairs: Vec<(Spot, Spot, Expected, Verdict)>) -> Result<(), TestCaseError> {
    for (from, to, expected, outcome) in pairs {
        prop_assert!(
            expected.met(&outcome),
            "{} to {}: {:?}, but {:?}\n{}",
            from,
            to,
            expected,
            outcome,
            mesh
        );
        prop_assert!(!matches!(outcome, Verdict::Loop | Verdict::Misdelivered(..)));
    }
    Ok(())
}

fn overlays(mesh: &Mesh) -> BTreeMap<NodeName, String> {
    let members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.iter());
    members
        .map(|(node, member)| (node.clone(), format!("{:?}", member.overlay)))
        .collect()
}

/// Returns the networks that a claimant has.
fn holds(mesh: &Mesh, facts: &Facts, holder: &Claimant) -> BTreeSet<String> {
    let cidrs = |name: &LocationName| {
        let location = mesh.locations.get(name).into_iter();
        location.flat_map(|location| location.settings.cidrs.iter().map(ToString::to_string))
    };
    match holder {
        Claimant::Location(name) => cidrs(name).collect(),
        Claimant::Peer(name) => {
            let peer: &PeerName = name;
            mesh.peers[peer]
                .allowed_ips
                .iter()
                .map(ToString::to_string)
                .collect()
        }
        Claimant::Node(node) => {
            assert!(facts.nodes.contains_key(node));
            let mut homes = mesh.locations.iter();
            let (name, location) = homes
                .find(|(_, location)| location.members.contains_key(node))
                .unwrap();
            let member = &location.members[node];
            let addresses = member.addresses.iter().map(|address| format!("{address}/32"));
            let prefixes = member.prefixes.iter().map(ToString::to_string);
            addresses.chain(prefixes).chain(cidrs(name)).collect()
        }
    }
}

fn has_key(mesh: &Mesh, holder: &Claimant) -> bool {
    match holder {
        Claimant::Peer(name) => mesh.peers.contains_key(name),
        Claimant::Node(node) => {
            let mut members = mesh
                .locations
                .values()
                .filter_map(|location| location.members.get(node));
            members.any(|member| member.public_key.is_some())
        }
        Claimant::Location(_) => false,
    }
}
