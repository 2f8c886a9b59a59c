//! Objects that say what cannot be.

use anyhow::{Context, Result};
use spanwire_e2e::{Background, Lab, expect::node_ip};

use crate::{Broken, Found, Warns};

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// Every one of them.
pub(crate) const BROKEN: &[Broken] = &[
    Broken {
        name: "an endpoint that is none",
        inflict: |lab| annotate(lab, "b2", "endpoint=router-of-b"),
        mend: |lab| annotate(lab, "b2", "endpoint-").map(drop),
        found: Found {
            object: "meshnode b2",
            reason: "InvalidField",
            words: &["spanwire.dev/endpoint", "router-of-b"],
        },
        explained: None,
        warns: &[
            Warns::Event("InvalidField: node b2: "),
            Warns::Operator("spanwire.dev/endpoint"),
        ],
    },
    Broken {
        name: "no node of a location may lead",
        inflict: |lab| annotate(lab, "b1", "leader=false"),
        mend: |lab| annotate(lab, "b1", "leader-").map(drop),
        found: Found {
            object: "location b",
            reason: "NoCandidate",
            words: &[],
        },
        explained: None,
        warns: &[Warns::Event("NoCandidate: location b")],
    },
    Broken {
        name: "a location has the pods of another one among its networks",
        inflict: |lab| {
            let node = lab.get(&["node", "a2"])?;
            let network = node["spec"]["podCIDR"].as_str().context("no network")?;
            apply(lab, "Location", "b", &format!("{{cidrs: ['{network}']}}"))
        },
        mend: |lab| apply(lab, "Location", "b", "{}").map(drop),
        found: Found {
            object: "location b",
            reason: "ClaimRejected",
            words: &["spec.cidrs"],
        },
        explained: None,
        warns: &[Warns::Event("ClaimRejected: location b")],
    },
    Broken {
        name: "a peer has the address of a node",
        inflict: |lab| {
            let address = node_ip(lab, "a2")?;
            apply(
                lab,
                "Peer",
                "thief",
                &format!("{{publicKey: '{KEY}', allowedIPs: ['{address}/32']}}"),
            )
        },
        mend: |lab| no_peer(lab, "thief"),
        found: Found {
            object: "peer thief",
            reason: "ClaimRejected",
            words: &["spec.allowedIPs", "a2"],
        },
        explained: None,
        warns: &[Warns::Event("ClaimRejected: peer thief")],
    },
    Broken {
        name: "the preshared key of a peer is nowhere",
        inflict: |lab| {
            let secret = "presharedKeySecretRef: {name: spanwire-preshared-keys, key: printer}";
            apply(
                lab,
                "Peer",
                "printer",
                &format!("{{publicKey: '{KEY}', allowedIPs: [10.98.0.1/32], {secret}}}"),
            )
        },
        mend: |lab| no_peer(lab, "printer"),
        found: Found {
            object: "peer printer",
            reason: "PresharedKeyUnknown",
            words: &[],
        },
        explained: None,
        warns: &[Warns::Agent("cannot read a preshared key")],
    },
];

fn annotate(lab: &Lab, node: &str, what: &str) -> Result<Option<Background>> {
    lab.kubectl([
        "annotate",
        "--overwrite",
        "node",
        node,
        &format!("spanwire.dev/{what}"),
    ])?;
    Ok(None)
}

fn apply(lab: &Lab, kind: &str, name: &str, spec: &str) -> Result<Option<Background>> {
    lab.apply(&format!(
        "apiVersion: spanwire.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    ))?;
    Ok(None)
}

fn no_peer(lab: &Lab, name: &str) -> Result<()> {
    lab.kubectl(["delete", "peer", name, "--ignore-not-found"])
        .map(drop)
}
