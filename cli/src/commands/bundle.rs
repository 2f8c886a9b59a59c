//! `diagnose --bundle`.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::Context as _;

use super::live::pages;
use crate::{
    bundle::{Contents, Pages, archive},
    cluster::Access,
    findings::{Answers, Finding},
    objects::{Kind, Objects},
};

/// Writes what was read, and what else of the cluster those want to see who help, to a new file.
pub(super) async fn write(
    path: &Path,
    access: Option<&Access>,
    mut objects: Objects,
    answers: &Answers,
    findings: &[Finding],
    notes: &mut Vec<String>,
) -> anyhow::Result<()> {
    // Its owner alone reads it.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
    let mut agents: Pages = answers
        .iter()
        .filter_map(|(node, answer)| Some((node.clone(), Err(answer.as_ref().err()?.clone()))))
        .collect();
    let (mut operators, mut operator) = (Vec::new(), None);
    if let Some(access) = access {
        match access.objects(&[Kind::Node]).await {
            Ok(nodes) => nodes
                .of(Kind::Node)
                .for_each(|(name, node)| objects.insert(Kind::Node, name.clone(), node.clone())),
            Err(error) => notes.push(format!("the bundle has no Nodes: {error:#}")),
        }
        let answering = answers.iter().filter(|(_, answer)| answer.is_ok());
        agents.extend(pages(access, answering.map(|(node, _)| node.clone())).await);
        // That it cannot be read is in the notes of what is known of the operator.
        operators = access.operators().await.unwrap_or_default();
        let facts = access.operator().await;
        notes.extend(facts.notes.iter().cloned());
        operator = Some(facts);
    }
    let contents = Contents {
        objects: &objects,
        operators: &operators,
        operator: operator.as_ref(),
        agents: &agents,
        findings,
        notes,
    };
    file.write_all(archive(&contents)?.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    notes.push(format!("{} has what was read, without keys", path.display()));
    Ok(())
}
