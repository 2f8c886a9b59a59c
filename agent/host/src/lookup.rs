//! How Linux routes a packet by rules and tables, as far as both are Spanwire's: for tests, and to explain a path.
//!
//! Rules are tried by priority. One that looks up a table takes the route with the longest prefix and, of several, the
//! lowest metric; where there is none, or it is `throw`, the next rule is tried (ip-rule(8), `fib_rules_lookup`).

use std::net::IpAddr;

use spanwire_topology::{Family, Prefix};

use crate::{Host, LinkName, RouteKind, Rule, RuleAction, RuleSelector, TableId};

/// A packet that this machine sends, or sends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The device that it came in by; `None` where this machine sends it.
    pub iif: Option<LinkName>,
    /// Its source; `None` where none is chosen yet.
    pub from: Option<IpAddr>,
    /// Its destination.
    pub to: IpAddr,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// Its mark.
    pub mark: u32,
}

impl Packet {
    /// Makes a packet to an address, without anything else that a rule could ask for.
    #[must_use]
    pub fn to(to: IpAddr) -> Self {
        Self {
            iif: None,
            from: None,
            to,
            protocol: None,
            sport: None,
            dport: None,
            mark: 0,
        }
    }
}

/// Returns where Spanwire's rules and tables send a packet; `None` where they leave it to those of others.
#[must_use]
pub fn lookup<'a>(host: &'a Host, packet: &Packet) -> Option<&'a RouteKind> {
    let family = Family::of(packet.to);
    let mut rules: Vec<&Rule> = host.rules.iter().filter(|rule| rule.family == family).collect();
    rules.sort_by_key(|rule| rule.priority);
    let mut from = 0;
    for rule in rules {
        if rule.priority < from || !selects(&rule.selector, packet) {
            continue;
        }
        match rule.action {
            RuleAction::Nop => {}
            RuleAction::Goto(priority) => from = priority,
            RuleAction::Lookup(table) => match best(host, table, packet.to) {
                None | Some(RouteKind::Throw) => {}
                Some(kind) => return Some(kind),
            },
        }
    }
    None
}

fn selects(selector: &RuleSelector, packet: &Packet) -> bool {
    let mark = selector
        .mark
        .is_none_or(|(value, mask, inverted)| (packet.mark & mask == value) != inverted);
    let inside = |prefix: Option<Prefix>, address: Option<IpAddr>| {
        prefix.is_none_or(|prefix| address.is_some_and(|address| prefix.contains(address)))
    };
    mark && inside(selector.from, packet.from)
        && inside(selector.to, Some(packet.to))
        && selector.iif.as_ref().is_none_or(|iif| came_by(iif, packet))
        && (selector.protocol.is_none() || selector.protocol == packet.protocol)
        && (selector.sport.is_none() || selector.sport == packet.sport)
        && (selector.dport.is_none() || selector.dport == packet.dport)
}

/// Whether a packet came in by a device: what the machine sends comes in by `lo` (ip-rule(8)).
fn came_by(iif: &LinkName, packet: &Packet) -> bool {
    match &packet.iif {
        Some(device) => device == iif,
        None => iif.as_str() == "lo",
    }
}

fn best(host: &Host, table: TableId, to: IpAddr) -> Option<&RouteKind> {
    let routes = host.routes.iter();
    let candidates = routes.filter(|(key, _)| key.table == table && key.prefix.contains(to));
    let best = candidates.min_by_key(|(key, _)| (u8::MAX - key.prefix.length(), key.metric));
    best.map(|(_, route)| &route.kind)
}

#[cfg(test)]
mod tests {
    use crate::{Route, RouteKey};

    use super::*;

    fn rule(priority: u32, selector: RuleSelector, action: RuleAction) -> Rule {
        let family = Family::V4;
        Rule {
            family,
            priority,
            selector,
            action,
        }
    }

    fn host(routes: &[(u32, &str, u32, RouteKind)], rules: Vec<Rule>) -> Host {
        let route = |(table, prefix, metric, kind): &(u32, &str, u32, RouteKind)| {
            let key = RouteKey {
                table: TableId(*table),
                prefix: prefix.parse().unwrap(),
                metric: *metric,
            };
            let kind = kind.clone();
            (key, Route { kind, mtu: None })
        };
        Host {
            routes: std::sync::Arc::new(routes.iter().map(route).collect()),
            rules: rules.into_iter().collect(),
            ..Host::default()
        }
    }

    fn through(dev: &str) -> RouteKind {
        RouteKind::Unicast {
            dev: LinkName::new(dev).unwrap(),
            via: None,
            onlink: false,
            src: None,
        }
    }

    fn packet(to: &str) -> Packet {
        Packet::to(to.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_counts_then_the_lowest_metric_and_throw_goes_on_with_the_next_rule() {
        let all = RuleSelector::default;
        let routes = [
            (1, "10.0.0.0/8", 4096, RouteKind::Unreachable),
            (1, "10.0.0.0/8", 100, through("a")),
            (1, "10.1.0.0/16", 4096, RouteKind::Throw),
            (2, "10.1.0.0/16", 100, through("b")),
        ];
        let rules = vec![
            rule(11, all(), RuleAction::Lookup(TableId(2))),
            rule(10, all(), RuleAction::Lookup(TableId(1))),
        ];
        let host = host(&routes, rules);
        assert_eq!(lookup(&host, &packet("10.2.0.1")), Some(&through("a")));
        assert_eq!(lookup(&host, &packet("10.1.0.1")), Some(&through("b")));
        assert_eq!(lookup(&host, &packet("11.0.0.1")), None);
        assert_eq!(lookup(&host, &packet("fd00::1")), None);
    }

    #[test]
    fn everything_that_a_rule_selects_by_must_hold() {
        let selector = RuleSelector {
            iif: LinkName::new("a"),
            mark: Some((2, 2, false)),
            from: Some("10.1.0.0/16".parse().unwrap()),
            to: Some("10.2.0.0/16".parse().unwrap()),
            protocol: Some(6),
            sport: Some(1),
            dport: Some(2),
        };
        let past = vec![
            rule(10, selector, RuleAction::Goto(12)),
            rule(11, RuleSelector::default(), RuleAction::Lookup(TableId(1))),
            rule(12, RuleSelector::default(), RuleAction::Nop),
        ];
        let host = host(&[(1, "0.0.0.0/0", 100, through("b"))], past);
        let all = Packet {
            iif: LinkName::new("a"),
            from: "10.1.0.1".parse().ok(),
            protocol: Some(6),
            sport: Some(1),
            dport: Some(2),
            mark: 3,
            ..packet("10.2.0.1")
        };
        assert_eq!(lookup(&host, &all), None);
        let others: [fn(&mut Packet); 8] = [
            |packet| packet.iif = None,
            |packet| packet.from = None,
            |packet| packet.from = "10.3.0.1".parse().ok(),
            |packet| packet.to = "10.3.0.1".parse().unwrap(),
            |packet| packet.protocol = Some(17),
            |packet| packet.sport = Some(2),
            |packet| packet.dport = None,
            |packet| packet.mark = 1,
        ];
        for change in others {
            let mut packet = all.clone();
            change(&mut packet);
            assert_eq!(lookup(&host, &packet), Some(&through("b")), "{packet:?}");
        }
    }
}
