//! What `nft -j` lists (libnftables-json(5)).

use std::{
    collections::{BTreeMap, BTreeSet},
    slice::from_ref,
};

use serde_json::Value;
use spanwire_host::{FilterRule, LinkName, Match, Pass, Verdict};

use super::{
    extensions::{Extensions, MATCHES},
    marks::{self, Setting},
    matches::{Sets, is_catch_all, matched, selected},
};

/// A map that leads to more chains than this is not followed: each costs a call of `nft`, and kube-proxy's lead to one for each
/// service.
const TARGETS: usize = 8;

/// Whether a listing has extensions of iptables for the state of connections, marks or comments, of which it says no more.
pub(super) fn has_extensions(text: &str) -> bool {
    let mut names = MATCHES.iter().chain(&["comment", "MARK", "CONNMARK"]);
    text.contains("\"xt\"") && names.any(|name| text.contains(&format!("\"{name}\"")))
}

/// Returns the names of the sets, and of the maps, that the rules of a listing ask.
pub(super) fn named(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut sets, mut maps) = (BTreeSet::new(), BTreeSet::new());
    let name = |value: &Value| value.as_str()?.strip_prefix('@').map(ToOwned::to_owned);
    for expression in expressions(text) {
        sets.extend(name(&expression["match"]["right"]));
        maps.extend(name(&expression["vmap"]["data"]));
    }
    (sets, maps)
}

fn expressions(text: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = document["nftables"].as_array().into_iter().flatten();
    let rules = objects.filter_map(|object| object["rule"]["expr"].as_array());
    rules.flatten().cloned().collect()
}

/// Returns the elements of a set or map that is listed alone, and whether they come and go by themselves.
pub(super) fn elements(text: &str) -> Option<(Vec<Value>, bool)> {
    let document: Value = serde_json::from_str(text).ok()?;
    let objects = document["nftables"].as_array()?.iter();
    let set = objects
        .filter_map(|object| object.get("set").or(object.get("map")))
        .next()?;
    let elements = set["elem"].as_array().cloned().unwrap_or_default();
    let flags = set["flags"].as_array().into_iter().flatten();
    let fleeting = flags
        .filter_map(Value::as_str)
        .any(|flag| ["dynamic", "timeout"].contains(&flag));
    Some((elements, fleeting))
}

/// Returns the rules of a listing of one chain, in order. Those that accept the packets of one device and have this comment
/// are Spanwire's. `extensions` are what those of iptables say, by the number of the rule. One with a verdict map becomes
/// several of the same number.
pub(super) fn rules(
    text: &str,
    comment: &str,
    extensions: &BTreeMap<u64, Extensions>,
    sets: &Sets,
) -> Vec<FilterRule> {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = document["nftables"].as_array().into_iter().flatten();
    let rules = objects.filter_map(|object| read(object.get("rule")?, comment, extensions, sets));
    rules.flatten().collect()
}

/// What a rule of a listing does.
struct Reading {
    matches: Vec<Match>,
    verdict: Verdict,
    sets: Setting,
    untracks: Option<bool>,
    /// By which element of a map, and what then.
    branches: Option<Vec<(Match, Verdict)>>,
}

fn read(
    rule: &Value,
    comment: &str,
    extensions: &BTreeMap<u64, Extensions>,
    sets: &Sets,
) -> Option<Vec<FilterRule>> {
    let handle = rule["handle"].as_u64()?;
    let of_rule = extensions.get(&handle);
    let Reading {
        mut matches,
        verdict,
        sets,
        untracks,
        branches,
    } = reading(rule["expr"].as_array()?, of_rule, sets);
    let comment_of_rule = rule["comment"].as_str();
    let own = (comment_of_rule == Some(comment) && verdict == Verdict::Accept)
        .then(|| only_device(&matches))
        .flatten();
    matches.extend(sets.condition());
    let whole = FilterRule {
        handle,
        comment: comment_of_rule
            .map(ToOwned::to_owned)
            .or_else(|| of_rule.and_then(|found| found.comment.clone())),
        own,
        matches,
        verdict,
        marks: sets.change,
        untracks,
    };
    let Some(branches) = branches else {
        return Some(vec![whole]);
    };
    let branch = |(found, verdict)| {
        let mut matches = whole.matches.clone();
        matches.push(found);
        FilterRule {
            matches,
            verdict,
            ..whole.clone()
        }
    };
    Some(branches.into_iter().map(branch).collect())
}

/// Returns what passes where a rule asks for its device alone.
fn only_device(matches: &[Match]) -> Option<Pass> {
    let [
        Match::Device {
            direction,
            names,
            not: false,
        },
    ] = matches
    else {
        return None;
    };
    let [name] = names.as_slice() else {
        return None;
    };
    LinkName::new(name).map(|link| Pass {
        direction: *direction,
        link,
    })
}

fn reading(expressions: &[Value], of_rule: Option<&Extensions>, known: &Sets) -> Reading {
    let mut extensions = of_rule.iter().flat_map(|found| &found.matches);
    let mut matches = Vec::new();
    let mut verdict = Verdict::Continue;
    let mut sets = Setting::default();
    let mut untracks = Some(false);
    let mut branches = None;
    for expression in expressions {
        let Some((kind, value)) = expression
            .as_object()
            .and_then(|expression| expression.iter().next())
        else {
            (verdict, sets) = (Verdict::Unknown, Setting::ANY);
            continue;
        };
        match kind.as_str() {
            "match" => matches.push(matched(value, known)),
            // What iptables-nft has no expression of nf_tables for.
            "xt" => match (value["type"].as_str(), value["name"].as_str()) {
                (Some("match"), Some("comment")) => {}
                (Some("match"), Some(name)) if MATCHES.contains(&name) => {
                    matches.push(extensions.next().cloned().unwrap_or(Match::Unknown));
                }
                (Some("target"), Some("REJECT")) => verdict = Verdict::Drop,
                (Some("target"), Some("LOG" | "NFLOG" | "TCPMSS")) => {}
                (Some("target"), Some("CT" | "NOTRACK")) => untracks = None,
                (Some("target"), Some("MARK" | "CONNMARK")) => {
                    sets = of_rule.map_or(Setting::ANY, |found| found.sets);
                }
                (Some("target"), name) => {
                    (verdict, sets) = (Verdict::Unknown, marks::target(name.unwrap_or_default(), 0, &[]));
                }
                _ => matches.push(Match::Unknown),
            },
            "counter" | "log" => {}
            "notrack" => untracks = Some(true),
            "mangle" => {
                let more = marks::set(value);
                sets = Setting {
                    change: sets.change.and(more.change),
                    of_connection: more.of_connection && sets == Setting::default(),
                };
            }
            // A limit, say.
            "limit" | "quota" | "connlimit" => matches.push(Match::Unknown),
            "vmap" => match of_map(value, known) {
                Some(found) => branches = Some(found),
                None => {
                    matches.push(Match::Unknown);
                    (verdict, sets) = (Verdict::Unknown, Setting::ANY);
                }
            },
            _ => match verdict_of(expression) {
                Some(found) => verdict = found,
                // A queue …
                None => {
                    matches.push(Match::Unknown);
                    (verdict, sets) = (Verdict::Unknown, Setting::ANY);
                }
            },
        }
    }
    Reading {
        matches,
        verdict,
        sets,
        untracks,
        branches,
    }
}

/// Returns the verdict that a statement is; `None` where it is another one.
fn verdict_of(statement: &Value) -> Option<Verdict> {
    let (kind, value) = statement.as_object()?.iter().next()?;
    let target = || value["target"].as_str().unwrap_or_default().to_owned();
    Some(match kind.as_str() {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "continue" => Verdict::Continue,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        _ => return None,
    })
}

/// Returns what each element of a verdict map is for, and its verdict. No two are for one packet but the one that is for all
/// others.
fn of_map(map: &Value, known: &Sets) -> Option<Vec<(Match, Verdict)>> {
    let (key, data) = (&map["key"], &map["data"]);
    let pairs = match data.as_str() {
        Some(name) => known.get(name.strip_prefix('@')?)?,
        None => data["set"].as_array()?,
    };
    let mut found = Vec::new();
    let (mut keys, mut rest) = (Vec::new(), None);
    let mut targets = BTreeSet::new();
    for pair in pairs {
        let [element, statement] = pair.as_array()?.as_slice() else {
            return None;
        };
        let verdict = verdict_of(statement)?;
        if let Verdict::Jump(target) | Verdict::Goto(target) = &verdict {
            targets.insert(target.clone());
        }
        if is_catch_all(element) {
            rest = Some(verdict);
            continue;
        }
        keys.push(element.clone());
        found.push((selected(key, from_ref(element), false), verdict));
    }
    if targets.len() > TARGETS {
        return None;
    }
    if let Some(verdict) = rest {
        let others = if keys.is_empty() {
            Match::Unknown
        } else {
            selected(key, &keys, true)
        };
        found.push((others, verdict));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use spanwire_host::{Direction, State};

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
        let rules = rules(&text, "spanwire", &extensions.into(), &Sets::new());
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
                r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@unread"}}"#,
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
