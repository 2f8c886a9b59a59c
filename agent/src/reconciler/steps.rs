//! What steps are for, and what their failures mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use spanwire_core::{Target, Trouble};
use spanwire_host::{Host, OwnershipConflict, PeerChange, PeerStats, Step};
use spanwire_kernel::ApplyError;
use spanwire_topology::PublicKey;

use crate::causes::chain;

/// Leaves peers alone that were to be recreated, and have been heard since: that would end their session.
pub(super) fn spare_heard(target: &mut Target, peers: &BTreeMap<PublicKey, PeerStats>) {
    let Target {
        renewals, endpoints, ..
    } = target;
    renewals.retain(|key, before| {
        let is_heard = peers.get(key).is_some_and(|peer| peer.received > *before);
        if is_heard {
            endpoints.remove(key);
        }
        !is_heard
    });
}

/// Takes the peers that are to be recreated out of what was read, so that they are created; returns those that were there.
pub(super) fn forget_peers(actual: &mut Host, renewals: &BTreeMap<PublicKey, u64>) -> BTreeSet<PublicKey> {
    let mut there = BTreeSet::new();
    for (_, device) in actual.wireguards_mut() {
        let removed = renewals.keys().filter(|key| device.peers.remove(key).is_some());
        there.extend(removed.copied());
    }
    there
}

/// Drops the steps that would take from other programs what they have under Spanwire's name.
pub(super) fn leave_to_others(steps: &mut Vec<Step>, conflicts: &[OwnershipConflict]) {
    let is_table = |conflict: &OwnershipConflict| matches!(conflict, OwnershipConflict::NftTable { .. });
    if conflicts.iter().any(is_table) {
        steps.retain(|step| !matches!(step, Step::SetNft(_) | Step::DeleteNft));
    }
}

/// Has the nft table made before all else. Where there is none, as after a boot, nothing keeps plaintext from leaving, and
/// a userspace device can take seconds to be made, or to fail.
pub(super) fn close_first(steps: &mut [Step]) {
    if let Some(at) = steps.iter().position(|step| matches!(step, Step::SetNft(_))) {
        steps[..=at].rotate_right(1);
    }
}

/// Returns whether the steps do nothing but try other endpoints, or recreate peers.
pub(super) fn is_search(
    steps: &[Step],
    given: &BTreeMap<PublicKey, SocketAddr>,
    renewed: &BTreeSet<PublicKey>,
) -> bool {
    let search = |step: &Step| match step {
        Step::DeletePeer(_, key) => renewed.contains(key),
        Step::SetPeer(_, key, _) if renewed.contains(key) => true,
        Step::SetPeer(_, key, change) => {
            let others = PeerChange {
                endpoint: None,
                ..change.clone()
            };
            others.is_empty() && given.contains_key(key)
        }
        Step::AddWireGuard(..)
        | Step::AddVxlan(..)
        | Step::SetForwarding(..)
        | Step::DeleteForwarding(..)
        | Step::SetNeighbour(..)
        | Step::DeleteNeighbour(..)
        | Step::DeleteDevice(_)
        | Step::SetMtu(..)
        | Step::SetUp(..)
        | Step::AddAddress(..)
        | Step::DeleteAddress(..)
        | Step::SetWireGuard(..)
        | Step::SetRoute(..)
        | Step::DeleteRoute(_)
        | Step::AddRule(_)
        | Step::DeleteRule(_)
        | Step::SetNft(_)
        | Step::DeleteNft
        | Step::SetPassage(..)
        | Step::DeletePassage(_)
        | Step::SetSysctl(..) => false,
    };
    steps.iter().all(search)
}

/// Returns the peers with which a step failed.
pub(super) fn refused_peers(failed: &[(Step, ApplyError)]) -> BTreeSet<PublicKey> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other steps are about no peer")]
    let peer = |(step, _): &(Step, ApplyError)| match step {
        Step::SetPeer(_, key, _) | Step::DeletePeer(_, key) => Some(*key),
        _ => None,
    };
    failed.iter().filter_map(peer).collect()
}

/// Returns what failed and why. Where there is no device, what fails for want of it is counted only.
pub(super) fn failures(mut failed: Vec<(Step, ApplyError)>) -> Vec<Trouble> {
    let others = failed.len().saturating_sub(1);
    let device = failed
        .iter()
        .position(|(step, _)| matches!(step, Step::AddWireGuard(..) | Step::AddVxlan(..)));
    if let Some(device) = device.filter(|_| others > 0) {
        let (step, error) = failed.swap_remove(device);
        let cause = chain(&error);
        return vec![Trouble::Device { step, cause, others }];
    }
    let trouble = |(step, error): (Step, ApplyError)| {
        let cause = chain(&error);
        Trouble::Step { step, cause }
    };
    failed.into_iter().map(trouble).collect()
}

/// Returns whether it is enough that the kernel, or the device, acknowledged the step: such a step does
/// exactly what it says or fails, and what other programs do to the same is announced or read in any case.
pub(super) fn is_acknowledged(step: &Step) -> bool {
    matches!(
        step,
        Step::SetRoute(..)
            | Step::DeleteRoute(_)
            | Step::SetPeer(..)
            | Step::DeletePeer(..)
            | Step::SetNft(_)
    )
}

/// Returns the host after steps of which each [is acknowledged](is_acknowledged); of its device only what there was.
pub(super) fn advance(mut host: Host, steps: &[Step]) -> Host {
    let routes = Arc::make_mut(&mut host.routes);
    for step in steps {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the device is read again")]
        match step {
            Step::SetRoute(key, route) => {
                routes.insert(*key, route.clone());
            }
            Step::DeleteRoute(key) => {
                routes.remove(key);
            }
            Step::SetNft(table) => host.nft = Some(table.clone()),
            _ => {}
        }
    }
    host
}

#[cfg(test)]
mod tests {
    use spanwire_host::{
        Device, DeviceKind, LinkName, NftTable, Route, RouteKey, RouteKind, TableId, WireGuard,
        WireGuardPeer, WireGuardSettings,
    };

    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn name() -> LinkName {
        LinkName::new("spanwire0").unwrap()
    }

    fn endpoint() -> SocketAddr {
        "192.0.2.1:1".parse().unwrap()
    }

    fn set_peer(byte: u8, allowed: &[&str]) -> Step {
        let change = PeerChange {
            endpoint: Some(endpoint()),
            add: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            ..PeerChange::default()
        };
        Step::SetPeer(name(), key(byte), change)
    }

    #[test]
    fn what_is_to_be_recreated_counts_as_missing() {
        let mut wireguard = WireGuard::default();
        wireguard.peers.insert(key(1), WireGuardPeer::default());
        let device = Device {
            mtu: 1420,
            up: true,
            addresses: BTreeSet::new(),
            kind: DeviceKind::WireGuard(wireguard),
        };
        let mut actual = Host {
            devices: [(name(), device)].into(),
            ..Host::default()
        };
        let renewals = [(key(1), 0), (key(2), 0)].into();
        assert_eq!(forget_peers(&mut actual, &renewals), [key(1)].into());
        assert!(actual.wireguard(&name()).unwrap().peers.is_empty());
    }

    #[test]
    fn who_has_been_heard_meanwhile_is_not_recreated_and_keeps_its_endpoint() {
        let mut target = Target {
            renewals: [(key(1), 0), (key(2), 0), (key(3), 900), (key(4), 900)].into(),
            endpoints: [1, 2, 3, 4, 5].map(|byte| (key(byte), endpoint())).into(),
            ..Target::default()
        };
        let received = |received| PeerStats {
            received,
            ..PeerStats::default()
        };
        let peers = [(1, 92), (2, 0), (3, 900), (5, 92)].map(|(byte, bytes)| (key(byte), received(bytes)));
        spare_heard(&mut target, &peers.into());
        assert_eq!(
            target.renewals,
            [(key(2), 0), (key(3), 900), (key(4), 900)].into()
        );
        assert_eq!(
            target.endpoints,
            [2, 3, 4, 5].map(|byte| (key(byte), endpoint())).into()
        );
    }

    #[test]
    fn looking_for_peers_is_no_repair() {
        let given = [(key(1), endpoint())].into();
        let none = BTreeSet::new();
        assert!(is_search(&[set_peer(1, &[])], &given, &none));
        assert!(!is_search(&[set_peer(1, &["10.0.0.0/24"])], &given, &none));
        assert!(!is_search(&[set_peer(2, &[])], &given, &none));
        let mut grouped = set_peer(1, &[]);
        if let Step::SetPeer(_, _, change) = &mut grouped {
            change.group = Some("a".parse().ok());
        }
        assert!(!is_search(&[grouped], &given, &none));
        let recreated = [Step::DeletePeer(name(), key(1)), set_peer(1, &["10.0.0.0/24"])];
        assert!(!is_search(&recreated, &given, &none));
        assert!(is_search(&recreated, &given, &[key(1)].into()));
        assert!(!is_search(
            &[set_peer(1, &[]), Step::DeleteDevice(name())],
            &given,
            &none
        ));
    }

    #[test]
    fn without_a_device_its_absence_alone_is_reported() {
        let no_link = || ApplyError::NoLink(name());
        let settings = WireGuardSettings {
            public_key: key(1),
            listen_port: 1,
            mark: 1,
        };
        let add = Step::AddWireGuard(name(), 1420, settings);
        let failed = [
            (Step::SetUp(name(), true), no_link()),
            (add, no_link()),
            (Step::SetMtu(name(), 1), no_link()),
        ];
        let texts: Vec<String> = failures(failed.into()).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 1);
        assert!(
            texts[0].starts_with("link add") && texts[0].ends_with("and 2 steps that need the device"),
            "{texts:?}"
        );
        let alone = failures(vec![(Step::SetUp(name(), true), no_link())]);
        assert_eq!(
            alone[0].to_string(),
            "link set spanwire0 up: there is no device spanwire0"
        );
    }

    #[test]
    fn of_what_failed_only_steps_about_peers_refuse_one() {
        let no_link = || ApplyError::NoLink(name());
        let failed = [
            (Step::SetMtu(name(), 1), no_link()),
            (set_peer(1, &[]), no_link()),
            (Step::DeletePeer(name(), key(2)), no_link()),
        ];
        assert_eq!(refused_peers(&failed), [key(1), key(2)].into());
        assert!(refused_peers(&failed[..1]).is_empty());
    }

    #[test]
    fn the_nft_table_of_another_program_is_left_alone() {
        let mut steps = vec![Step::DeleteNft, Step::DeleteDevice(name())];
        leave_to_others(&mut steps, &[OwnershipConflict::Port { port: 1 }]);
        assert_eq!(steps.len(), 2);
        leave_to_others(
            &mut steps,
            &[OwnershipConflict::NftTable {
                name: "spanwire".to_owned(),
            }],
        );
        assert_eq!(steps, [Step::DeleteDevice(name())]);
    }

    #[test]
    fn a_machine_without_the_nft_table_gets_that_first_and_the_rest_in_order() {
        let (up, route) = (Step::SetUp(name(), true), Step::DeletePeer(name(), key(1)));
        let table = || {
            Step::SetNft(NftTable {
                chains: "chain c { }".to_owned(),
                ..NftTable::default()
            })
        };
        let mut steps = [up.clone(), route.clone(), table(), Step::DeleteDevice(name())];
        close_first(&mut steps);
        assert_eq!(steps, [table(), up.clone(), route, Step::DeleteDevice(name())]);
        let mut without = [up.clone(), Step::DeleteNft];
        close_first(&mut without);
        assert_eq!(without, [up, Step::DeleteNft]);
    }

    #[test]
    fn steps_that_are_acknowledged_advance_the_routes() {
        let route = |prefix: &str| RouteKey {
            table: TableId(7),
            prefix: prefix.parse().unwrap(),
            metric: 100,
        };
        let unreachable = || Route {
            kind: RouteKind::Unreachable,
            mtu: None,
        };
        let (old, new) = (route("10.1.0.0/16"), route("10.2.0.0/16"));
        let actual = Host {
            routes: Arc::new([(old, unreachable())].into()),
            ..Host::default()
        };
        let wanted = Host {
            routes: Arc::new([(new, unreachable())].into()),
            ..Host::default()
        };
        let steps = spanwire_host::diff(&actual, &wanted);
        assert!(steps.iter().all(is_acknowledged));
        assert_eq!(advance(actual, &steps), wanted);
        assert!(!is_acknowledged(&Step::DeleteNft) && !is_acknowledged(&Step::DeleteDevice(name())));
    }
}
