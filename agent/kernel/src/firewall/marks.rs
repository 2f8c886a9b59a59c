//! What rules ask of marks, and which bits they set.

use serde_json::Value;
use spanwire_host::{MarkChange, Match, State};

/// What a rule may change in the mark of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) change: MarkChange,
    /// It comes from the mark of its connection: of a packet without one nothing is changed.
    pub(super) of_connection: bool,
}

impl Setting {
    /// What is not known.
    pub(super) const ANY: Self = Self {
        change: MarkChange::ANY,
        of_connection: false,
    };

    /// Returns what has to hold besides the rule's matches.
    pub(super) fn condition(self) -> Option<Match> {
        self.of_connection.then(|| Match::State {
            states: [State::Untracked].into(),
            not: true,
        })
    }
}

/// Returns the match of a listing (libnftables-json(5)), where it is on a mark.
pub(super) fn selected(left: &Value, elements: &[Value], not: bool) -> Option<Match> {
    let (of_connection, mask) = read(left)?;
    let ranges: Option<Vec<(u32, u32)>> = elements.iter().map(range).collect();
    Some(ranges.map_or(Match::Unknown, |ranges| Match::Mark {
        of_connection,
        mask,
        ranges,
        not,
    }))
}

/// Whether it is a mark that is asked for.
pub(super) fn is_of(left: &Value) -> bool {
    read(left).is_some()
}

fn read(left: &Value) -> Option<(bool, u32)> {
    let (key, mask) = match left["&"].as_array().map(Vec::as_slice) {
        Some([key, mask]) => (key, number(mask)?),
        Some(_) => return None,
        None => (left, u32::MAX),
    };
    let is = |kind: &str| key[kind]["key"].as_str() == Some("mark");
    (is("meta") || is("ct")).then(|| (is("ct"), mask))
}

fn range(element: &Value) -> Option<(u32, u32)> {
    match element["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => Some((number(first)?, number(last)?)),
        _ => number(element).map(|number| (number, number)),
    }
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Returns what a statement of a listing sets that changes something of a packet.
pub(super) fn set(mangle: &Value) -> Setting {
    if mangle["key"]["meta"]["key"].as_str() != Some("mark") {
        return Setting::default();
    }
    let value = &mangle["value"];
    Setting {
        change: change(value),
        of_connection: mentions_connection(value),
    }
}

/// Returns the bits that a value may have where the packet's mark has them not, and the other way round.
fn change(value: &Value) -> MarkChange {
    if let Some(number) = number(value) {
        return MarkChange {
            sets: number,
            clears: !number,
        };
    }
    if value["meta"]["key"].as_str() == Some("mark") {
        return MarkChange::default();
    }
    let operands = |operator: &str| match value[operator].as_array().map(Vec::as_slice) {
        Some([one, other]) => Some((change(one), change(other))),
        _ => None,
    };
    if let Some((one, other)) = operands("&") {
        return MarkChange {
            sets: one.sets & other.sets,
            clears: one.clears | other.clears,
        };
    }
    if let Some((one, other)) = operands("|") {
        return MarkChange {
            sets: one.sets | other.sets,
            clears: one.clears & other.clears,
        };
    }
    // Where both have a bit it goes.
    operands("^").map_or(MarkChange::ANY, |(one, other)| MarkChange {
        sets: one.sets | other.sets,
        clears: one.and(other).sets | (one.clears & other.clears),
    })
}

fn mentions_connection(value: &Value) -> bool {
    match value {
        Value::Object(object) => object
            .iter()
            .any(|(key, value)| key == "ct" || mentions_connection(value)),
        Value::Array(values) => values.iter().any(mentions_connection),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Returns what a match of iptables asks of marks; `None` where it is another one.
pub(super) fn extension(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    let of_connection = match name {
        "mark" => false,
        "connmark" => true,
        _ => return None,
    };
    // struct xt_mark_mtinfo1 of linux/netfilter/xt_mark.h, struct xt_connmark_mtinfo1 of linux/netfilter/xt_connmark.h.
    let parts = || Some((word(info, 0)?, word(info, 4)?, *info.get(8)?));
    Some(match parts().filter(|_| revision == 1) {
        Some((mark, mask, inverted)) => Match::Mark {
            of_connection,
            mask,
            ranges: vec![(mark, mark)],
            not: inverted != 0,
        },
        None => Match::Unknown,
    })
}

/// Returns what a target of iptables sets.
pub(super) fn target(name: &str, revision: u32, info: &[u8]) -> Setting {
    /// `XT_CONNMARK_RESTORE`.
    const RESTORE: u8 = 2;
    match (name, revision) {
        // struct xt_mark_tginfo2 of linux/netfilter/xt_mark.h.
        // `(mark & ~mask) ^ value`.
        ("MARK", 2) => {
            let parts = word(info, 0).zip(word(info, 4));
            parts.map_or(Setting::ANY, |(value, mask)| Setting {
                change: MarkChange {
                    sets: value,
                    clears: value ^ mask,
                },
                of_connection: false,
            })
        }
        // struct xt_connmark_tginfo1 and 2 of linux/netfilter/xt_connmark.h.
        ("CONNMARK", 1 | 2) => match (word(info, 4), word(info, 8), info.get(12)) {
            (Some(_), Some(_), Some(mode)) if *mode != RESTORE => Setting::default(),
            (Some(bits), Some(mask), Some(_)) if revision == 1 => Setting {
                // `(mark & ~nfmask) ^ (connection's & ctmask)`.
                change: MarkChange {
                    sets: bits,
                    clears: bits | mask,
                },
                of_connection: true,
            },
            _ => Setting {
                of_connection: true,
                ..Setting::ANY
            },
        },
        ("MARK" | "CONNMARK", _) => Setting::ANY,
        (
            "REJECT" | "LOG" | "NFLOG" | "TCPMSS" | "DSCP" | "TOS" | "TTL" | "HL" | "TRACE" | "CT"
            | "CHECKSUM",
            _,
        ) => Setting::default(),
        _ => Setting::ANY,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_match_on_a_mark_is_read_with_its_mask_and_values() {
        let mark = |of_connection, mask, ranges: &[(u32, u32)], not| Match::Mark {
            of_connection,
            mask,
            ranges: ranges.to_vec(),
            not,
        };
        for (text, expected) in [
            (
                r#"{"op": "!=", "left": {"meta": {"key": "mark"}}, "right": 256}"#,
                mark(false, u32::MAX, &[(256, 256)], true),
            ),
            (
                r#"{"op": "==", "left": {"&": [{"ct": {"key": "mark"}}, 65280]}, "right": 256}"#,
                mark(true, 0xff00, &[(256, 256)], false),
            ),
            (
                r#"{"op": "!=", "left": {"meta": {"key": "mark"}}, "right": {"set": [{"range": [1, 2]}, 9]}}"#,
                mark(false, u32::MAX, &[(1, 2), (9, 9)], true),
            ),
            (
                r#"{"op": "==", "left": {"meta": {"key": "mark"}}, "right": "@some"}"#,
                Match::Unknown,
            ),
            (
                r#"{"op": "<", "left": {"meta": {"key": "mark"}}, "right": 5}"#,
                Match::Unknown,
            ),
            (
                r#"{"op": "in", "left": {"meta": {"key": "mark"}}, "right": 5}"#,
                Match::Unknown,
            ),
        ] {
            let found = super::super::matches::matched(&json(text), &BTreeMap::new());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_bits_that_a_statement_may_set_or_clear_are_known() {
        let meta = r#"{"meta": {"key": "mark"}}"#;
        let all = u32::MAX;
        for (value, sets, clears, of_connection) in [
            ("512".to_owned(), 512, !512, false),
            (
                format!(r#"{{"|": [{{"&": [{meta}, 4294902527]}}, 512]}}"#),
                512,
                0xfc00 | 0x100,
                false,
            ),
            (format!(r#"{{"|": [{meta}, 256]}}"#), 256, 0, false),
            (format!(r#"{{"&": [{meta}, 65280]}}"#), 0, !0xff00, false),
            (format!(r#"{{"^": [{meta}, 3]}}"#), 3, 3, false),
            (
                format!(r#"{{"^": [{{"&": [{meta}, 4294967040]}}, 3]}}"#),
                3,
                0xff,
                false,
            ),
            (r#"{"ct": {"key": "mark"}}"#.to_owned(), all, all, true),
            (
                r#"{"&": [{"ct": {"key": "mark"}}, 255]}"#.to_owned(),
                255,
                all,
                true,
            ),
            (
                r#"{"numgen": {"mode": "inc", "mod": 2}}"#.to_owned(),
                all,
                all,
                false,
            ),
        ] {
            let statement = json(&format!(r#"{{"key": {meta}, "value": {value}}}"#));
            let expected = Setting {
                change: MarkChange { sets, clears },
                of_connection,
            };
            assert_eq!(set(&statement), expected, "{value}");
        }
        let other = json(r#"{"key": {"ct": {"key": "mark"}}, "value": 7}"#);
        assert_eq!(set(&other), Setting::default());
    }

    #[test]
    fn what_iptables_says_of_marks_is_read_from_its_bytes() {
        let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
        let info = [words(&[0x100, 0xff00]), vec![1, 0, 0, 0]].concat();
        let all = u32::MAX;
        let expected = |of_connection| Match::Mark {
            of_connection,
            mask: 0xff00,
            ranges: vec![(0x100, 0x100)],
            not: true,
        };
        assert_eq!(extension("mark", 1, &info), Some(expected(false)));
        assert_eq!(extension("connmark", 1, &info), Some(expected(true)));
        assert_eq!(extension("mark", 0, &info), Some(Match::Unknown));
        assert_eq!(extension("mark", 1, &info[..6]), Some(Match::Unknown));
        assert_eq!(extension("limit", 1, &info), None);
        let setting = |sets, clears, of_connection| Setting {
            change: MarkChange { sets, clears },
            of_connection,
        };
        // `--set-xmark 0x200/0xff00`, `--or-mark 0x200`, `--and-mark 0xff00`.
        for (value, mask, clears) in [(0x200, 0xff00, 0xfd00), (0x200, 0x200, 0), (0, !0xff00, !0xff00)] {
            let found = target("MARK", 2, &words(&[value, mask]));
            assert_eq!(found, setting(value, clears, false), "{value:#x}/{mask:#x}");
        }
        let connection = |mode| [words(&[0, 0x3f00, 0x3f00]), vec![mode, 0, 0, 0]].concat();
        assert_eq!(
            target("CONNMARK", 1, &connection(2)),
            setting(0x3f00, 0x3f00, true)
        );
        assert_eq!(target("CONNMARK", 1, &connection(1)), Setting::default());
        assert_eq!(target("CONNMARK", 1, &[]), setting(all, all, true));
        assert_eq!(target("TPROXY", 1, &[]), Setting::ANY);
        assert_eq!(target("LOG", 0, &[]), Setting::default());
    }
}
