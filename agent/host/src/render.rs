//! What the machine should look like.
//!
//! The plan says where each prefix lives and who carries it. Here that becomes devices, tables and marks, in four parts:
//! which of the plan's routes this machine can have, and through which device (`resolve.rs`); the WireGuard device and the
//! kernel settings (`render/device.rs`, `render/sysctls.rs`); tables and rules (`render/routing.rs`); the nft table
//! (`nft.rs`).

mod device;
mod passages;
mod routing;
mod samples;
mod sysctls;

use spanwire_topology::Plan;

use crate::{
    ClosedPort, Conflict, Device, Host, HostFacts, LinkName, ipsec, nft, overtaking, resolve::Resolved,
};

/// Returns what the machine should look like for this plan. Where the mesh does not know the node, that is nothing of
/// Spanwire.
#[must_use]
pub fn render(plan: &Plan, facts: &HostFacts) -> Host {
    if plan.location.is_none() {
        return Host::default();
    }
    let resolved = Resolved::new(plan, facts);
    Host {
        devices: wireguard(plan, facts)
            .into_iter()
            .chain(device::vxlan(resolved.underlay.as_ref(), facts))
            .collect(),
        routes: routing::routes(plan, &resolved, facts).into(),
        rules: routing::rules(plan, &resolved, facts),
        nft: Some(nft::table(plan, &resolved, facts)),
        passages: passages::passages(plan, &resolved, facts),
        sysctls: sysctls::sysctls(plan, &resolved, facts),
    }
}

/// Returns the WireGuard device alone, as [`render`] has it; `None` where there is to be none.
#[must_use]
pub fn wireguard(plan: &Plan, facts: &HostFacts) -> Option<(LinkName, Device)> {
    plan.location.as_ref()?;
    device::wireguard(plan, facts)
}

/// Returns what of the plan this machine cannot have, and why; [`render`] leaves exactly that out.
#[must_use]
pub fn conflicts(plan: &Plan, facts: &HostFacts) -> Vec<Conflict> {
    if plan.location.is_none() {
        return Vec::new();
    }
    let key = (plan.tunnel.is_some() && facts.public_key.is_none()).then_some(Conflict::NoKey);
    let mut conflicts: Vec<Conflict> = key.into_iter().collect();
    let resolved = Resolved::new(plan, facts);
    conflicts.extend(passages::filtered(plan, &resolved, facts));
    conflicts.extend(overtaking::first_priority(plan, &resolved, facts).1);
    conflicts.extend(overtaking::barred(plan, facts));
    conflicts.extend(ipsec::taken(plan, &resolved, facts));
    conflicts.extend(resolved.conflicts);
    conflicts
}

/// Returns the firewall of this machine that lets no peer begin a session at the port on which this node listens, where that
/// is certain. What has begun here is answered all the same.
#[must_use]
pub fn closed_port(plan: &Plan, facts: &HostFacts) -> Option<ClosedPort> {
    passages::closed_port(plan, facts)
}
