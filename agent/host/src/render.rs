//! What the machine should look like.
//!
//! The plan says where each prefix lives and who carries it. Here that becomes devices, tables and marks, in four parts:
//! which of the plan's routes this machine can have, and through which device (`render/paths.rs`); the WireGuard device
//! and the kernel settings (`render/link.rs`); tables and rules (`render/routing.rs`); the nft table (`nft.rs`).

mod link;
mod paths;
mod routing;

use spanwire_topology::Plan;

pub(crate) use paths::{Exempt, Path, Paths, exempt, own_address};

use crate::{Conflict, Host, HostFacts, nft};

/// What the machine should look like for this plan. Where the mesh does not know the node, nothing of Spanwire is there.
#[must_use]
pub fn render(plan: &Plan, facts: &HostFacts) -> Host {
    if plan.location.is_none() {
        return Host::default();
    }
    let paths = Paths::new(plan, facts);
    let (link, wireguard) = link::device(plan, facts).unzip();
    Host {
        link,
        wireguard,
        routes: routing::routes(plan, &paths, facts),
        rules: routing::rules(plan, &paths, facts),
        nft: Some(nft::table(plan, &paths, facts)),
        sysctls: link::sysctls(plan, &paths, facts),
    }
}

/// What of the plan this machine cannot have, and why; [`render`] leaves exactly that out.
#[must_use]
pub fn conflicts(plan: &Plan, facts: &HostFacts) -> Vec<Conflict> {
    if plan.location.is_none() {
        return Vec::new();
    }
    let key = (plan.tunnel.is_some() && facts.public_key.is_none()).then_some(Conflict::NoKey);
    let mut conflicts: Vec<Conflict> = key.into_iter().collect();
    conflicts.extend(Paths::new(plan, facts).conflicts);
    conflicts
}
