//! What `nft -j` lists (libnftables-json(5)).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::Value;
use spanwire_host::{Direction, FilterRule, LinkName, Match, Pass, State, Verdict};

use super::{
    extensions::{Extensions, MATCHES},
    marks::{self, Setting},
};

/// Whether a listing has extensions of iptables for the state of connections, marks or comments, of which it says no more.
pub(super) fn has_extensions(text: &str) -> bool {
    let mut names = MATCHES.iter().chain(&["comment", "MARK", "CONNMARK"]);
    text.contains("\"xt\"") && names.any(|name| text.contains(&format!("\"{name}\"")))
}

/// Returns the rules of a listing of one chain, in order. Those that accept the packets of one device and have this comment
/// are Spanwire's. `extensions` are what those of iptables say, by the number of the rule.
pub(super) fn rules(text: &str, comment: &str, extensions: &BTreeMap<u64, Extensions>) -> Vec<FilterRule> {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = document["nftables"].as_array().into_iter().flatten();
    objects
        .filter_map(|object| read(object.get("rule")?, comment, extensions))
        .collect()
}

fn read(rule: &Value, comment: &str, extensions: &BTreeMap<u64, Extensions>) -> Option<FilterRule> {
    let handle = rule["handle"].as_u64()?;
    let of_rule = extensions.get(&handle);
    let mut extensions = of_rule.iter().flat_map(|found| &found.matches);
    let mut matches = Vec::new();
    let mut verdict = Verdict::Continue;
    let mut sets = Setting::default();
    for expression in rule["expr"].as_array()? {
        let Some((kind, value)) = expression
            .as_object()
            .and_then(|expression| expression.iter().next())
        else {
            (verdict, sets) = (Verdict::Unknown, Setting::ANY);
            continue;
        };
        let target = || value["target"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "match" => matches.push(matched(value)),
            // What iptables-nft has no expression of nf_tables for.
            "xt" => match (value["type"].as_str(), value["name"].as_str()) {
                (Some("match"), Some("comment")) => {}
                (Some("match"), Some(name)) if MATCHES.contains(&name) => {
                    matches.push(extensions.next().cloned().unwrap_or(Match::Unknown));
                }
                (Some("target"), Some("REJECT")) => verdict = Verdict::Drop,
                (Some("target"), Some("LOG" | "NFLOG" | "TCPMSS")) => {}
                (Some("target"), Some("MARK" | "CONNMARK")) => {
                    sets = of_rule.map_or(Setting::ANY, |found| found.sets);
                }
                (Some("target"), name) => {
                    (verdict, sets) = (Verdict::Unknown, marks::target(name.unwrap_or_default(), 0, &[]));
                }
                _ => matches.push(Match::Unknown),
            },
            "counter" | "log" | "notrack" => {}
            "mangle" => {
                let more = marks::set(value);
                sets = Setting {
                    change: sets.change.and(more.change),
                    of_connection: more.of_connection && sets == Setting::default(),
                };
            }
            "accept" => verdict = Verdict::Accept,
            "drop" | "reject" => verdict = Verdict::Drop,
            "return" => verdict = Verdict::Return,
            "jump" => verdict = Verdict::Jump(target()),
            "goto" => verdict = Verdict::Goto(target()),
            // A limit, say.
            "limit" | "quota" | "connlimit" => matches.push(Match::Unknown),
            // A verdict map, a queue …
            _ => {
                matches.push(Match::Unknown);
                (verdict, sets) = (Verdict::Unknown, Setting::ANY);
            }
        }
    }
    let own = match matches.as_slice() {
        [
            Match::Device {
                direction,
                names,
                not: false,
            },
        ] if rule["comment"].as_str() == Some(comment) && verdict == Verdict::Accept => {
            let link = names.first().and_then(|name| LinkName::new(name));
            link.filter(|_| names.len() == 1).map(|link| Pass {
                direction: *direction,
                link,
            })
        }
        _ => None,
    };
    matches.extend(sets.condition());
    Some(FilterRule {
        handle,
        comment: rule["comment"]
            .as_str()
            .map(ToOwned::to_owned)
            .or_else(|| of_rule.and_then(|found| found.comment.clone())),
        own,
        matches,
        verdict,
        marks: sets.change,
    })
}

fn matched(value: &Value) -> Match {
    if let Some(found) = marks::matched(value) {
        return found;
    }
    let (left, right) = (&value["left"], &value["right"]);
    let not = match value["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        // None of these bits.
        Some("!") if left["ct"]["key"].as_str() == Some("state") => true,
        _ => return Match::Unknown,
    };
    let several = right["set"].as_array().or(right.as_array());
    let single = [right.clone()];
    let elements = several.map_or(&single[..], Vec::as_slice);
    let direction = match left["meta"]["key"].as_str() {
        Some("iifname" | "iif") => Some(Direction::In),
        Some("oifname" | "oif") => Some(Direction::Out),
        _ => None,
    };
    if let Some(direction) = direction {
        let name = |element: &Value| {
            let name = element.as_str().filter(|name| !name.starts_with('@'))?;
            Some(name.to_owned())
        };
        let names: Option<Vec<String>> = elements.iter().map(name).collect();
        return names.map_or(Match::Unknown, |names| Match::Device {
            direction,
            names,
            not,
        });
    }
    if left["ct"]["key"].as_str() == Some("state") {
        let states = elements.iter().map(|element| state(element.as_str()?)).collect();
        return Option::map_or(states, Match::Unknown, |states| Match::State { states, not });
    }
    if left["ct"]["key"].as_str() == Some("status") && right.as_str() == Some("dnat") {
        return Match::Translated { not };
    }
    let payload = &left["payload"];
    if let Some(found) = transport(left, elements, not) {
        return found;
    }
    let source = match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip" | "ip6"), Some("saddr")) => true,
        (Some("ip" | "ip6"), Some("daddr")) => false,
        _ => return Match::Unknown,
    };
    let ranges: Option<Vec<_>> = elements.iter().map(range).collect();
    ranges.map_or(Match::Unknown, |ranges| Match::Address { source, ranges, not })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(expressions: &str, comment: &str) -> FilterRule {
        let text = format!(
            r#"{{"nftables": [{{"metainfo": {{}}}}, {{"rule": {{"family": "ip", "table": "filter", "chain": "FORWARD",
               "handle": 7, "comment": "{comment}", "expr": [{expressions}]}}}}]}}"#
        );
        let matches = vec![Match::State {
            states: [State::Established].into(),
            not: false,
        }];
        let extensions = Extensions {
            matches,
            ..Extensions::default()
        };
        let extensions = [(7, extensions)];
        let rules = rules(&text, "spanwire", &extensions.into());
        let [rule] = rules.as_slice() else {
            panic!("{rules:?}");
        };
        assert_eq!(rule.handle, 7);
        rule.clone()
    }

    #[test]
    fn what_iptables_and_nft_write_is_understood() {
        let device = |names: &[&str], not| Match::Device {
            direction: Direction::In,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            not,
        };
        let states = |states: &[State], not| Match::State {
            states: states.iter().copied().collect(),
            not,
        };
        let port = |protocol, ranges: &[(u16, u16)]| Match::Port {
            protocol,
            source: false,
            ranges: ranges.to_vec(),
            not: false,
        };
        let comment =
            r#"{"xt": {"type": "match", "name": "comment"}}, {"counter": {"packets": 0, "bytes": 0}}"#;
        let flannel = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
            "right": {"prefix": {"addr": "10.244.0.0", "len": 16}}}}"#;
        let rule = one(&format!(r#"{flannel}, {comment}, {{"accept": null}}"#), "");
        let ends = ["10.244.0.0", "10.244.255.255"].map(|end| end.parse().unwrap());
        let pods = Match::Address {
            source: true,
            ranges: vec![ends.into()],
            not: false,
        };
        assert_eq!((rule.matches, rule.verdict), (vec![pods], Verdict::Accept));
        for (expressions, matches, verdict) in [
            (
                r#"{"xt": {"type": "target", "name": "REJECT"}}"#,
                vec![],
                Verdict::Drop,
            ),
            (
                r#"{"xt": {"type": "target", "name": "NFQUEUE"}}"#,
                vec![],
                Verdict::Unknown,
            ),
            (
                r#"{"xt": {"type": "match", "name": "conntrack"}}, {"xt": {"type": "match", "name": "state"}},
                   {"accept": null}"#,
                vec![states(&[State::Established], false), Match::Unknown],
                Verdict::Accept,
            ),
            (
                r#"{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}"#,
                vec![],
                Verdict::Drop,
            ),
            (
                r#"{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["a", "b*"]}}},
                   {"goto": {"target": "zone"}}"#,
                vec![device(&["a", "b*"], true)],
                Verdict::Goto("zone".to_owned()),
            ),
            (
                r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@some"}}, {"drop": null}"#,
                vec![Match::Unknown],
                Verdict::Drop,
            ),
            (
                r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, {"drop": null}"#,
                vec![states(&[State::Invalid], false)],
                Verdict::Drop,
            ),
            (
                r#"{"match": {"op": "!", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
                   {"drop": null}"#,
                vec![states(&[State::Established, State::Related], true)],
                Verdict::Drop,
            ),
            (
                r#"{"match": {"op": "!=", "left": {"ct": {"key": "state"}}, "right": {"set": ["new", "untracked"]}}},
                   {"drop": null}"#,
                vec![states(&[State::New, State::Untracked], true)],
                Verdict::Drop,
            ),
            (
                r#"{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "udp"]}}},
                   {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}},
                    "right": {"set": [53, {"range": [100, 200]}]}}}, {"accept": null}"#,
                vec![
                    Match::Protocol {
                        protocols: vec![6, 17],
                        not: false,
                    },
                    port(None, &[(53, 53), (100, 200)]),
                ],
                Verdict::Accept,
            ),
            (
                r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 51820}},
                   {"accept": null}"#,
                vec![port(Some(17), &[(51_820, 51_820)])],
                Verdict::Accept,
            ),
            (
                r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@open"}},
                   {"accept": null}"#,
                vec![Match::Unknown],
                Verdict::Accept,
            ),
            (
                r#"{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"accept": null}"#,
                vec![Match::Translated { not: false }],
                Verdict::Accept,
            ),
            (
                r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": []}}}"#,
                vec![Match::Unknown],
                Verdict::Unknown,
            ),
        ] {
            let rule = one(expressions, "spanwire");
            assert_eq!(
                (rule.own, rule.matches, rule.verdict),
                (None, matches, verdict),
                "{expressions}"
            );
        }
    }

    #[test]
    fn own_rules_are_known_by_their_comment_and_by_what_they_do() {
        let accepts = r#"{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "spanwire0"}},
            {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}"#;
        let own = Pass {
            direction: Direction::Out,
            link: LinkName::new("spanwire0").unwrap(),
        };
        assert_eq!(one(accepts, "spanwire").own, Some(own));
        assert_eq!(one(accepts, "spanwire, by hand").own, None);
        assert_eq!(one(r#"{"accept": null}"#, "spanwire").own, None);
    }
}
