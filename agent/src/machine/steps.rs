//! What steps are for, and how they are named.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use spanwire_host::{Host, OwnershipConflict, PeerChange, Step};
use spanwire_kernel::ApplyError;
use spanwire_topology::PublicKey;

use super::chain;

/// How many steps a log line names.
const NAMED: usize = 6;

/// Takes the peers that are to be made anew out of what was read, so that they are made; returns those that were there.
pub(super) fn forget_peers(
    actual: &mut Host,
    renewed: &BTreeMap<PublicKey, SocketAddr>,
) -> BTreeSet<PublicKey> {
    let mut there = BTreeSet::new();
    for (_, device) in actual.wireguards_mut() {
        let removed = renewed.keys().filter(|key| device.peers.remove(key).is_some());
        there.extend(removed.copied());
    }
    there
}

/// Drops the steps that would take from others what they have under Spanwire's name.
pub(super) fn leave_to_others(steps: &mut Vec<Step>, clashes: &[OwnershipConflict]) {
    if clashes
        .iter()
        .any(|clash| matches!(clash, OwnershipConflict::NftTable { .. }))
    {
        steps.retain(|step| !matches!(step, Step::SetNft(_) | Step::DeleteNft));
    }
}

/// Whether the steps do nothing but look for peers elsewhere, or begin anew with them.
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
        | Step::SetSysctl(..) => false,
    };
    steps.iter().all(search)
}

/// The peers with whom a step failed.
pub(super) fn refused_peers(failed: &[(Step, ApplyError)]) -> BTreeSet<PublicKey> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other steps are about no peer")]
    let peer = |(step, _): &(Step, ApplyError)| match step {
        Step::SetPeer(_, key, _) | Step::DeletePeer(_, key) => Some(*key),
        _ => None,
    };
    failed.iter().filter_map(peer).collect()
}

/// What failed and why. Where there is no device, what fails for that reason is not told one by one.
pub(super) fn failures(failed: &[(Step, ApplyError)]) -> Vec<String> {
    let told = |(step, error): &(Step, ApplyError)| format!("{step}: {}", chain(error));
    match failed
        .iter()
        .find(|(step, _)| matches!(step, Step::AddWireGuard(..)))
    {
        Some(no_link) if failed.len() > 1 => {
            vec![format!(
                "{}; and {} steps that need the device",
                told(no_link),
                failed.len() - 1
            )]
        }
        _ => failed.iter().map(told).collect(),
    }
}

/// The first few steps for a log line.
pub(super) fn texts(steps: &[Step]) -> String {
    let mut texts: Vec<String> = steps.iter().take(NAMED).map(ToString::to_string).collect();
    if steps.len() > NAMED {
        texts.push(format!("and {} more", steps.len() - NAMED));
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use spanwire_host::{Device, DeviceKind, LinkName, WireGuard, WireGuardPeer, WireGuardSettings};

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
    fn what_is_to_be_made_anew_counts_as_missing() {
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
        let renewed = [(key(1), endpoint()), (key(2), endpoint())].into();
        assert_eq!(forget_peers(&mut actual, &renewed), [key(1)].into());
        assert!(actual.wireguard(&name()).unwrap().peers.is_empty());
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
        let anew = [Step::DeletePeer(name(), key(1)), set_peer(1, &["10.0.0.0/24"])];
        assert!(!is_search(&anew, &given, &none));
        assert!(is_search(&anew, &given, &[key(1)].into()));
        assert!(!is_search(
            &[set_peer(1, &[]), Step::DeleteDevice(name())],
            &given,
            &none
        ));
    }

    #[test]
    fn without_a_device_its_absence_alone_is_told() {
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
        let texts = failures(&failed);
        assert_eq!(texts.len(), 1);
        assert!(
            texts[0].starts_with("link add") && texts[0].ends_with("and 2 steps that need the device"),
            "{texts:?}"
        );
        assert_eq!(
            failures(&failed[..1]),
            ["link set spanwire0 up: there is no device spanwire0"]
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
    fn the_nft_table_of_somebody_else_is_left_to_him() {
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
    fn a_long_list_is_cut() {
        let steps = vec![Step::DeleteDevice(name()); NAMED + 2];
        assert!(texts(&steps).ends_with("link delete spanwire0; and 2 more"));
        assert_eq!(texts(&steps[..1]), "link delete spanwire0");
    }
}
