//! What nothing may be sent to: what established locations have of a family in which this node has no part.
//!
//! The mesh knows no address of this node in that family, and routes nothing of it here. The node may have one all the same, and a
//! way there past the mesh. Rules and routes would cost it what the family needs, and could fail where it has been switched
//! off; one look-up in the nft table does not. It stands whatever devices have of the family, also before any has anything: so no
//! moment is open while addresses come and go.

use std::collections::BTreeSet;

use spanwire_topology::{Family, Plan, Prefix};

use super::{AddressRange, NftSet, classes::outside, named};
use crate::{HostFacts, resolve::Resolved};

/// What is barred of one family.
pub(super) struct Barred {
    pub(super) family: Family,
    ranges: Vec<AddressRange>,
}

/// Returns what is barred, where anything is. Networks of this machine that lie in it, or are the same, and what the own location has
/// of it are not meant.
pub(super) fn barred(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Barred> {
    let settled = resolved.barred.iter();
    let settled = settled.filter(|(_, location)| facts.settled.contains(**location));
    let settled: BTreeSet<Prefix> = settled.map(|(prefix, _)| *prefix).collect();
    let connected = facts.links.values().flat_map(|link| link.networks());
    let local = plan.local.iter().chain(&plan.own).chain(&plan.lent);
    let spared = local.chain(&plan.unsent.spared);
    let spared = spared.chain(facts.local_routes.keys()).copied();
    let spared: BTreeSet<Prefix> = connected.chain(spared).collect();
    let of = |family| {
        let meant = settled.difference(&spared).copied();
        let ranges = outside(meant, spared.iter().copied(), family);
        Barred { family, ranges }
    };
    let families = [Family::V4, Family::V6].into_iter().map(of);
    families.filter(|barred| !barred.ranges.is_empty()).collect()
}

impl Barred {
    pub(super) fn set(&self) -> NftSet {
        let (_, v) = named(self.family);
        NftSet::new(format!("barred{v}"), self.family, self.ranges.iter().copied())
    }

    /// Returns the rule of the chain `stray`.
    pub(super) fn rule(&self) -> String {
        let (ip, v) = named(self.family);
        format!("{ip} daddr @barred{v} jump strayed")
    }
}
