//! What is wrong, in words: from the conditions of objects, from what is published, and from what agents answer. Each finding
//! names the object, the evidence, the next command to type and the page that explains it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::Value;
use spanwire_cluster::observed::{Observable, Observed};
use spanwire_crds::{
    Location, LocationSlice, MeshNode, Peer,
    conditions::{ConditionType, Reason},
    names,
};
use spanwire_topology::{Severity as LintSeverity, lint};

use crate::{
    answer::Verdict,
    figures::Figures,
    objects::{Kind, Objects, Unlisted},
};

mod said;

pub use said::{entries, said};

/// The version of this program.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Shows what runs the agents.
const OF_AGENTS: &str =
    "kubectl get daemonsets --all-namespaces -o wide -l app.kubernetes.io/component=agent";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Packets are lost, or what is asked for is not granted.
    Error,
    /// Packets arrive, but something is not as it should be, or not known.
    Warning,
    /// Good to know; nothing is wrong.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object to look at, like `location c`.
    pub object: String,
    /// What it is, in one word, as conditions have it.
    pub reason: String,
    /// What shows it, and what to do.
    pub evidence: String,
    /// The next command to type.
    pub next: String,
    /// The page that explains it.
    pub page: String,
}

/// What agents answered, by node; an error says why there is no answer.
pub type Answers = BTreeMap<String, Result<Figures, String>>;

/// Returns everything that is wrong, the worst first.
#[must_use]
pub fn findings(objects: &Objects, answers: &Answers) -> Vec<Finding> {
    let mut found = Vec::new();
    for location in objects.observed::<Location>(Kind::Location) {
        set_aside("location", &location, &mut found);
        let status = location.object.as_ref().and_then(|object| object.status.as_ref());
        let conditions = status.map(|status| status.conditions.as_slice());
        of_conditions(
            "location",
            location.name(),
            conditions.unwrap_or_default(),
            &mut found,
        );
    }
    for peer in objects.observed::<Peer>(Kind::Peer) {
        set_aside("peer", &peer, &mut found);
        let status = peer.object.as_ref().and_then(|object| object.status.as_ref());
        let conditions = status.map(|status| status.conditions.as_slice());
        of_conditions("peer", peer.name(), conditions.unwrap_or_default(), &mut found);
    }
    for node in objects.observed::<MeshNode>(Kind::MeshNode) {
        set_aside("meshnode", &node, &mut found);
        of_mesh_node(&node, &mut found);
    }
    for slice in objects.observed::<LocationSlice>(Kind::LocationSlice) {
        set_aside("locationslice", &slice, &mut found);
    }
    of_publication(objects, &mut found);
    of_answers(answers, &mut found);
    of_versions(answers, &mut found);
    found.sort();
    found.dedup();
    found
}

/// Returns what is wrong with the operator, by its Deployments.
#[must_use]
pub fn of_operator(deployments: &[Value]) -> Option<Finding> {
    let metadata = &deployments.first()?["metadata"];
    let mut available = deployments
        .iter()
        .map(|found| found["status"]["availableReplicas"].as_u64());
    if available.any(|replicas| replicas.unwrap_or_default() > 0) {
        return None;
    }
    let [name, space] = ["name", "namespace"].map(|field| metadata[field].as_str().unwrap_or_default());
    let text = "no operator runs: packets go on as it was decided, and leaders that fail are not replaced, nor is any other change \
                decided upon";
    let finding = Finding::new(
        Severity::Warning,
        "deployment",
        name,
        "OperatorAway",
        text.to_owned(),
    );
    let next = format!("kubectl get pods -n {space} -o wide -l app.kubernetes.io/component=operator");
    Some(finding.with(next, "operatoraway"))
}

/// Returns that no agent can be asked, and why.
#[must_use]
pub fn of_no_agents(why: String) -> Finding {
    let finding = Finding::new(Severity::Warning, "daemonset", "agent", "NoAgents", why);
    finding.with(OF_AGENTS.to_owned(), "noagents")
}

/// Returns that objects of a kind are not known.
#[must_use]
pub fn of_unlisted(unlisted: &Unlisted) -> Finding {
    let next = format!(
        "kubectl auth can-i list {}.{}",
        unlisted.kind.plural(),
        names::GROUP
    );
    let finding = Finding {
        severity: Severity::Warning,
        object: "the rights of the user".to_owned(),
        reason: "NotListed".to_owned(),
        evidence: unlisted.to_string(),
        next: String::new(),
        page: String::new(),
    };
    finding.with(next, "notlisted")
}

/// Returns how bad findings are together.
#[must_use]
pub fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|finding| finding.severity).min() {
        Some(Severity::Error) => Verdict::Errors,
        Some(Severity::Warning) => Verdict::Warnings,
        Some(Severity::Note) | None => Verdict::Clean,
    }
}

impl Finding {
    fn new(severity: Severity, kind: &str, name: &str, reason: &str, evidence: String) -> Self {
        Self {
            severity,
            object: format!("{kind} {name}"),
            reason: reason.to_owned(),
            evidence,
            next: format!("kubectl describe {kind} {name}"),
            page: format!("docs/operations/conditions.md#{}", reason.to_lowercase()),
        }
    }

    /// Returns the same with another command and a page of the command line's own document.
    fn with(self, next: String, anchor: &str) -> Self {
        Self {
            next,
            page: format!("docs/cli.md#{anchor}"),
            ..self
        }
    }
}

fn set_aside<K: Observable>(kind: &str, observed: &Observed<K>, found: &mut Vec<Finding>) {
    if !observed.problems.is_empty() {
        let reason = Reason::InvalidField.as_str();
        let (severity, text) = (Severity::Error, observed.complaint());
        found.push(Finding::new(severity, kind, observed.name(), reason, text));
    }
}

fn of_conditions(kind: &str, name: &str, conditions: &[Condition], found: &mut Vec<Finding>) {
    let ours = conditions.iter().filter(|condition| {
        let is_ours = ConditionType::ALL
            .iter()
            .any(|known| known.as_str() == condition.type_);
        // Another condition says why.
        is_ours && condition.status == "False" && condition.reason != Reason::NotYet.as_str()
    });
    for condition in ours {
        let message = if condition.message.is_empty() {
            format!("{} is False", condition.type_)
        } else {
            condition.message.clone()
        };
        found.push(Finding::new(
            severity(&condition.reason),
            kind,
            name,
            &condition.reason,
            message,
        ));
    }
}

fn severity(reason: &str) -> Severity {
    let is = |known: Reason| known.as_str() == reason;
    let warnings = [
        Reason::NoNode,
        Reason::Limited,
        Reason::LeaseRefused,
        Reason::LeaseNotRenewed,
        Reason::TunnelMissing,
        Reason::PresharedKeyNotRead,
        Reason::MemberSilent,
    ];
    if is(Reason::EndpointInMesh) {
        Severity::Note
    } else if warnings.into_iter().any(is) {
        Severity::Warning
    } else {
        Severity::Error
    }
}

fn of_mesh_node(observed: &Observed<MeshNode>, found: &mut Vec<Finding>) {
    let (Some(object), name) = (&observed.object, observed.name()) else {
        return;
    };
    let Some(status) = object
        .status
        .as_ref()
        .filter(|status| !status.conditions.is_empty())
    else {
        let text = "no agent has reported from this node: its pod does not run, or does not reach the API server, or the machine is gone and its \
             Node is left over";
        let finding = Finding::new(Severity::Error, "meshnode", name, "NoReport", text.to_owned());
        let next = format!(
            "kubectl get pods --all-namespaces -o wide -l app.kubernetes.io/component=agent --field-selector spec.nodeName={name}"
        );
        found.push(finding.with(next, "noreport"));
        return;
    };
    of_conditions("meshnode", name, &status.conditions, found);
    let observed = (status.observed_generation, object.metadata.generation);
    if let (Some(followed), Some(written)) = observed
        && followed < written
    {
        let text =
            format!("its agent follows generation {followed} of its spec, of which {written} is written");
        let finding = Finding::new(Severity::Warning, "meshnode", name, "Behind", text);
        found.push(finding.with(format!("kubectl get meshnode {name} -o yaml"), "behind"));
    }
    for link in status.links.iter().filter(|link| !link.up) {
        let text = format!(
            "no leader of location {} answers this leader in the tunnel",
            link.location
        );
        let finding = Finding::new(Severity::Error, "meshnode", name, "LinkDown", text);
        found.push(finding.with(
            format!("kubectl spanwire explain {name} location/{}", link.location),
            "linkdown",
        ));
    }
}

fn of_publication(objects: &Objects, found: &mut Vec<Finding>) {
    for diagnostic in lint(&objects.published()) {
        let severity = match diagnostic.severity() {
            LintSeverity::Error => Severity::Error,
            LintSeverity::Warning => Severity::Warning,
        };
        found.push(Finding {
            severity,
            object: "the published mesh".to_owned(),
            reason: "Publication".to_owned(),
            evidence: diagnostic.to_string(),
            next: "kubectl get locationslices -o yaml".to_owned(),
            page: "docs/cli.md#publication".to_owned(),
        });
    }
}

fn of_answers(answers: &Answers, found: &mut Vec<Finding>) {
    for (node, answer) in answers {
        match answer {
            Ok(figures) => {
                for location in &figures.unreached {
                    let text = format!("by none of its ways anything of location {location} answers");
                    let finding = Finding::new(Severity::Error, "meshnode", node, "Unreached", text);
                    found.push(finding.with(
                        format!("kubectl spanwire explain {node} location/{location}"),
                        "unreached",
                    ));
                }
                let lost = figures
                    .lost
                    .iter()
                    .map(|(leader, of)| format!("{leader} towards {of}"));
                let forsaken = figures
                    .forsaken
                    .iter()
                    .map(|(leader, of)| format!("{leader} of {of}"));
                for leader in lost.chain(forsaken) {
                    let text = format!(
                        "it does not use the leader {leader}, which does not answer or does not forward"
                    );
                    let finding = Finding::new(Severity::Warning, "meshnode", node, "NotUsed", text);
                    found.push(finding.with("kubectl spanwire status".to_owned(), "notused"));
                }
            }
            Err(why) => {
                let text = format!("its agent does not answer, so what it measures is unknown: {why}");
                let finding = Finding::new(Severity::Warning, "meshnode", node, "NoAnswer", text);
                let next = format!(
                    "kubectl get pods --all-namespaces -o wide -l app.kubernetes.io/component=agent --field-selector spec.nodeName={node}"
                );
                found.push(finding.with(next, "noanswer"));
            }
        }
    }
}

/// Agents of several versions work together; what one of them is to do that only the other knows is not done.
fn of_versions(answers: &Answers, found: &mut Vec<Finding>) {
    /// The first so many nodes are named.
    const FEW: usize = 4;
    let mut of_versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, answer) in answers {
        if let Ok(figures) = answer {
            let version = figures.version.as_deref().unwrap_or("an unknown version");
            of_versions.entry(version).or_default().push(node);
        }
    }
    if of_versions.len() > 1 {
        let text = of_versions
            .iter()
            .map(|(version, nodes)| format!("{version} on {}", said::listed(nodes, FEW)));
        let text = format!(
            "agents are of several versions: {}",
            text.collect::<Vec<_>>().join("; ")
        );
        let finding = Finding::new(Severity::Warning, "daemonset", "agent", "VersionSkew", text);
        found.push(finding.with(OF_AGENTS.to_owned(), "versionskew"));
    } else if let Some(version) = of_versions
        .keys()
        .next()
        .filter(|version| **version != OWN_VERSION)
    {
        let text = format!(
            "the agents are of {version}, and kubectl-spanwire is of {OWN_VERSION}: what one of them does not know \
             is not shown"
        );
        let finding = Finding::new(Severity::Note, "daemonset", "agent", "VersionSkew", text);
        found.push(finding.with(OF_AGENTS.to_owned(), "versionskew"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_differ_are_named_with_their_nodes() {
        let answer = |version: Option<&str>| {
            Ok(Figures {
                version: version.map(str::to_owned),
                ..Figures::default()
            })
        };
        let found = |answers: &[(&str, Result<Figures, String>)]| {
            let answers = answers
                .iter()
                .map(|(node, answer)| ((*node).to_owned(), answer.clone()));
            let mut found = Vec::new();
            of_versions(&answers.collect(), &mut found);
            found
                .into_iter()
                .map(|one| (one.severity, one.evidence))
                .collect::<Vec<_>>()
        };
        let own = || answer(Some(OWN_VERSION));
        assert!(found(&[("a1", own()), ("a2", own()), ("b1", Err("gone".to_owned()))]).is_empty());
        let text = format!(
            "agents are of several versions: {OWN_VERSION} on a1; 9.0.0 on a2, b1, b2, b3 and 1 more"
        );
        let newer = || answer(Some("9.0.0"));
        let mixed = ["a2", "b1", "b2", "b3", "b4"].map(|node| (node, newer()));
        let mixed: Vec<_> = mixed.into_iter().chain([("a1", own())]).collect();
        assert_eq!(found(&mixed), [(Severity::Warning, text)]);
        let (severity, text) = &found(&[("a1", newer())])[0];
        assert!(
            *severity == Severity::Note && text.starts_with("the agents are of 9.0.0, "),
            "{text}"
        );
        let (severity, text) = &found(&[("a1", own()), ("a2", answer(None))])[0];
        assert!(
            *severity == Severity::Warning && text.ends_with("an unknown version on a2"),
            "{text}"
        );
    }
}
