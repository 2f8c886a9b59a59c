//! The steps from what is to what should be.
//!
//! The order keeps packets flowing and none of them in the open, whatever step is the last one done:
//!
//! 1. the devices: made or changed, kernel settings, addresses, up; a VXLAN device of which no setting can be changed is
//!    removed first;
//! 2. peers: added and changed, an allowed IP that changes hands in the one step that gives it to its new owner; and where a
//!    VXLAN device sends;
//! 3. the nft table, so that the first packet on a new way already keeps its source (a connection's NAT is decided once);
//!    and what lets packets of the mesh through the chains of others;
//! 4. rules that exempt packets from the mesh, before any route could catch those packets;
//! 5. routes and the rules that look up their tables, so that at each moment a packet is routed as before or as wanted
//!    (`diff/tables.rs`), and never by a wider prefix that is only meant for the time after (`diff/routes.rs`);
//! 6. what is no longer wanted, in the reverse of the order in which it was made.
//!
//! Kernel settings that are no longer wanted stay: others may have come to need them.

mod devices;
mod routes;
mod rules;
mod tables;
mod vxlan;

use crate::{ChainName, Host, Passage, Step, Sysctl};

/// Returns the steps that turn `actual` into `wanted`. An endpoint is set where one is wanted, and otherwise left alone.
#[must_use]
pub fn diff(actual: &Host, wanted: &Host) -> Vec<Step> {
    let mut steps = Vec::new();
    let actual = &*vxlan::begin(actual, wanted, &mut steps);
    devices::begin(actual, wanted, &mut steps);
    set_sysctls(actual, wanted, &mut steps);
    devices::set_up(actual, wanted, &mut steps);
    devices::set_peers(actual, wanted, &mut steps);

    // On the way from leader to follower the old table serves the old routes to their end.
    let leaves = devices::go(actual, wanted);
    let nft = (actual.nft != wanted.nft)
        .then(|| wanted.nft.clone().map(Step::SetNft))
        .flatten();
    let (early, late) = if leaves { (None, nft) } else { (nft, None) };

    steps.extend(early);
    let missing = |(chain, passage): &(&ChainName, &Passage)| actual.passages.get(*chain) != Some(*passage);
    let missing = wanted.passages.iter().filter(missing);
    steps.extend(missing.map(|(chain, passage)| Step::SetPassage(chain.clone(), passage.clone())));
    rules::add(actual, wanted, rules::exempts, &mut steps);
    tables::change(actual, wanted, &mut steps);
    rules::delete(actual, wanted, rules::exempts, &mut steps);
    steps.extend(late);
    let left = actual
        .passages
        .keys()
        .filter(|chain| !wanted.passages.contains_key(*chain));
    steps.extend(left.cloned().map(Step::DeletePassage));
    if actual.nft.is_some() && wanted.nft.is_none() {
        steps.push(Step::DeleteNft);
    }
    devices::end(actual, wanted, &mut steps);
    steps
}

/// IPv6 is forwarded last: what a device needs to keep its default route then has to be set before.
fn set_sysctls(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let changed = |(sysctl, value): &(&Sysctl, &String)| actual.sysctls.get(*sysctl) != Some(*value);
    let mut sysctls: Vec<_> = wanted.sysctls.iter().filter(changed).collect();
    let forwarding = Sysctl::ipv6_forwarding();
    sysctls.sort_by_key(|(sysctl, _)| **sysctl == forwarding);
    let step = |(sysctl, value): (&Sysctl, &String)| Step::SetSysctl(sysctl.clone(), value.clone());
    steps.extend(sysctls.into_iter().map(step));
}
