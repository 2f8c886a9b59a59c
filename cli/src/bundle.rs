//! What was read, to send to those who help: without keys, of whatever kind, and without what is not Spanwire's. It is a list of
//! objects with more beside it, so that `-f` takes it in place of the cluster.

mod conceal;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use spanwire_crds::{annotations, translate};

use self::conceal::Keys;
use crate::{
    cluster::OperatorFacts,
    figures::Figures,
    findings::{Answers, Finding},
    objects::{Kind, Objects},
    settings::Settings,
};

/// The page of an agent that has figures.
const METRICS: &str = "/metrics";
/// The one that has its links.
const LINKS: &str = "/debug/links";
/// The pages of each agent.
pub const PAGES: [&str; 6] = [
    METRICS,
    LINKS,
    "/debug/plan",
    "/debug/wanted",
    "/debug/actual",
    "/debug/diff",
];

/// What agents answer, by node and page; an error says why there is no answer.
pub type Pages = BTreeMap<String, Result<BTreeMap<String, String>, String>>;

/// What was read.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The objects.
    pub objects: &'a Objects,
    /// The Deployments of the operator.
    pub operators: &'a [Value],
    /// What is known of the operator.
    pub operator: Option<&'a OperatorFacts>,
    /// The pages of agents.
    pub agents: &'a Pages,
    /// What was found.
    pub findings: &'a [Finding],
    /// What could not be read.
    pub notes: &'a [String],
}

/// Returns the archive, a JSON text. Each key is replaced by another, with a number, so that one sees which are the same.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn archive(contents: &Contents<'_>) -> Result<String, serde_json::Error> {
    let labels = labels(contents);
    let items = Kind::ALL.into_iter().flat_map(|kind| {
        let of_kind = contents.objects.of(kind);
        of_kind
            .map(|(_, object)| trimmed(kind, object, &labels))
            .collect::<Vec<_>>()
    });
    let agents = contents.agents.iter().map(|(node, pages)| {
        let pages = match pages {
            // By lines, for people.
            Ok(pages) => {
                let pages = pages
                    .iter()
                    .map(|(path, text)| (path, text.lines().collect::<Vec<_>>()));
                json!({"pages": pages.collect::<BTreeMap<_, _>>()})
            }
            Err(why) => json!({"noAnswer": why}),
        };
        (node.clone(), pages)
    });
    let mut bundle = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": items.collect::<Vec<_>>(),
        "version": env!("CARGO_PKG_VERSION"),
        "operator": operator(contents),
        "agents": agents.collect::<Map<_, _>>(),
        "findings": contents.findings,
        "notes": contents.notes,
    });
    Keys::default().conceal(&mut bundle);
    Ok(serde_json::to_string_pretty(&bundle)? + "\n")
}

/// Returns what the agents answered, of a document that is an archive; of another one there is nothing.
#[must_use]
pub fn answers(document: &Value) -> Answers {
    let agents = document["agents"].as_object().into_iter().flatten();
    let answer = |(node, said): (&String, &Value)| {
        let page = |path: &str| texts(&said["pages"][path]).join("\n");
        let answer = match said["noAnswer"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(Figures::read(&page(METRICS), &page(LINKS))),
        };
        (node.clone(), answer)
    };
    agents.map(answer).collect()
}

/// Returns what is known of the operator.
fn operator(contents: &Contents<'_>) -> Value {
    let deployments = contents.operators.iter().map(|deployment| {
        let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
        let containers = containers.into_iter().flatten();
        let containers =
            containers.map(|container| json!({"image": container["image"], "args": container["args"]}));
        json!({
            "name": deployment["metadata"]["name"],
            "namespace": deployment["metadata"]["namespace"],
            "replicas": deployment["spec"]["replicas"],
            "availableReplicas": deployment["status"]["availableReplicas"],
            "containers": containers.collect::<Vec<_>>(),
        })
    });
    let facts = contents.operator.map(|facts| {
        json!({
            "generatedOverlay": facts.generated.map(|pool| pool.to_string()),
            "services": facts.services.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "apiServers": facts.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    json!({"deployments": deployments.collect::<Vec<_>>(), "facts": facts})
}

/// Returns what is known of the operator of a document that is an archive; of another one there is nothing.
///
/// # Errors
/// A setting that cannot be read.
pub fn operator_facts(document: &Value) -> Result<OperatorFacts, String> {
    let operator = &document["operator"];
    let containers = operator["deployments"][0]["containers"].as_array();
    let arguments = containers
        .into_iter()
        .flatten()
        .map(|container| &container["args"]);
    let arguments: Vec<String> = arguments.flat_map(texts).collect();
    let facts = &operator["facts"];
    Ok(OperatorFacts {
        settings: Settings::of_operator(&arguments)?,
        generated: facts["generatedOverlay"]
            .as_str()
            .and_then(|text| text.parse().ok()),
        services: texts(&facts["services"])
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        endpoints: texts(&facts["apiServers"])
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        notes: Vec::new(),
    })
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the labels of Nodes of others that Spanwire looks at: which those are is said by Locations and by the operator's settings.
fn labels(contents: &Contents<'_>) -> BTreeSet<String> {
    let mut labels: BTreeSet<String> = translate::CONTROL_PLANE.map(str::to_owned).into();
    let settings = contents.operator.map(|facts| facts.settings.clone());
    labels.insert(settings.unwrap_or_default().node_options().topology_label);
    for (_, location) in contents.objects.of(Kind::Location) {
        selected(&location["spec"], &mut labels);
    }
    labels
}

/// Enters the labels that the selectors in a value name.
fn selected(value: &Value, labels: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let matched = fields.get("matchLabels").and_then(Value::as_object);
            labels.extend(matched.into_iter().flatten().map(|(key, _)| key.clone()));
            let expressions = fields.get("matchExpressions").and_then(Value::as_array);
            let keys = expressions.into_iter().flatten();
            labels.extend(keys.filter_map(|expression| expression["key"].as_str().map(str::to_owned)));
            fields.values().for_each(|field| selected(field, labels));
        }
        Value::Array(items) => items.iter().for_each(|item| selected(item, labels)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns of an object what Spanwire looks at: other annotations, other labels and other parts of Nodes may have anything in them.
fn trimmed(kind: Kind, object: &Value, labels: &BTreeSet<String>) -> Value {
    let meta = &object["metadata"];
    let ours = |value: &Value, others: &BTreeSet<String>| {
        let texts = value.as_object().into_iter().flatten();
        let is_ours = |key: &str| {
            [annotations::PREFIX, annotations::KILO]
                .into_iter()
                .any(|prefix| key.starts_with(prefix))
        };
        let ours = texts.filter(|(key, _)| is_ours(key) || others.contains(*key));
        ours.map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Map<_, _>>()
    };
    let mut kept = json!({"apiVersion": object["apiVersion"], "kind": object["kind"]});
    let fields = [
        "name",
        "uid",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
    ];
    kept["metadata"] = picked(meta, &fields);
    kept["metadata"]["annotations"] = ours(&meta["annotations"], &BTreeSet::new()).into();
    kept["metadata"]["labels"] = ours(&meta["labels"], labels).into();
    if kind == Kind::Node {
        let (spec, status) = (&object["spec"], &object["status"]);
        kept["spec"] = picked(spec, &["podCIDRs", "unschedulable"]);
        kept["spec"]["taints"] = each(&spec["taints"], &["key", "effect"]);
        kept["status"] = json!({
            "addresses": status["addresses"],
            "conditions": each(&status["conditions"], &["type", "status", "lastTransitionTime"]),
            "nodeInfo": picked(&status["nodeInfo"], &["bootID", "kernelVersion", "osImage", "architecture", "kubeletVersion"]),
        });
    } else {
        kept["spec"] = object["spec"].clone();
        kept["status"] = object["status"].clone();
    }
    without_nulls(&mut kept);
    kept
}

/// Returns these fields of an object.
fn picked(object: &Value, fields: &[&str]) -> Value {
    fields
        .iter()
        .map(|field| ((*field).to_owned(), object[field].clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// Returns these fields of each object of a list.
fn each(list: &Value, fields: &[&str]) -> Value {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| picked(item, fields)).collect()
}

/// Removes fields without a value: not all of them may be null where objects are read.
fn without_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(without_nulls);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    };
    use spanwire_topology::{PublicKey, lint};

    use super::*;
    use crate::files::{self, Found};

    fn key(byte: u8) -> String {
        PublicKey::new([byte; 32]).to_string()
    }

    fn in_hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    /// All parts of a text of so many bytes.
    fn windows(text: &str, length: usize) -> impl Iterator<Item = &str> {
        let starts = 0..(text.len() + 1).saturating_sub(length);
        starts.filter_map(move |at| text.get(at..at + length))
    }

    /// Whether anywhere in the text there are 32 bytes that are the same, in base64, with or without `=`, or in hexadecimal.
    fn has_key_material(text: &str) -> bool {
        let is_key = |bytes: Vec<u8>| bytes.len() == 32 && bytes.iter().all(|byte| *byte == bytes[0]);
        let in_base64 = windows(text, 43).any(|window| {
            let bytes = STANDARD_NO_PAD
                .decode(window)
                .or_else(|_| URL_SAFE_NO_PAD.decode(window));
            bytes.is_ok_and(is_key)
        });
        in_base64 || windows(text, 64).any(|window| window == window[..2].repeat(32))
    }

    fn archived(objects: &Objects, agents: &Pages, operators: &[Value], facts: &OperatorFacts) -> String {
        archive(&Contents {
            objects,
            operators,
            operator: Some(facts),
            agents,
            findings: &[],
            notes: &[],
        })
        .unwrap()
    }

    fn of(all: impl IntoIterator<Item = Value>) -> Objects {
        let mut objects = Objects::default();
        for object in all {
            objects.add(object).unwrap();
        }
        objects
    }

    fn read(text: &str) -> Found {
        let mut found = Found::default();
        files::documents(&mut found, "bundle.json", text).unwrap();
        found
    }

    #[test]
    fn an_archive_has_no_key_material_and_nothing_of_others() {
        let message = format!("{} and {} are bad", key(2).trim_end_matches('='), in_hex(5));
        let objects = of([
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a1", "annotations": {
                "spanwire.dev/location": "a", "example.com/password": "secret", "my.kubernetes.io/token": "secret",
                "kubectl.kubernetes.io/last-applied-configuration": "secret", "kilo.squat.ai/key": key(6)},
                "labels": {"team.kubernetes.io/cost-centre": "secret", "tier": "edge", "rack": "r1", "other": "secret",
                    "topology.kubernetes.io/region": "a"}},
                "spec": {"podCIDRs": ["10.244.1.0/24"], "providerID": "secret",
                    "taints": [{"key": "karpenter.sh/disrupted", "value": "secret", "effect": "NoSchedule"}]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.1"}], "images": ["secret"],
                    "nodeInfo": {"bootID": "boot", "machineID": "secret"},
                    "conditions": [{"type": "Ready", "status": "True", "message": "secret"}]}}),
            json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "Location", "metadata": {"name": "a", "labels": {"x": "secret"}},
                "spec": {"nodeSelector": {"matchLabels": {"tier": "edge"},
                    "matchExpressions": [{"key": "rack", "operator": "Exists"}]}}}),
            json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNode", "metadata": {"name": "a1"},
                "status": {"publicKey": key(1), "conditions": [{"message": message}]}}),
            json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "Peer", "metadata": {"name": "p", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": key(3)}}, "spec": {"publicKey": key(3)}}),
        ]);
        let agents = Pages::from([
            ("a1".to_owned(), Err(format!("said {}", key(4)))),
            (
                "b1".to_owned(),
                Ok([("/debug/wanted".to_owned(), format!("private_key={}\n", in_hex(7)))].into()),
            ),
        ]);
        for (shown, form) in [
            ("base64", key(1)),
            ("no =", key(2).replace('=', "")),
            ("hexadecimal", in_hex(3)),
        ] {
            assert!(has_key_material(&form), "the test sees keys in {shown}");
        }
        let text = archived(&objects, &agents, &[], &OperatorFacts::default());
        assert!(!has_key_material(&text) && !text.contains("secret"), "{text}");
        for kept in [
            "key/00000001/stands",
            "192.168.1.1",
            "10.244.1.0/24",
            "spanwire.dev/location",
            "\"tier\"",
            "\"rack\"",
            "topology.kubernetes.io/region",
            "karpenter.sh/disrupted",
            "\"noAnswer\": \"said key",
            "private_key=key/",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    /// Two locations, as they are published.
    fn mesh() -> Objects {
        let published = ["a", "b"].into_iter().zip(1_u8..).flat_map(|(location, index)| {
            let other = if location == "a" { "b" } else { "a" };
            let node = format!("{location}1");
            let head = json!({"location": location, "head": {"meshGeneration": 1, "established": [other],
                "leaders": [{"node": node, "role": "Active"}], "memberSlices": [format!("{location}-m1")]}});
            let member = json!({"node": node, "generation": 1, "addresses": [format!("192.168.{index}.1")],
                "prefixes": [format!("10.244.{index}.0/24")], "overlay": [format!("10.4.0.{index}")],
                "publicKey": key(index), "listenPort": 51820, "endpoints": [format!("203.0.113.{index}:51820")]});
            let slice = |name: &str, spec: Value| {
                json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "LocationSlice",
                    "metadata": {"name": format!("{location}-{name}"), "labels": null}, "spec": spec})
            };
            [slice("head", head), slice("m1", json!({"location": location, "members": [member]}))]
        });
        of(published)
    }

    #[test]
    fn an_archive_is_read_as_the_cluster_was() {
        let objects = mesh();
        let metrics = "spanwire_agent_link_up{location=\"b\"} 1\n".to_owned();
        let links = "tunnel to b1 of b: last handshake 71 s ago, 5 bytes received, 6 sent\n".to_owned();
        let pages = [("/metrics", &metrics), ("/debug/links", &links)];
        let pages = pages.map(|(path, text)| (path.to_owned(), text.clone()));
        let agents = Pages::from([
            ("a1".to_owned(), Ok(pages.into())),
            ("b1".to_owned(), Err("not within 2 s".to_owned())),
        ]);
        let operators = [
            json!({"metadata": {"name": "operator"}, "spec": {"template": {"spec": {"containers": [
            {"image": "spanwire:1", "args": ["--listen-port=51821", "--installation=x"]}]}}}}),
        ];
        let facts = OperatorFacts {
            services: BTreeSet::from(["10.96.0.0/12".parse().unwrap()]),
            generated: Some("fd00:1::/64".parse().unwrap()),
            ..OperatorFacts::default()
        };
        let found = read(&archived(&objects, &agents, &operators, &facts));
        let expected = Answers::from([
            ("a1".to_owned(), Ok(Figures::read(&metrics, &links))),
            ("b1".to_owned(), Err("not within 2 s".to_owned())),
        ]);
        assert_eq!(found.answers, expected);
        assert_eq!(found.operator.settings.listen_port, Some(51821));
        assert_eq!(
            (found.operator.services, found.operator.generated),
            (facts.services, facts.generated)
        );
        let (mut before, mut after) = (objects.published(), found.objects.published());
        assert!(lint(&after).is_empty(), "{:?}", lint(&after));
        let keys = |mesh: &mut spanwire_topology::Mesh| {
            let members = mesh
                .locations
                .values_mut()
                .flat_map(|location| Arc::make_mut(&mut location.members).values_mut());
            members.map(|member| member.public_key.take()).collect::<Vec<_>>()
        };
        let (of_before, of_after) = (keys(&mut before), keys(&mut after));
        assert!(of_after.iter().all(Option::is_some) && of_after[0] != of_after[1] && of_after != of_before);
        assert_eq!(before, after, "all but the keys");
    }
}
