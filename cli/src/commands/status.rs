//! `status` and `diagnose`.

mod watch;

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    bundle,
    live::ask,
    source::{Source, read, read_listed},
};
use crate::{
    answer::{Answer, ListFormat, formatted, names, of_objects},
    args::{DiagnoseArgs, StatusArgs},
    cluster::{Access, Reach},
    findings::{Finding, findings, of_no_agents, of_operator, of_unlisted, said, verdict},
    objects::{Kind, Unlisted},
    status::{Report, active_leaders, report},
};

/// What is read for both; Nodes are not.
const KINDS: [Kind; 4] = [Kind::Location, Kind::Peer, Kind::MeshNode, Kind::LocationSlice];

pub(super) async fn run(reach: &Reach, args: &StatusArgs) -> anyhow::Result<Answer> {
    if args.watch {
        ensure!(
            matches!(args.output, None | Some(ListFormat::Wide)),
            "--watch is for people: leave -o away, or write -o wide"
        );
        watch::watch(&reach.connect().await?, args).await?;
        return Ok(Answer::default());
    }
    if args.output == Some(ListFormat::Name) {
        return names_of_locations(reach, args).await;
    }
    let (report, notes) = if args.filename.is_empty() {
        look(&reach.connect().await?, args).await?
    } else {
        let source = read(reach, &args.filename, &KINDS).await?;
        (report(&source.objects, &source.answers, None), Vec::new())
    };
    Ok(Answer {
        text: formatted(&report, args.output.and_then(ListFormat::format), |wide| {
            report.text(wide)
        })?,
        notes,
        verdict: verdict(&report.findings),
    })
}

/// Returns the locations by their names. No agent is asked for that, and nothing is judged.
async fn names_of_locations(reach: &Reach, args: &StatusArgs) -> anyhow::Result<Answer> {
    let kinds = [Kind::Location, Kind::LocationSlice];
    let source = read_listed(reach, &args.filename, &kinds).await?;
    let selected = match &source.access {
        Some(access) => selected(access, args).await?,
        None => None,
    };
    let report = report(&source.objects, &source.answers, selected.as_deref());
    let locations = report
        .locations
        .iter()
        .map(|row| format!("location {}", row.name));
    Ok(Answer {
        text: names(&locations.collect::<Vec<_>>()),
        notes: source.unlisted.iter().map(ToString::to_string).collect(),
        ..Answer::default()
    })
}

async fn look(access: &Access, args: &StatusArgs) -> anyhow::Result<(Report, Vec<String>)> {
    let (objects, unlisted) = access.listed(&KINDS).await?;
    let selected = selected(access, args).await?;
    let nodes = active_leaders(&objects.published()).into_iter().collect();
    let ((answers, unasked), operator) = tokio::join!(ask(access, &nodes), operator(access));
    let mut report = report(&objects, &answers, selected.as_deref());
    let notes = add(operator, unasked, &unlisted, &mut report.findings);
    Ok((report, notes))
}

/// Returns the Locations that are to be shown; `None`: all.
async fn selected(access: &Access, args: &StatusArgs) -> anyhow::Result<Option<Vec<String>>> {
    let Some(selector) = &args.selector else {
        return Ok(None);
    };
    let found = access.list(&Kind::Location.path(), Some(selector)).await;
    let found = found.with_context(|| format!("-l {selector}"))?;
    Ok(Some(found.iter().filter_map(name).collect()))
}

/// Returns what is wrong with the operator; an error is for those who may not read its Deployment.
async fn operator(access: &Access) -> Result<Option<Finding>, String> {
    let found = access.operators().await;
    let found = found.map_err(|error| format!("whether the operator runs is not known: {error}"))?;
    Ok(of_operator(&found))
}

/// Adds what is wrong besides, and what is not known; returns what is to be noted.
fn add(
    operator: Result<Option<Finding>, String>,
    unasked: Option<String>,
    unlisted: &[Unlisted],
    found: &mut Vec<Finding>,
) -> Vec<String> {
    let mut notes = Vec::new();
    match operator {
        Ok(finding) => found.extend(finding),
        Err(note) => notes.push(note),
    }
    found.extend(unasked.map(of_no_agents));
    found.extend(unlisted.iter().map(of_unlisted));
    found.sort();
    notes
}

fn name(object: &Value) -> Option<String> {
    object["metadata"]["name"].as_str().map(str::to_owned)
}

pub(super) async fn diagnose(reach: &Reach, args: &DiagnoseArgs) -> anyhow::Result<Answer> {
    let Source {
        access,
        objects,
        unlisted,
        answers: mut of_file,
    } = read_listed(reach, &args.filename, &KINDS).await?;
    let mut notes = Vec::new();
    let mesh = objects.published();
    for name in &args.locations {
        let published = mesh.locations.keys().any(|location| location.as_str() == name);
        let known = published || objects.get(Kind::Location, name).is_some();
        ensure!(
            known,
            "there is no location {name}; `kubectl get locations` shows them"
        );
    }
    let of_location =
        |name: &str| args.locations.is_empty() || args.locations.iter().any(|wanted| wanted == name);
    let locations = mesh
        .locations
        .iter()
        .filter(|(name, _)| of_location(name.as_str()));
    let nodes: BTreeSet<String> = locations
        .flat_map(|(_, location)| location.members.keys().map(ToString::to_string))
        .collect();
    let (answers, unasked) = match &access {
        Some(access) => ask(access, &nodes).await,
        None => {
            of_file.retain(|node, _| nodes.contains(node));
            (of_file, None)
        }
    };
    let mut found = findings(&objects, &answers);
    if let Some(access) = &access {
        notes.extend(add(operator(access).await, unasked, &unlisted, &mut found));
    }
    if !args.locations.is_empty() {
        found.retain(|finding| concerns(&finding.object, &args.locations, &nodes));
    }
    if let Some(path) = &args.bundle {
        bundle::write(path, access.as_ref(), objects, &answers, &found, &mut notes).await?;
    }
    Ok(Answer {
        text: of_objects(&found, args.output, &objects_of(&found), |wide| {
            said(&found, wide)
        })?,
        notes,
        verdict: verdict(&found),
    })
}

fn objects_of(found: &[Finding]) -> Vec<String> {
    found.iter().map(|finding| finding.object.clone()).collect()
}

/// Returns whether an object is one of these locations or nodes, or of all.
fn concerns(object: &str, locations: &[String], nodes: &BTreeSet<String>) -> bool {
    match object.split_once(' ') {
        Some(("location", name)) => locations.iter().any(|location| location == name),
        Some(("meshnode" | "node", name)) => nodes.contains(name),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_other_locations_are_left_out() {
        let (locations, nodes) = (["a".to_owned()], BTreeSet::from(["a1".to_owned()]));
        let of = |object: &str| concerns(object, &locations, &nodes);
        assert!(of("location a") && of("meshnode a1") && of("the published mesh") && of("peer p"));
        assert!(of("daemonset agent") && of("the rights of the user"));
        assert!(!of("location b") && !of("meshnode b1"));
    }
}
