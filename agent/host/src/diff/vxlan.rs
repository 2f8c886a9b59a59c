//! VXLAN devices, and where they send.

use std::{borrow::Cow, sync::Arc};

use crate::{Host, LinkName, RouteKind, Step, Vxlan};

/// Removes the devices that are to be made with other settings, and returns what is left of the machine without them: routes
/// through a device go with it, and so do its kernel settings.
pub(super) fn begin<'a>(actual: &'a Host, wanted: &Host, steps: &mut Vec<Step>) -> Cow<'a, Host> {
    let other = |name: &&LinkName| {
        let (there, wanted) = (actual.vxlan(name), wanted.vxlan(name));
        there
            .zip(wanted)
            .is_some_and(|(there, wanted)| there.settings != wanted.settings)
    };
    let mut left = Cow::Borrowed(actual);
    for name in actual.devices.keys().filter(other) {
        steps.push(Step::DeleteDevice(name.clone()));
        let left = left.to_mut();
        left.devices.remove(name);
        left.sysctls.retain(|sysctl, _| !sysctl.of_link(name));
        Arc::make_mut(&mut left.routes)
            .retain(|_, route| !matches!(&route.kind, RouteKind::Unicast { dev, .. } if dev == name));
    }
    left
}

/// Says where frames go, and then which next hops they are for.
pub(super) fn set_entries(name: &LinkName, actual: Option<&Vxlan>, wanted: &Vxlan, steps: &mut Vec<Step>) {
    let none = Vxlan::default();
    let actual = actual.unwrap_or(&none);
    for (address, to) in &wanted.forwarding {
        if actual.forwarding.get(address) != Some(to) {
            steps.push(Step::SetForwarding(name.clone(), *address, *to));
        }
    }
    for (neighbour, address) in &wanted.neighbours {
        if actual.neighbours.get(neighbour) != Some(address) {
            steps.push(Step::SetNeighbour(name.clone(), *neighbour, *address));
        }
    }
}

/// Removes what is left over, in the reverse order.
pub(super) fn delete_entries(name: &LinkName, actual: &Vxlan, wanted: &Vxlan, steps: &mut Vec<Step>) {
    let neighbours = actual.neighbours.keys();
    let stale = neighbours.filter(|neighbour| !wanted.neighbours.contains_key(*neighbour));
    steps.extend(stale.map(|neighbour| Step::DeleteNeighbour(name.clone(), *neighbour)));
    let addresses = actual.forwarding.keys();
    let stale = addresses.filter(|address| !wanted.forwarding.contains_key(*address));
    steps.extend(stale.map(|address| Step::DeleteForwarding(name.clone(), *address)));
}
