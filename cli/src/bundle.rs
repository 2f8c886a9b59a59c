//! What was read, to send to those who help: without keys, of whatever kind, and without what is not Spanwire's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use spanwire_crds::annotations;

use crate::{
    findings::{Answers, Finding},
    objects::{Kind, Objects},
};

/// A WireGuard key, public, private or preshared, is 32 bytes in base64: so many characters, the last of them `=`.
const KEY: usize = 44;

/// Returns the archive, a JSON text. Each key is replaced by its number, so that one sees which are the same.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn archive(
    objects: &Objects,
    answers: &Answers,
    findings: &[Finding],
) -> Result<String, serde_json::Error> {
    let mut all = Map::new();
    for kind in Kind::ALL {
        let of_kind = objects.of(kind).map(|(_, object)| trimmed(kind, object));
        all.insert(kind.plural().to_owned(), of_kind.collect());
    }
    let answers = answers.iter().map(|(node, answer)| {
        let text = match answer {
            Ok(figures) => format!("{figures:?}"),
            Err(why) => format!("no answer: {why}"),
        };
        (node.clone(), Value::String(text))
    });
    let answers: Map<String, Value> = answers.collect();
    let mut bundle = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "objects": all,
        "agents": answers,
        "findings": findings,
    });
    conceal(&mut bundle, &mut BTreeMap::new());
    Ok(serde_json::to_string_pretty(&bundle)? + "\n")
}

/// Returns of an object what Spanwire looks at: other annotations and other parts of Nodes may have anything in them.
fn trimmed(kind: Kind, object: &Value) -> Value {
    let meta = &object["metadata"];
    let ours = |value: &Value| {
        let texts = value.as_object().into_iter().flatten();
        let ours = texts.filter(|(key, _)| {
            key.starts_with(annotations::PREFIX)
                || key.contains("kilo.squat.ai/")
                || key.contains("kubernetes.io/")
        });
        let kept = ours.filter(|(key, _)| !key.ends_with("/last-applied-configuration"));
        kept.map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Map<_, _>>()
    };
    let mut kept = json!({"metadata": {
        "name": meta["name"], "uid": meta["uid"], "generation": meta["generation"],
        "creationTimestamp": meta["creationTimestamp"], "annotations": ours(&meta["annotations"]),
        "labels": ours(&meta["labels"]),
    }});
    if kind == Kind::Node {
        kept["spec"] =
            json!({"podCIDRs": object["spec"]["podCIDRs"], "unschedulable": object["spec"]["unschedulable"]});
        let status = &object["status"];
        kept["status"] = json!({"addresses": status["addresses"], "conditions": status["conditions"]});
    } else {
        kept["spec"] = object["spec"].clone();
        kept["status"] = object["status"].clone();
    }
    kept
}

/// Replaces every key in every text.
fn conceal(value: &mut Value, seen: &mut BTreeMap<String, usize>) {
    match value {
        Value::String(text) => *text = concealed(text, seen),
        Value::Array(items) => items.iter_mut().for_each(|item| conceal(item, seen)),
        Value::Object(fields) => fields.values_mut().for_each(|field| conceal(field, seen)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn concealed(text: &str, seen: &mut BTreeMap<String, usize>) -> String {
    let is_base64 = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '/' | '=');
    let mut rest = text;
    let mut out = String::new();
    while let Some(start) = rest.find(is_base64) {
        let (before, from) = rest.split_at(start);
        let (run, after) = from.split_at(from.find(|letter| !is_base64(letter)).unwrap_or(from.len()));
        out += before;
        // What is as long as a key may be one with something in front of it.
        if run.len() >= KEY && run.ends_with('=') {
            let next = seen.len() + 1;
            let number = *seen.entry(run.to_owned()).or_insert(next);
            out += &format!("<key {number}>");
        } else {
            out += run;
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use spanwire_topology::PublicKey;

    use super::*;

    /// Whether anywhere in the text there are 32 bytes in base64.
    fn has_key_material(text: &str) -> bool {
        let windows = (0..text.len().saturating_sub(KEY - 1)).filter_map(|at| text.get(at..at + KEY));
        windows
            .into_iter()
            .any(|window| window.parse::<PublicKey>().is_ok())
    }

    #[test]
    fn keys_are_numbered_and_nothing_else_is_changed() {
        let key = PublicKey::new([7; 32]).to_string();
        let other = PublicKey::new([8; 32]).to_string();
        let mut seen = BTreeMap::new();
        let text = format!("a {key}, b={other}; c ({key}) https://x/y/z=");
        assert_eq!(
            concealed(&text, &mut seen),
            "a <key 1>, <key 2>; c (<key 1>) https://x/y/z="
        );
    }

    #[test]
    fn an_archive_has_no_key_material_and_nothing_of_others() {
        let key = |byte| PublicKey::new([byte; 32]).to_string();
        let mut objects = Objects::default();
        for object in [
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a1", "annotations": {
                "spanwire.dev/location": "a", "example.com/password": "secret",
                "kubectl.kubernetes.io/last-applied-configuration": "secret"}},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.1"}], "images": ["secret"]}}),
            json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNode", "metadata": {"name": "a1"},
                "status": {"publicKey": key(1), "conditions": [{"message": format!("the key {} is bad", key(2))}]}}),
            json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "Peer", "metadata": {"name": "p", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": key(3)}}, "spec": {"publicKey": key(3)}}),
        ] {
            objects.add(object).unwrap();
        }
        let answers = Answers::from([("a1".to_owned(), Err(format!("said {}", key(4))))]);
        let text = archive(&objects, &answers, &[]).unwrap();
        assert!(
            has_key_material(&objects.get(Kind::MeshNode, "a1").unwrap().to_string()),
            "the test sees keys"
        );
        assert!(!has_key_material(&text) && !text.contains("secret"), "{text}");
        for kept in [
            "<key 1>",
            "192.168.1.1",
            "spanwire.dev/location",
            "no answer: said",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
