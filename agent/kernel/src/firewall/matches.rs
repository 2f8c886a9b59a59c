//! What the rules of a listing ask of a packet (libnftables-json(5)), with the elements of the sets that they name.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    slice::from_ref,
};

use serde_json::Value;
use spanwire_host::{Direction, Match, State};
use spanwire_topology::{Family, MacAddress};

use super::marks;

/// The elements of the sets and maps of a table that are known, by name.
pub(super) type Sets = BTreeMap<String, Vec<Value>>;

/// Returns what a match asks.
pub(super) fn matched(value: &Value, sets: &Sets) -> Match {
    let (left, right) = (&value["left"], &value["right"]);
    let not = match value["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        // None of these bits.
        Some("!") if left["ct"]["key"].as_str() == Some("state") => true,
        _ => return Match::Unknown,
    };
    if left["fib"].is_object() {
        return way_back(&left["fib"], right, not);
    }
    if left["ct"]["key"].as_str() == Some("status") && right.as_str() == Some("dnat") {
        return Match::Translated { not };
    }
    let named = right.as_str().and_then(|name| name.strip_prefix('@'));
    let several = match named {
        Some(name) => match sets.get(name) {
            Some(elements) => Some(elements),
            None => return Match::Unknown,
        },
        None => right["set"].as_array().or(right.as_array()),
    };
    // Of a mark these are bits.
    if value["op"].as_str() == Some("in") && marks::is_of(left) {
        return Match::Unknown;
    }
    let single = [right.clone()];
    selected(left, several.map_or(&single[..], Vec::as_slice), not)
}

/// Returns the match on a selector's being one of these elements.
pub(super) fn selected(left: &Value, elements: &[Value], not: bool) -> Match {
    let elements: Vec<Value> = elements.iter().map(|element| plain(element).clone()).collect();
    let elements = elements.as_slice();
    if elements.iter().any(is_catch_all) {
        return Match::Unknown;
    }
    if let Some(parts) = left["concat"].as_array() {
        return together(parts, elements, not);
    }
    if let Some(found) = marks::selected(left, elements, not).or_else(|| family(left, elements, not)) {
        return found;
    }
    let direction = match left["meta"]["key"].as_str() {
        Some("iifname" | "iif") => Some(Direction::In),
        Some("oifname" | "oif") => Some(Direction::Out),
        _ => None,
    };
    if let Some(direction) = direction {
        let name = |element: &Value| Some(element.as_str()?.to_owned());
        let names: Option<Vec<String>> = elements.iter().map(name).collect();
        return names.map_or(Match::Unknown, |names| Match::Device {
            direction,
            names,
            not,
        });
    }
    if let Some(found) = of_one_packet(left, elements, not) {
        return found;
    }
    if left["ct"]["key"].as_str() == Some("state") {
        let states = elements.iter().map(|element| state(element.as_str()?)).collect();
        return Option::map_or(states, Match::Unknown, |states| Match::State { states, not });
    }
    let payload = &left["payload"];
    if let Some(found) = transport(left, elements, not) {
        return found;
    }
    let (of, source) = match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip"), Some("saddr")) => (Family::V4, true),
        (Some("ip"), Some("daddr")) => (Family::V4, false),
        (Some("ip6"), Some("saddr")) => (Family::V6, true),
        (Some("ip6"), Some("daddr")) => (Family::V6, false),
        _ => return Match::Unknown,
    };
    if elements.is_empty() && not {
        return Match::Family {
            families: vec![of],
            not: false,
        };
    }
    let ranges: Option<Vec<_>> = elements.iter().map(range).collect();
    ranges.map_or(Match::Unknown, |ranges| Match::Address { source, ranges, not })
}

/// Returns the match on a direction, a next hop or a link-layer address; `None` where it is none.
fn of_one_packet(left: &Value, elements: &[Value], not: bool) -> Option<Match> {
    let payload = &left["payload"];
    let of_source =
        (payload["protocol"].as_str(), payload["field"].as_str()) == (Some("ether"), Some("saddr"));
    if left["ct"]["key"].as_str() == Some("direction") {
        return Some(match elements {
            [one] if one.as_str() == Some("reply") => Match::Answer { not },
            [one] if one.as_str() == Some("original") => Match::Answer { not: !not },
            _ => Match::Unknown,
        });
    }
    if left["rt"]["key"].as_str() == Some("nexthop") {
        let addresses = elements.iter().map(|element| element.as_str()?.parse().ok());
        let addresses: Option<Vec<IpAddr>> = addresses.collect();
        return Some(addresses.map_or(Match::Unknown, |addresses| Match::NextHop { addresses, not }));
    }
    of_source.then(|| {
        let addresses: Option<Vec<MacAddress>> = elements.iter().map(link_address).collect();
        addresses.map_or(Match::Unknown, |addresses| Match::LinkSource { addresses, not })
    })
}

fn link_address(element: &Value) -> Option<MacAddress> {
    let bytes = element.as_str()?.split(':');
    let bytes: Option<Vec<u8>> = bytes.map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(MacAddress::new(bytes?.try_into().ok()?))
}

/// Elements of some sets have a comment, or a time when they end.
fn plain(element: &Value) -> &Value {
    let value = &element["elem"]["val"];
    if value.is_null() { element } else { value }
}

/// Whether it stands for all that no other element is for.
pub(super) fn is_catch_all(element: &Value) -> bool {
    plain(element).as_str() == Some("*")
}

/// Returns the match on several selectors at once.
fn together(parts: &[Value], elements: &[Value], not: bool) -> Match {
    let alternative = |element: &Value| {
        let values = element["concat"]
            .as_array()
            .filter(|values| values.len() == parts.len())?;
        let pairs = parts.iter().zip(values);
        Some(
            pairs
                .map(|(part, value)| selected(part, from_ref(value), false))
                .collect(),
        )
    };
    let of: Option<Vec<Vec<Match>>> = elements.iter().map(alternative).collect();
    of.map_or(Match::Unknown, |of| Match::Any { of, not })
}

/// Returns a match on the family of a packet; `None` where it is none.
fn family(left: &Value, elements: &[Value], not: bool) -> Option<Match> {
    let payload = &left["payload"];
    let of_frame = (payload["protocol"].as_str(), payload["field"].as_str()) == (Some("ether"), Some("type"));
    let of_packet = matches!(left["meta"]["key"].as_str(), Some("nfproto" | "protocol"));
    (of_frame || of_packet).then(|| {
        let named = |element: &Value| match element.as_str() {
            Some("ip" | "ipv4") => Some(Some(Family::V4)),
            Some("ip6" | "ipv6") => Some(Some(Family::V6)),
            // A frame around a packet may have a tag.
            Some("arp") => Some(None),
            _ => None,
        };
        let families: Option<Vec<_>> = elements.iter().map(named).collect();
        families.map_or(Match::Unknown, |families| Match::Family {
            families: families.into_iter().flatten().collect(),
            not,
        })
    })
}

/// Returns the match on whether a packet is for this machine, or its source is reached (by the device that it came by), where it is one: as the
/// kernel's own check of sources is done by firewalld (`fib saddr . mark . iif oif missing drop`).
fn way_back(fib: &Value, right: &Value, not: bool) -> Match {
    let flags: Vec<&str> = fib["flags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let is_known = flags.iter().all(|flag| ["saddr", "mark", "iif"].contains(flag));
    if fib["result"].as_str() == Some("type") {
        let is_local = right.as_str() == Some("local");
        return match flags.as_slice() {
            ["daddr"] if is_local => Match::ForHere { not },
            ["saddr"] if is_local => Match::FromHere { not },
            _ => Match::Unknown,
        };
    }
    if fib["result"].as_str() != Some("oif") || !flags.contains(&"saddr") || !is_known {
        return Match::Unknown;
    }
    // How nft writes `missing`, and the device 0.
    let missing = right.as_bool().map(|exists| !exists);
    let Some(missing) = missing.or_else(|| (right.as_str() == Some("0")).then_some(true)) else {
        return Match::Unknown;
    };
    Match::WayBack {
        by_its_device: flags.contains(&"iif"),
        exists: missing == not,
    }
}

fn state(name: &str) -> Option<State> {
    Some(match name {
        "invalid" => State::Invalid,
        "established" => State::Established,
        "related" => State::Related,
        "new" => State::New,
        "untracked" => State::Untracked,
        _ => return None,
    })
}

/// Returns a match on the protocol above IP, or on its ports; `None` where it is none.
fn transport(left: &Value, elements: &[Value], not: bool) -> Option<Match> {
    let payload = &left["payload"];
    let field = payload["field"].as_str();
    let meta = left["meta"]["key"].as_str() == Some("l4proto");
    let of_packet = match (payload["protocol"].as_str(), field) {
        (Some("ip"), Some("protocol")) => true,
        // What it asks of such a packet is not looked at.
        (Some(protocol @ ("icmp" | "icmpv6")), _) => {
            let protocols = vec![number(protocol)?];
            let of_it = vec![
                Match::Protocol {
                    protocols,
                    not: false,
                },
                Match::Unknown,
            ];
            return Some(Match::Any {
                of: vec![of_it],
                not: false,
            });
        }
        (Some(protocol @ ("tcp" | "udp" | "udplite" | "sctp" | "dccp" | "th")), Some("sport" | "dport")) => {
            let protocol = match protocol {
                "th" => None,
                name => Some(number(name)?),
            };
            let ranges: Option<Vec<(u16, u16)>> = elements.iter().map(ports).collect();
            return Some(ranges.map_or(Match::Unknown, |ranges| Match::Port {
                protocol,
                source: field == Some("sport"),
                ranges,
                not,
            }));
        }
        _ => false,
    };
    (meta || of_packet).then(|| {
        let protocol = |element: &Value| match element.as_u64() {
            Some(number) => u8::try_from(number).ok(),
            None => number(element.as_str()?),
        };
        let protocols: Option<Vec<u8>> = elements.iter().map(protocol).collect();
        protocols.map_or(Match::Unknown, |protocols| Match::Protocol { protocols, not })
    })
}

/// Returns the number of a protocol (protocols(5)), of those that firewalls name.
fn number(name: &str) -> Option<u8> {
    Some(match name {
        "icmp" => 1,
        "igmp" => 2,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" | "ipv6-icmp" => 58,
        "vrrp" => 112,
        "sctp" => 132,
        "udplite" => 136,
        _ => return None,
    })
}

fn ports(element: &Value) -> Option<(u16, u16)> {
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    match element["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => Some((port(first)?, port(last)?)),
        _ => port(element).map(|port| (port, port)),
    }
}

fn range(element: &Value) -> Option<(IpAddr, IpAddr)> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    if let Some(address) = address(element) {
        return Some((address, address));
    }
    if let Some([first, last]) = element["range"].as_array().map(Vec::as_slice) {
        return Some((address(first)?, address(last)?));
    }
    let prefix = &element["prefix"];
    let length = u32::try_from(prefix["len"].as_u64()?).ok()?;
    Some(match address(&prefix["addr"])? {
        IpAddr::V4(first) => {
            let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
            let last = Ipv4Addr::from_bits(first.to_bits() | hosts);
            (first.into(), last.into())
        }
        IpAddr::V6(first) => {
            let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
            let last = Ipv6Addr::from_bits(first.to_bits() | hosts);
            (first.into(), last.into())
        }
    })
}
