//! Rules of other programs that take packets before Spanwire's do, and how Spanwire's get ahead of them.
//!
//! A rule that is added without a priority gets the one before the first rule behind `local` (`fib_default_rule_pref`,
//! net/core/fib_rules.c): before Spanwire's, once they are there. wg-quick adds two such rules for a tunnel that is to take
//! everything. What they take is looked up in another table, or by the CNI's own route.
//!
//! Spanwire's rules stand in front of every rule that may take packets of the mesh, whatever its table has now: what
//! Spanwire's own table has none of goes on to the others. They go back when there is no such rule any more.
//!
//! A host with several uplinks marks whatever it forwards or sends, packets of the mesh among it, and has a rule and a table for
//! each mark. Others mark nothing but their own packets. So of a rule for a mark it is asked what its table has: a route
//! to everything, or to a part of the mesh, takes packets of the mesh.

use spanwire_topology::{Family, Plan, Prefix};

use crate::{Conflict, HostFacts, LinkName, Owned, TableId, resolve::Resolved};

/// A rule of another program that ends, or may end, the look-up of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherRule {
    /// Its family.
    pub family: Family,
    /// Its priority; smaller is earlier.
    pub priority: u32,
    /// Its `rtm_protocol`, which names the program that made it.
    pub protocol: u8,
    /// From this network.
    pub from: Option<Prefix>,
    /// To this network.
    pub to: Option<Prefix>,
    /// Arrived through this device.
    pub iif: Option<LinkName>,
    /// The packet's mark under the second is the first.
    pub mark: Option<(u32, u32)>,
    /// It is for all packets but those.
    pub inverted: bool,
    /// The table that it looks up; `None` where it does something else.
    pub table: Option<TableId>,
    /// It forbids what it is for (`prohibit`, `unreachable`, `blackhole`).
    pub forbids: bool,
}

/// The routing tables `main` and `default`, which every machine looks up.
pub(crate) const MAIN: TableId = TableId(254);
const DEFAULT: TableId = TableId(253);

impl OtherRule {
    /// Whether it selects by where packets come from or go to.
    fn is_about_addresses(&self) -> bool {
        self.from.is_some() || self.to.is_some() || self.iif.is_some()
    }

    fn is_for_mark(&self, mark: u32) -> bool {
        self.mark.is_none_or(|(value, mask)| mark & mask == value) != self.inverted
    }

    /// Whether it selects by a mark that other programs give to packets, in all or in some of its bits. An inverted rule does
    /// where it is not for what has none: a VPN's (`not fwmark 0xca6c`) is.
    pub(crate) fn is_by_mark(&self) -> bool {
        self.mark.is_some() && !(self.inverted && self.is_for_mark(0))
    }

    /// Returns the table of which it is asked whether it has a route for everything: one of the rule's own, by which it
    /// sends packets wherever from and to, or those with a mark.
    #[must_use]
    pub fn table_to_read(&self) -> Option<TableId> {
        let own = self.table.filter(|table| *table != MAIN && *table != DEFAULT);
        own.filter(|_| self.mark.is_some() || !self.is_about_addresses())
    }

    /// Whether it ends the look-up of packets that are for one of these.
    fn leads_to(&self, routed: impl Fn(&Prefix) -> bool, facts: &HostFacts) -> bool {
        let has = |table| {
            let routes = facts.marked_routes.get(&(self.family, table));
            table == MAIN || routes.is_some_and(|routes| routes.iter().any(routed))
        };
        self.table.is_none_or(has)
    }

    /// Returns the table by which it sends packets wherever from and to, where that is one of its own.
    fn table_for_all(&self) -> Option<TableId> {
        self.table_to_read().filter(|_| !self.is_about_addresses())
    }
}

/// Whether rules of others, of one family or of any, choose a way by marks.
pub(crate) fn chosen_by_mark(facts: &HostFacts, family: Option<Family>) -> bool {
    let of_family = |rule: &&OtherRule| family.is_none_or(|family| rule.family == family);
    facts.rules.iter().filter(of_family).any(OtherRule::is_by_mark)
}

/// Whether the tunnel's own datagrams of a family would all be sent through a VPN of this machine, or be forbidden, as by one that is
/// not connected. One that has routes to its own networks only (Tailscale's without an exit node, say) may be the way to an
/// endpoint, and takes no other.
pub(crate) fn captured(facts: &HostFacts, family: Family) -> bool {
    captors(facts, family).next().is_some()
}

fn captors(facts: &HostFacts, family: Family) -> impl Iterator<Item = &OtherRule> {
    let rules = facts.rules.iter();
    rules.filter(move |rule| {
        let is_wide = |table| facts.wide_tables.contains(&(family, table));
        let takes_all =
            rule.table_for_all().is_some_and(is_wide) || (rule.forbids && !rule.is_about_addresses());
        rule.family == family && rule.is_for_mark(facts.owned.mark) && takes_all
    })
}

/// Returns the rule that forbids the tunnel's own datagrams where they have no other way: they take the table `main` before it, which
/// does not lead to any endpoint.
pub(crate) fn barred(plan: &Plan, facts: &HostFacts) -> Option<Conflict> {
    let sends = plan.tunnel.is_some() && facts.public_key.is_some();
    if !sends || !facts.uplinks.is_empty() {
        return None;
    }
    let families: &[Family] = if facts.underlay_v4_only {
        &[Family::V4]
    } else {
        &[Family::V4, Family::V6]
    };
    let forbids = |rule: &&OtherRule| {
        let closed = |table| facts.closed_tables.contains(&(rule.family, table));
        rule.forbids || rule.table.is_some_and(closed)
    };
    let mut barring = families
        .iter()
        .map(|family| captors(facts, *family).find(forbids));
    let first = barring.next()??;
    barring.all(|rule| rule.is_some()).then_some(Conflict::Barred {
        family: first.family,
        priority: first.priority,
        protocol: first.protocol,
    })
}

/// Returns the first of the priorities that Spanwire's rules have, and why they cannot have a better one.
pub(crate) fn first_priority(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
) -> (u32, Option<Conflict>) {
    let usual = facts.owned.rule_priority;
    let before = |rule: &&OtherRule| rule.priority < usual.saturating_add(Owned::RULE_BAND);
    let taking = facts.rules.iter().filter(before);
    let first = taking
        .filter(|rule| takes(rule, plan, resolved, facts))
        .min_by_key(|rule| rule.priority);
    let Some(rule) = first else {
        return (usual, None);
    };
    match rule.priority.checked_sub(Owned::RULE_BAND) {
        Some(priority) if priority > 0 => (priority, None),
        // The priority 0 is that of `local`.
        _ => (1, Some(overtaken(rule))),
    }
}

fn overtaken(rule: &OtherRule) -> Conflict {
    Conflict::Overtaken {
        family: rule.family,
        priority: rule.priority,
        protocol: rule.protocol,
    }
}

/// Whether a rule may take packets of the mesh.
fn takes(rule: &OtherRule, plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> bool {
    if !resolved.uses(rule.family) {
        return false;
    }
    let routed = |prefix: &Prefix| {
        let mut from = plan.routes.range(prefix..).map(|(other, _)| other);
        overlaps(prefix, from.next(), |around| plan.routes.contains_key(around))
    };
    // Packets of the mesh bear no mark, kube-proxy's, or that of an uplink.
    let marks = [0, facts.owned.masquerade_mark];
    let marked = marks.iter().any(|mark| rule.is_for_mark(*mark))
        || (rule.mark.is_some() && rule.leads_to(routed, facts));
    if rule.inverted {
        return marked || rule.is_about_addresses();
    }
    let here = |prefix: &Prefix| {
        [&plan.local, &plan.own]
            .into_iter()
            .any(|set| overlaps(prefix, set.range(prefix..).next(), |around| set.contains(around)))
    };
    marked
        && rule.to.as_ref().is_none_or(routed)
        && rule
            .from
            .as_ref()
            .is_none_or(|prefix| here(prefix) || routed(prefix))
        && rule.iif.as_ref().is_none_or(|link| brings(link, resolved, facts))
}

/// Whether a prefix overlaps one of an ordered set, given the first of that which is not before it: a prefix sorts right
/// before what it contains. Some CNIs have a rule for each pod, and a mesh has thousands of prefixes.
fn overlaps(prefix: &Prefix, next: Option<&Prefix>, contains: impl Fn(&Prefix) -> bool) -> bool {
    let mut around = (0..prefix.length()).filter_map(|length| Prefix::new(prefix.address(), length).ok());
    next.is_some_and(|next| prefix.covers(next)) || around.any(|prefix| contains(&prefix))
}

/// Whether packets for other locations may come in by a device: pods', a hop's, the tunnel's, and what the node itself sends.
/// By a LAN's or a VPN's that is no hop none do.
fn brings(link: &LinkName, resolved: &Resolved<'_>, facts: &HostFacts) -> bool {
    let other = facts.links.get(link);
    let outside = other.is_some_and(|other| !other.cni && !other.addresses.is_empty());
    link.as_str() == "lo" || !outside || resolved.hops.contains(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OtherLink, inventory::Cni};

    const ALL: OtherRule = OtherRule {
        family: Family::V4,
        priority: 2_000,
        protocol: 3,
        from: None,
        to: None,
        iif: None,
        mark: None,
        inverted: false,
        table: Some(TableId(51_820)),
        forbids: false,
    };

    fn prefix(text: &str) -> Option<Prefix> {
        Some(text.parse().unwrap())
    }

    fn link(name: &str) -> LinkName {
        LinkName::new(name).unwrap()
    }

    /// A follower with pods in 10.244.1.0/24 whose leader is reached by flannel.1; 10.244.2.0/24 is remote.
    fn follower() -> (Plan, HostFacts) {
        use spanwire_topology::{Holder, Probes, Role, Route, Via};
        let own = |address: &str, length, cni| OtherLink {
            mtu: 1500,
            addresses: [(address.parse().unwrap(), length)].into(),
            cni,
            ..OtherLink::default()
        };
        let hop = Via::Hop {
            node: "a1".parse().unwrap(),
            hop: std::sync::Arc::new(["10.244.9.0".parse().unwrap()].into()),
            addresses: std::sync::Arc::default(),
        };
        let route = Route {
            via: hop.clone(),
            location: "b".parse().unwrap(),
            holder: Holder::Others,
        };
        let plan = Plan {
            lent: std::collections::BTreeSet::new(),
            masqueraded: std::collections::BTreeSet::new(),
            overlay: std::collections::BTreeSet::new(),
            me: "a2".parse().unwrap(),
            location: "a".parse().ok(),
            role: Role::Follower,
            tunnel: None,
            routes: [("10.244.2.0/24".parse().unwrap(), route)].into(),
            unsent: spanwire_topology::Unsent::default(),
            local: prefix("10.244.1.0/24").into_iter().collect(),
            own: prefix("10.244.1.0/24").into_iter().collect(),
            returns: std::collections::BTreeMap::new(),
            ways: std::collections::BTreeMap::new(),
            leaders: vec![hop],
            before: 0,
            vxlan: None,
            mtus: std::collections::BTreeMap::new(),
            probes: Probes::default(),
        };
        let facts = HostFacts {
            links: [
                (link("eth0"), own("192.168.1.5", 24, false)),
                (link("flannel.1"), own("10.244.1.0", 32, true)),
                (link("cni0"), own("10.244.1.1", 24, true)),
            ]
            .into(),
            cni: Cni::Overlay {
                links: [link("flannel.1")].into(),
            },
            ..HostFacts::default()
        };
        (plan, facts)
    }

    fn first(rules: &[OtherRule]) -> (u32, bool) {
        first_with(rules, &[])
    }

    fn first_with(rules: &[OtherRule], routes: &[(u32, &str)]) -> (u32, bool) {
        let (plan, mut facts) = follower();
        facts.rules = rules.iter().cloned().collect();
        for (table, route) in routes {
            let routes = facts.marked_routes.entry((Family::V4, TableId(*table)));
            routes.or_default().extend(prefix(route));
        }
        let resolved = Resolved::new(&plan, &facts);
        let (first, conflict) = first_priority(&plan, &resolved, &facts);
        (first, conflict.is_some())
    }

    #[test]
    fn what_may_take_packets_of_the_mesh_is_overtaken() {
        let taking = [
            ALL,
            // wg-quick's, NetBird's.
            OtherRule {
                mark: Some((0xca6c, u32::MAX)),
                inverted: true,
                ..ALL
            },
            // AWS VPC CNI's for a pod of this node.
            OtherRule {
                from: prefix("10.244.1.7"),
                ..ALL
            },
            OtherRule {
                to: prefix("10.0.0.0/8"),
                ..ALL
            },
            OtherRule {
                to: prefix("10.244.2.7"),
                ..ALL
            },
            OtherRule {
                iif: Some(link("cni0")),
                ..ALL
            },
            OtherRule {
                iif: Some(link("lo")),
                ..ALL
            },
            OtherRule {
                iif: Some(link("eth0")),
                inverted: true,
                ..ALL
            },
            OtherRule {
                mark: Some((0x4000, 0x4000)),
                ..ALL
            },
        ];
        for rule in taking {
            assert_eq!(first(std::slice::from_ref(&rule)), (1_984, false), "{rule:?}");
        }
    }

    /// As programs for several uplinks add them.
    #[test]
    fn a_mark_whose_table_has_a_route_to_a_part_of_the_mesh_is_overtaken() {
        let marked = |value, mask| OtherRule {
            mark: Some((value, mask)),
            table: Some(TableId(201)),
            ..ALL
        };
        let uplink = || marked(0x100, 0xff00);
        let taking = [
            uplink(),
            marked(1, u32::MAX),
            OtherRule {
                from: prefix("10.244.0.0/16"),
                ..uplink()
            },
            OtherRule {
                iif: Some(link("cni0")),
                ..uplink()
            },
            OtherRule {
                inverted: true,
                ..marked(0, 0xff_0000)
            },
        ];
        for rule in taking {
            assert_eq!(rule.table_to_read(), Some(TableId(201)));
            let one = std::slice::from_ref(&rule);
            for route in [
                "0.0.0.0/0",
                "0.0.0.0/1",
                "10.0.0.0/8",
                "10.244.2.0/24",
                "10.244.2.7/32",
            ] {
                let routes = [(201, "100.64.0.0/10"), (201, route)];
                assert_eq!(first_with(one, &routes), (1_984, false), "{route}: {rule:?}");
                assert_eq!(first_with(one, &[(202, route)]), (2_100, false), "{rule:?}");
            }
            for route in ["128.0.0.0/1", "10.244.1.0/24", "192.168.1.0/24"] {
                assert_eq!(
                    first_with(one, &[(201, route)]),
                    (2_100, false),
                    "{route}: {rule:?}"
                );
            }
        }
        // Everything has a route in `main`, and nothing is left to the rules behind one that forbids or jumps.
        for table in [Some(MAIN), None] {
            let rule = OtherRule { table, ..uplink() };
            assert_eq!(first(&[rule]), (1_984, false), "{table:?}");
        }
        let elsewhere = [
            OtherRule {
                iif: Some(link("eth0")),
                ..uplink()
            },
            OtherRule {
                from: prefix("198.51.100.7"),
                ..uplink()
            },
        ];
        for rule in elsewhere {
            assert_eq!(first_with(&[rule], &[(201, "0.0.0.0/0")]), (2_100, false));
        }
        let too_early = OtherRule {
            priority: 9,
            ..uplink()
        };
        assert_eq!(first_with(&[too_early], &[(201, "0.0.0.0/0")]), (1, true));
    }

    #[test]
    fn a_vpn_that_is_to_take_everything_would_take_the_tunnel_too() {
        let captured = |rule: OtherRule| {
            let facts = HostFacts {
                rules: [rule].into(),
                wide_tables: [(Family::V4, TableId(51_820)), (Family::V4, MAIN)].into(),
                ..HostFacts::default()
            };
            [Family::V4, Family::V6].map(|family| captured(&facts, family))
        };
        let priority = 32_765;
        let wg_quick = OtherRule {
            priority,
            mark: Some((0xca6c, u32::MAX)),
            inverted: true,
            ..ALL
        };
        assert_eq!(captured(wg_quick.clone()), [true, false]);
        assert_eq!(captured(OtherRule { priority, ..ALL }), [true, false]);
        for table in [Some(MAIN), Some(TableId(52))] {
            let to_its_own_networks = OtherRule { table, ..ALL };
            assert_eq!(captured(to_its_own_networks), [false, false], "{table:?}");
        }
        let own_mark = Some((0x2000, u32::MAX));
        assert_eq!(
            captured(OtherRule {
                mark: own_mark,
                ..wg_quick.clone()
            }),
            [false, false]
        );
        // Of several uplinks each has its own table.
        let from = prefix("198.51.100.7");
        assert_eq!(captured(OtherRule { from, ..ALL }), [false, false]);
        let forbidding = OtherRule {
            table: None,
            forbids: true,
            ..wg_quick
        };
        assert_eq!(captured(forbidding.clone()), [true, false]);
        assert_eq!(
            captured(OtherRule {
                from,
                ..forbidding.clone()
            }),
            [false, false]
        );
        let jumping = OtherRule {
            forbids: false,
            ..forbidding
        };
        assert_eq!(captured(jumping), [false, false]);
    }

    fn tunnel() -> spanwire_topology::Tunnel {
        spanwire_topology::Tunnel {
            addresses: std::collections::BTreeSet::new(),
            listen_port: 51_820,
            peers: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_rule_that_forbids_what_the_tunnel_sends_is_named_where_nothing_else_leads_to_an_endpoint() {
        let table = TableId(51_820);
        let forbidding = OtherRule {
            table: None,
            forbids: true,
            ..ALL
        };
        let to_closed_table = ALL;
        for rule in [forbidding, to_closed_table] {
            let (mut plan, mut facts) = follower();
            facts.rules = [rule].into();
            (facts.wide_tables, facts.closed_tables) =
                ([(Family::V4, table)].into(), [(Family::V4, table)].into());
            facts.underlay_v4_only = true;
            facts.public_key = Some(spanwire_topology::PublicKey::new([7; 32]));
            assert_eq!(barred(&plan, &facts), None, "a follower sends none");
            plan.tunnel = Some(tunnel());
            let named = Conflict::Barred {
                family: Family::V4,
                priority: 2_000,
                protocol: 3,
            };
            assert_eq!(barred(&plan, &facts), Some(named));
            facts.uplinks.insert(link("eth0"));
            assert_eq!(barred(&plan, &facts), None);
            facts.uplinks.clear();
            facts.underlay_v4_only = false;
            assert_eq!(barred(&plan, &facts), None, "IPv6 is not forbidden");
        }
        // A VPN that is connected forbids nothing.
        let (mut plan, mut facts) = follower();
        plan.tunnel = Some(tunnel());
        facts.rules = [ALL].into();
        facts.wide_tables.insert((Family::V4, table));
        facts.underlay_v4_only = true;
        facts.public_key = Some(spanwire_topology::PublicKey::new([7; 32]));
        assert_eq!(barred(&plan, &facts), None);
    }

    #[test]
    fn what_takes_none_is_left_where_it_is() {
        let harmless = [
            OtherRule {
                family: Family::V6,
                ..ALL
            },
            OtherRule {
                mark: Some((0x80000, 0xff0000)),
                ..ALL
            },
            OtherRule {
                mark: Some((0, 0x80000)),
                inverted: true,
                ..ALL
            },
            OtherRule {
                to: prefix("10.244.1.7"),
                ..ALL
            },
            OtherRule {
                from: prefix("198.51.100.7"),
                ..ALL
            },
            OtherRule {
                iif: Some(link("eth0")),
                ..ALL
            },
            OtherRule {
                priority: 2_116,
                ..ALL
            },
        ];
        for rule in harmless {
            assert_eq!(first(std::slice::from_ref(&rule)), (2_100, false), "{rule:?}");
        }
    }

    /// With pods on a second network card, whose table has a default route (`getRuleList` of amazon-vpc-cni-k8s).
    #[test]
    fn the_rules_of_the_aws_vpc_cni_come_after_but_for_those_to_pods_of_the_node() {
        let at = |priority| OtherRule { priority, ..ALL };
        let table = Some(MAIN);
        let to_pod = OtherRule {
            to: prefix("10.244.1.7"),
            table,
            ..at(512)
        };
        let answers = OtherRule {
            mark: Some((0x80, 0x80)),
            table,
            ..at(1_024)
        };
        let from_pod = OtherRule {
            from: prefix("10.244.1.7"),
            table: Some(TableId(2)),
            ..at(1_536)
        };
        assert_eq!(first(std::slice::from_ref(&from_pod)), (1_520, false));
        assert_eq!(first(&[to_pod, answers, from_pod]), (1_008, false));
    }

    #[test]
    fn the_first_of_several_counts_and_where_there_is_no_room_that_is_said() {
        let at = |priority| OtherRule { priority, ..ALL };
        assert_eq!(first(&[at(2_099), at(512), at(2_105)]), (496, false));
        assert_eq!(first(&[at(2_108)]), (2_092, false));
        assert_eq!(first(&[at(17)]), (1, false));
        assert_eq!(first(&[at(16)]), (1, true));
        assert_eq!(first(&[at(0)]), (1, true));
    }
}
