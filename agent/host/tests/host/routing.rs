//! How Linux routes a packet by rules and tables: the oracle of the properties.

use std::net::IpAddr;

use spanwire_host::{Host, RouteKind, Rule, RuleAction, RuleSelector, TableId};
use spanwire_topology::{Family, Prefix};

/// A packet that this machine sends, or sends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Where it came in.
    pub(crate) iif: Option<&'static str>,
    pub(crate) to: IpAddr,
    pub(crate) tcp_port: Option<u16>,
    pub(crate) mark: u32,
}

/// Where Spanwire's rules and tables send it; `None`: they leave it to those of others.
pub(crate) fn decide<'a>(host: &'a Host, packet: &Packet) -> Option<&'a RouteKind> {
    let mut from = 0;
    for rule in sorted(host, Family::of(packet.to)) {
        if rule.priority < from || !selects(&rule.selector, packet) {
            continue;
        }
        match rule.action {
            RuleAction::Nop => {}
            RuleAction::Goto(priority) => from = priority,
            RuleAction::Lookup(table) => match look_up(host, table, packet.to) {
                None | Some(RouteKind::Throw) => {}
                Some(kind) => return Some(kind),
            },
        }
    }
    None
}

fn sorted(host: &Host, family: Family) -> Vec<&Rule> {
    let mut rules: Vec<&Rule> = host.rules.iter().filter(|rule| rule.family == family).collect();
    rules.sort_by_key(|rule| rule.priority);
    rules
}

fn selects(selector: &RuleSelector, packet: &Packet) -> bool {
    let mark = selector
        .mark
        .is_none_or(|(value, mask, inverted)| (packet.mark & mask == value) != inverted);
    let to = selector.to.is_none_or(|to| to.contains(packet.to));
    let port = selector.dport.is_none_or(|port| packet.tcp_port == Some(port));
    let iif = selector.iif.as_ref();
    let came = iif.is_none_or(|iif| packet.iif == Some(iif.as_str()));
    mark && to && port && came && selector.from.is_none()
}

fn look_up(host: &Host, table: TableId, to: IpAddr) -> Option<&RouteKind> {
    let fits = |prefix: &Prefix| prefix.contains(to);
    let routes = host.routes.iter();
    let candidates = routes.filter(|(key, _)| key.table == table && fits(&key.prefix));
    let best = candidates.min_by_key(|(key, _)| (u8::MAX - key.prefix.length(), key.metric));
    best.map(|(_, route)| &route.kind)
}
