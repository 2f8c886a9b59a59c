//! What gets no answer with and without a mesh.

use super::Asked;
use crate::{layout::NodeLayout, profile::Profile};

/// How one asks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Question {
    pub(super) by_udp: bool,
    /// From a socket that is bound to its address.
    pub(super) is_bound: bool,
}

/// Whether there is no answer with and without a mesh.
///
/// * A server on a wildcard socket answers a pod of its own node by UDP from the address of the CNI's bridge.
/// * wg-quick drops what comes to the VPN's address from an address that is not the host's own: the answer of a service that
///   the host itself gives, where the host asks from there.
/// * Pods answer the address of a host of their location by the LAN, which carries no addresses of pods. Hosts that leave
///   their address to the kernel ask from that of the CNI's device.
pub(super) fn is_expected(from: &NodeLayout, is_pod: bool, asked: &Asked, question: Question) -> bool {
    let is_own = asked.own_host.as_ref() == Some(&from.name);
    if is_pod {
        return is_own && question.by_udp && !asked.is_bound;
    }
    let by_vpn = is_own && asked.is_service && from.profiles.contains(&Profile::VpnRules);
    let by_lan = asked
        .pod_on
        .as_ref()
        .is_some_and(|[node, location]| *node != from.name && *location == from.location);
    by_vpn || (by_lan && question.is_bound)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::{layout::Layout, scenario::Scenario};

    const TCP: Question = Question {
        by_udp: false,
        is_bound: false,
    };
    const UDP: Question = Question {
        by_udp: true,
        is_bound: false,
    };
    const BOUND: Question = Question {
        by_udp: true,
        is_bound: true,
    };

    fn layout() -> Layout {
        let text = "{hosts: {a2: [vpn-rules]}, locations: [{name: a, nodes: [{name: a1}, {name: a2}]}, \
                    {name: b, nodes: [{name: b1}]}]}";
        Layout::of(&Scenario::parse(text).unwrap())
    }

    fn asked(own_host: Option<&str>, is_service: bool) -> Asked {
        Asked {
            name: "x".to_owned(),
            at: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1),
            own_host: own_host.map(str::to_owned),
            is_bound: false,
            is_service,
            pod_on: None,
        }
    }

    #[test]
    fn only_own_hosts_give_no_answer_to_pods_by_udp_and_to_a_vpn_by_a_service() {
        let layout = layout();
        let [a1, a2] = [0, 1].map(|index| &layout.locations[0].nodes[index]);
        for is_service in [false, true] {
            let of_a1 = asked(Some("a1"), is_service);
            assert!(is_expected(a1, true, &of_a1, UDP) && is_expected(a1, true, &of_a1, BOUND));
            assert!(!is_expected(a1, true, &of_a1, TCP), "by TCP");
            assert!(!is_expected(a2, true, &of_a1, UDP), "of another node");
            assert!(!is_expected(a1, false, &of_a1, UDP), "a host");
            let bound = Asked {
                is_bound: true,
                ..asked(Some("a1"), is_service)
            };
            assert!(!is_expected(a1, true, &bound, UDP), "by its own address");
            let of_pod = asked(None, is_service);
            assert!(!is_expected(a1, true, &of_pod, UDP), "a pod, or by another node");
        }
        assert!(is_expected(a2, false, &asked(Some("a2"), true), TCP));
        for other in [asked(Some("a2"), false), asked(Some("a1"), true)] {
            assert!(!is_expected(a2, false, &other, TCP), "{other:?}");
        }
    }

    #[test]
    fn pods_of_other_nodes_of_the_location_alone_give_no_answer_to_the_address_of_a_host() {
        let layout = layout();
        let [a1, a2] = [0, 1].map(|index| &layout.locations[0].nodes[index]);
        let of_a1 = Asked {
            pod_on: Some(["a1", "a"].map(str::to_owned)),
            ..asked(None, false)
        };
        assert!(is_expected(a2, false, &of_a1, BOUND));
        assert!(!is_expected(a2, false, &of_a1, UDP), "from the CNI's device");
        assert!(!is_expected(a2, true, &of_a1, BOUND), "a pod");
        assert!(!is_expected(a1, false, &of_a1, BOUND), "the own pod");
        let b1 = &layout.locations[1].nodes[0];
        assert!(!is_expected(b1, false, &of_a1, BOUND), "from elsewhere");
        assert!(!is_expected(a2, false, &asked(None, true), BOUND), "by a service");
    }
}
