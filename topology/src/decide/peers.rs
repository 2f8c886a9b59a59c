//! Where Peers attach, and through which location the others reach them.

use std::collections::BTreeSet;

use super::kept::Kept;
use crate::{
    Claim, Claimant, LocationName, Mesh, Peer, PeerFact, PeerName, RejectReason, Rejected,
    claims::{ClaimantRef, Denied, Purpose},
};

/// Puts every Peer that has its key into the mesh.
pub(super) fn attach(
    facts: &Kept<'_>,
    previous: &Mesh,
    keyless: &BTreeSet<ClaimantRef<'_>>,
    denied: &Denied<'_>,
    mesh: &mut Mesh,
    rejected: &mut Vec<Rejected>,
) {
    let open = open_locations(facts, mesh);
    for (name, fact) in facts.peers() {
        let by = ClaimantRef::Peer(name);
        let Some(public_key) = fact.key().filter(|_| !keyless.contains(&by)) else {
            continue;
        };
        let attachments = attachments(name, fact, &open, mesh, rejected);
        let incumbent = previous.peers.get(name).and_then(|before| before.home.as_ref());
        let granted = fact
            .allowed_ips
            .iter()
            .filter(|prefix| denied.granted(by, Purpose::AllowedIp, **prefix));
        let peer = Peer {
            public_key,
            allowed_ips: granted.copied().collect(),
            endpoint: fact.endpoint.clone(),
            keepalive: fact.keepalive,
            preshared: fact.preshared.clone(),
            home: home(incumbent, &attachments, mesh),
            attachments,
        };
        mesh.peers.insert(name.clone(), peer);
    }
}

/// Returns the locations whose first active leader anyone can reach.
fn open_locations(facts: &Kept<'_>, mesh: &Mesh) -> BTreeSet<LocationName> {
    let open = mesh.locations.iter().filter(|(_, location)| {
        let first = location.active().next().and_then(|leader| facts.node(leader));
        let reachable =
            |leader: &crate::NodeFact| !leader.endpoints.is_empty() || !leader.external.is_empty();
        first.is_some_and(|leader| location.settings.endpoint.is_some() || reachable(leader))
    });
    open.map(|(name, _)| name.clone()).collect()
}

fn attachments(
    name: &PeerName,
    fact: &PeerFact,
    open: &BTreeSet<LocationName>,
    mesh: &Mesh,
    rejected: &mut Vec<Rejected>,
) -> BTreeSet<LocationName> {
    match &fact.location {
        None => open.clone(),
        Some(location) if mesh.locations.contains_key(location) => BTreeSet::from([location.clone()]),
        Some(location) => {
            rejected.push(Rejected {
                by: Claimant::Peer(name.clone()),
                claim: Claim::Location(location.clone()),
                reason: RejectReason::NoSuchLocation,
            });
            BTreeSet::new()
        }
    }
}

/// Returns the home it had, where it can still be; else the first attachment that has an active leader; else the first.
fn home(
    incumbent: Option<&LocationName>,
    attachments: &BTreeSet<LocationName>,
    mesh: &Mesh,
) -> Option<LocationName> {
    let led = |name: &&LocationName| {
        let location = mesh.locations.get(*name);
        location.is_some_and(|location| location.active().next().is_some())
    };
    let kept = incumbent.filter(|home| attachments.contains(*home));
    let led_attachment = || attachments.iter().find(led);
    kept.filter(led)
        .or_else(led_attachment)
        .or_else(|| attachments.first())
        .cloned()
}
