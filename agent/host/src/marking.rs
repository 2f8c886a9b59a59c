//! What other programs do to marks, and what the tunnel's own datagrams are known by where those are not to be relied on.
//!
//! Programs that choose uplinks, shape or count set bits of the mark of whatever passes, restore it from that of the
//! connection, or set all of it. A datagram that has another mark by that than the tunnel's alone would be routed like any
//! packet: into the mesh, where its endpoint is an address of it.

use spanwire_topology::{Family, Plan};

use crate::{
    Direction, Elsewhere, Filter, HostFacts, LinkName, MarkChange, Pass, Sample, overtaking::chosen_by_mark,
};

/// Whether the tunnel's own datagrams of a family may have another mark than the tunnel's when they are routed.
pub(crate) fn is_unsure(plan: &Plan, facts: &HostFacts, family: Family) -> bool {
    let before = [Elsewhere::Ingress, Elsewhere::Prerouting, Elsewhere::Output];
    chosen_by_mark(facts, Some(family)) || is_changed(plan, facts, Some(family), &before)
}

/// Whether they may have lost it before they leave.
pub(crate) fn is_unsure_at_last(plan: &Plan, facts: &HostFacts) -> bool {
    let before = [Elsewhere::Output, Elsewhere::Postrouting];
    chosen_by_mark(facts, None) || is_changed(plan, facts, None, &before)
}

fn is_changed(plan: &Plan, facts: &HostFacts, family: Option<Family>, hooks: &[Elsewhere]) -> bool {
    let own = facts.owned.mark;
    // kube-proxy's is not asked for.
    let ignored = own | facts.owned.masquerade_mark;
    let spoils = |change: MarkChange| change.sets & !ignored != 0 || change.clears & own != 0;
    let sample = |at: Elsewhere, link: &LinkName| match at {
        Elsewhere::Ingress | Elsewhere::Prerouting => Sample {
            datagram_to: plan.tunnel.as_ref().map(|tunnel| tunnel.listen_port),
            ..passing(Direction::In, link)
        },
        Elsewhere::Output
        | Elsewhere::Postrouting
        | Elsewhere::Egress
        | Elsewhere::FromPods
        | Elsewhere::ToPods => passing(Direction::Out, link),
    };
    hooks.iter().any(|at| {
        let filters = facts.elsewhere.get(at).into_iter();
        let filters = filters.flat_map(|filters| filters.iter());
        let mut filters = filters.filter(|filter| family.is_none_or(|family| filter.name.family.has(family)));
        let changes = |filter: &Filter, link: &LinkName| spoils(filter.marks(&sample(*at, link)));
        filters.any(|filter| facts.uplinks.iter().any(|link| changes(filter, link)))
    })
}

fn passing(direction: Direction, link: &LinkName) -> Sample {
    let link = link.clone();
    Sample::new(Pass { direction, link })
}
