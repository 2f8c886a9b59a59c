//! Keys in texts, of whatever kind and in whatever form, and what stands in their place.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::Value;

/// A WireGuard key, public, private or preshared, is 32 bytes: so many characters in base64, without the `=` behind them.
const BASE64: usize = 43;
/// And so many in hexadecimal, as WireGuard's UAPI has them.
const HEX: usize = 64;

/// The keys that were seen, each with its number: the same key has the same one, in whatever form it stands.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<Vec<u8>, usize>);

impl Keys {
    /// Replaces every key in every text.
    pub(super) fn conceal(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.concealed(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.conceal(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.conceal(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Returns a text without keys.
    fn concealed(&mut self, text: &str) -> String {
        let is_base64 = |letter: char| letter.is_ascii_alphanumeric() || "+/-_".contains(letter);
        let mut rest = text;
        let mut out = String::new();
        while let Some(start) = rest.find(is_base64) {
            let (before, from) = rest.split_at(start);
            let (run, after) = from.split_at(from.find(|letter| !is_base64(letter)).unwrap_or(from.len()));
            out += before;
            rest = after;
            if let Some(key) = key(run) {
                out += &self.stand_in(key);
                rest = rest.strip_prefix('=').unwrap_or(rest);
            } else {
                out += run;
            }
        }
        out + rest
    }

    /// Returns what stands in the place of a key: a key itself, so that objects can be read as before.
    fn stand_in(&mut self, key: Vec<u8>) -> String {
        let next = self.0.len() + 1;
        let number = *self.0.entry(key).or_insert(next);
        // In base64, for people to read.
        format!("key/{number:0>8}/stands/for/one/of/the/cluster0=")
    }
}

/// Returns the bytes of a run of letters, or the letters, where it is a key or has one in it; what is glued to that goes with it.
fn key(run: &str) -> Option<Vec<u8>> {
    let has_hex = run
        .split(|letter: char| !letter.is_ascii_hexdigit())
        .any(|digits| digits.len() >= HEX);
    let has_base64 = run.len() >= BASE64 && !is_name(run);
    if !has_hex && !has_base64 {
        return None;
    }
    let standard = run.replace('-', "+").replace('_', "/");
    let bytes = hex(run).or_else(|| STANDARD_NO_PAD.decode(standard).ok());
    Some(bytes.unwrap_or_else(|| run.as_bytes().to_vec()))
}

/// Returns whether it is lower case, as names of objects and paths are, and has what separates their words. One key of thousands of
/// millions is like that.
fn is_name(run: &str) -> bool {
    !run.contains(|letter: char| letter.is_ascii_uppercase()) && run.contains(['-', '_', '/'])
}

fn hex(run: &str) -> Option<Vec<u8>> {
    let pairs = run.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (run.len() == HEX).then(|| pairs.map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use spanwire_topology::PublicKey;

    use super::*;

    fn number(index: usize) -> String {
        format!("key/{index:0>8}/stands/for/one/of/the/cluster0=")
    }

    fn in_hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_are_numbered_and_nothing_else_is_changed() {
        let key = STANDARD.encode([7; 32]);
        let other = STANDARD.encode([8; 32]);
        let mut keys = Keys::default();
        let text = format!("a {key}, b={other}; c ({key}) https://x/y/z=");
        let [one, two] = [1, 2].map(number);
        assert_eq!(
            keys.concealed(&text),
            format!("a {one}, b={two}; c ({one}) https://x/y/z=")
        );
        for name in [
            "a-node-with-a-name-that-is-as-long-as-a-key-would-be.example.com",
            "/var/lib/spanwire/and/a/folder/that/is/as/long/as/a/key/would/be",
            "node-role.kubernetes.io/control-plane",
            "0b6f7a3e-8a0e-4c57-9d3b-6d8f0a1b2c3d",
        ] {
            assert_eq!(keys.concealed(name), name);
        }
    }

    #[test]
    fn a_key_is_the_same_in_each_of_its_forms() {
        // It has + and / in base64.
        let bytes: [u8; 32] =
            std::array::from_fn(|index| 251_u8.wrapping_mul(u8::try_from(index).unwrap() + 3));
        let key = STANDARD.encode(bytes);
        assert!(key.contains(['+', '/']), "{key}");
        let unpadded = key.trim_end_matches('=');
        let url = URL_SAFE.encode(bytes);
        let hex = in_hex(bytes);
        let mut keys = Keys::default();
        for form in [
            &key,
            unpadded,
            &url,
            url.trim_end_matches('='),
            &hex,
            &hex.to_uppercase(),
        ] {
            for (text, expected) in [
                (form.to_owned(), number(1)),
                (
                    format!("private_key={form}\nx"),
                    format!("private_key={}\nx", number(1)),
                ),
                (format!("\"{form}\","), format!("\"{}\",", number(1))),
            ] {
                assert_eq!(keys.concealed(&text), expected, "{text}");
            }
        }
        // What something is glued to is not shown either.
        for glued in [
            format!("x/{key}"),
            format!("0{hex}"),
            format!("{unpadded}{unpadded}"),
        ] {
            let shown = keys.concealed(&glued);
            assert!(shown.len() == 44 && shown != number(1), "{glued}: {shown}");
        }
    }

    #[test]
    fn what_stands_for_a_key_is_one() {
        let mut keys = Keys::default();
        let first = keys.stand_in(vec![1]);
        assert!(first.parse::<PublicKey>().is_ok(), "{first}");
        let second = keys.stand_in(vec![2]);
        assert_eq!(first.len(), second.len());
        assert_ne!(first.parse::<PublicKey>(), second.parse::<PublicKey>());
        assert_eq!(keys.stand_in(vec![1]), first);
    }
}
