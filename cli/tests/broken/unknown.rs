//! What cannot be known, and what is published that is not to be.

use serde_json::{Value, json};
use spanwire_cli::{
    findings::{Answers, Severity, findings, of_no_agents, of_unlisted},
    objects::{Kind, Unlisted},
};

use crate::{HEALTHY, cluster, named};

#[test]
fn what_cannot_be_asked_or_read_is_named() {
    let why = "the namespace spanwire has no agent, so what agents measure is unknown";
    named(
        &[of_no_agents(why.to_owned())],
        Severity::Warning,
        "daemonset agent",
        &[why],
    );
    let unlisted = Unlisted {
        kind: Kind::MeshNode,
        why: "meshnodes.spanwire.dev is forbidden".to_owned(),
    };
    named(
        &[of_unlisted(&unlisted)],
        Severity::Warning,
        "the rights of the user",
        &["meshnodes are not listed", "is forbidden"],
    );
}

#[test]
fn what_is_published_and_not_followed_or_contradicts_itself_is_named() {
    let mut objects = cluster(HEALTHY, &[]);
    let mut node = objects.get(Kind::MeshNode, "a2").unwrap().clone();
    node["metadata"]["generation"] = json!(3);
    node["status"]["observedGeneration"] = json!(2);
    objects.insert(Kind::MeshNode, "a2".to_owned(), node.clone());
    named(
        &findings(&objects, &Answers::new()),
        Severity::Warning,
        "meshnode a2",
        &["follows generation 2 of its spec, of which 3 is written"],
    );
    node["status"]["observedGeneration"] = json!(3);
    objects.insert(Kind::MeshNode, "a2".to_owned(), node);
    assert_eq!(findings(&objects, &Answers::new()), []);

    let heads: Vec<(String, Value)> = objects
        .of(Kind::LocationSlice)
        .filter(|(_, slice)| slice["spec"]["location"] == "b" && slice["spec"]["head"].is_object())
        .map(|(name, slice)| (name.clone(), slice.clone()))
        .collect();
    let [(name, head)] = heads.as_slice() else {
        panic!("{heads:#?}");
    };
    let mut head = head.clone();
    head["spec"]["head"]["leaders"]
        .as_array_mut()
        .unwrap()
        .push(json!({"node": "b9", "role": "Standby"}));
    objects.insert(Kind::LocationSlice, name.clone(), head);
    named(
        &findings(&objects, &Answers::new()),
        Severity::Error,
        "the published mesh",
        &["location b: leader b9 is no member of it"],
    );
}
