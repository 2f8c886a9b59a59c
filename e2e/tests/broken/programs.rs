//! Spanwire's own programs, which do not run, may not do their work, or are at odds with another one.

use anyhow::{Context, Result};
use spanwire_e2e::{Background, Lab, expect::pid};

use crate::{Broken, Found, Warns};

const OPERATOR: [&str; 3] = ["--namespace", "spanwire", "deployment/spanwire-operator"];
/// The Role of the agents in their own namespace: their Leases.
const OF_LEASES: [&str; 4] = ["--namespace", "spanwire", "role", "spanwire-agent"];

/// Every one of them.
pub(crate) const BROKEN: &[Broken] = &[
    Broken {
        name: "no operator runs",
        inflict: |lab| replicas(lab, "0"),
        mend: |lab| {
            replicas(lab, "2")?;
            lab.kubectl(["rollout", "status", "--timeout=90s"].into_iter().chain(OPERATOR))
                .map(drop)
        },
        found: Found {
            object: "deployment spanwire-operator",
            reason: "OperatorAway",
            words: &["no operator runs"],
        },
        explained: None,
        warns: &[],
    },
    Broken {
        name: "an agent hangs",
        inflict: |lab| signal(lab, "-STOP"),
        mend: |lab| signal(lab, "-CONT").map(drop),
        found: Found {
            object: "meshnode b2",
            reason: "NoAnswer",
            words: &["its agent does not answer"],
        },
        explained: None,
        warns: &[Warns::WithoutApiServer],
    },
    Broken {
        name: "agents may not write their leases",
        inflict: |lab| rules(lab, "[]"),
        mend: |lab| {
            let leases = r#"[{"apiGroups":["coordination.k8s.io"],"resources":["leases"],"verbs":["create","patch"]}]"#;
            rules(lab, leases).map(drop)
        },
        found: Found {
            object: "meshnode b1",
            reason: "LeaseRefused",
            words: &["leases"],
        },
        explained: None,
        warns: &[Warns::WithoutApiServer],
    },
    Broken {
        name: "another program removes the nft table again and again",
        inflict: |lab| {
            let again = "while sleep 0.3; do nft delete table inet spanwire 2>/dev/null; done";
            lab.node("a2")?.spawn(["sh", "-c", again]).map(Some)
        },
        mend: |_| Ok(()),
        found: Found {
            object: "meshnode a2",
            reason: "Degraded",
            words: &["its nft table again and again"],
        },
        explained: None,
        warns: &[
            Warns::Agent("repaired what another program had changed"),
            Warns::Agent("again and again"),
            Warns::Agent("applied, but not so when read again"),
        ],
    },
];

fn replicas(lab: &Lab, count: &str) -> Result<Option<Background>> {
    let count = format!("--replicas={count}");
    lab.kubectl(["scale", &count].into_iter().chain(OPERATOR))?;
    Ok(None)
}

fn signal(lab: &Lab, signal: &str) -> Result<Option<Background>> {
    let pid = pid(lab, "b2", "spanwire-agent").context("no agent on b2")?;
    lab.node("b2")?.run(["kill", signal, &pid])?;
    Ok(None)
}

fn rules(lab: &Lab, rules: &str) -> Result<Option<Background>> {
    let patch = format!("{{\"rules\":{rules}}}");
    let patch = ["--type=merge", "--patch", &patch];
    lab.kubectl(["patch"].into_iter().chain(OF_LEASES).chain(patch))?;
    Ok(None)
}
