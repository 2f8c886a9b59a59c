//! What `nft -j` lists (libnftables-json(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;
use spanwire_host::{Direction, FilterRule, LinkName, Match, Pass, Verdict};

/// Returns the rules of a listing of one chain, in order. Those that accept the packets of one device and have this comment
/// are Spanwire's.
pub(super) fn rules(text: &str, comment: &str) -> Vec<FilterRule> {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = document["nftables"].as_array().into_iter().flatten();
    objects
        .filter_map(|object| read(object.get("rule")?, comment))
        .collect()
}

fn read(rule: &Value, comment: &str) -> Option<FilterRule> {
    let mut matches = Vec::new();
    let mut verdict = Verdict::Continue;
    for expression in rule["expr"].as_array()? {
        let Some((kind, value)) = expression
            .as_object()
            .and_then(|expression| expression.iter().next())
        else {
            verdict = Verdict::Unknown;
            continue;
        };
        let target = || value["target"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "match" => matches.push(matched(value)),
            // What iptables-nft has no expression of nf_tables for.
            "xt" => match (value["type"].as_str(), value["name"].as_str()) {
                (Some("match"), Some("comment")) => {}
                (Some("target"), Some("REJECT")) => verdict = Verdict::Drop,
                (Some("target"), Some("LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS")) => {}
                (Some("target"), _) => verdict = Verdict::Unknown,
                _ => matches.push(Match::Unknown),
            },
            "counter" | "log" | "mangle" | "notrack" => {}
            "accept" => verdict = Verdict::Accept,
            "drop" | "reject" => verdict = Verdict::Drop,
            "return" => verdict = Verdict::Return,
            "jump" => verdict = Verdict::Jump(target()),
            "goto" => verdict = Verdict::Goto(target()),
            // A limit, a verdict map, a queue …
            _ => matches.push(Match::Unknown),
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
    Some(FilterRule {
        handle: rule["handle"].as_u64()?,
        own,
        matches,
        verdict,
    })
}

fn matched(value: &Value) -> Match {
    let not = match value["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        _ => return Match::Unknown,
    };
    let (left, right) = (&value["left"], &value["right"]);
    let several = right["set"].as_array();
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
    let payload = &left["payload"];
    let source = match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip" | "ip6"), Some("saddr")) => true,
        (Some("ip" | "ip6"), Some("daddr")) => false,
        _ => return Match::Unknown,
    };
    let ranges: Option<Vec<_>> = elements.iter().map(range).collect();
    ranges.map_or(Match::Unknown, |ranges| Match::Address { source, ranges, not })
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
        let rules = rules(&text, "spanwire");
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
                r#"{"xt": {"type": "match", "name": "conntrack"}}, {"accept": null}"#,
                vec![Match::Unknown],
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
                vec![Match::Unknown],
                Verdict::Drop,
            ),
            (
                r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": []}}}"#,
                vec![Match::Unknown],
                Verdict::Continue,
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
