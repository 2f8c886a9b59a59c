//! Where objects are read from: the cluster, or files in its place.

use std::path::PathBuf;

use anyhow::{anyhow, bail, ensure};
use spanwire_topology::{decide, scenario};

use crate::{
    cluster::{Access, Reach},
    files,
    findings::Answers,
    objects::{Kind, Objects, Unlisted},
};

/// What was read, and from where.
pub(super) struct Source {
    /// The cluster; `None`: it was files.
    pub(super) access: Option<Access>,
    /// The objects.
    pub(super) objects: Objects,
    /// The kinds that the user may not list, where the rest is of use.
    pub(super) unlisted: Vec<Unlisted>,
    /// What agents answered, of which a bundle among the files has it.
    pub(super) answers: Answers,
}

/// Reads the objects of these kinds from the cluster, or all of the files where some are named.
pub(super) async fn read(reach: &Reach, files: &[PathBuf], kinds: &[Kind]) -> anyhow::Result<Source> {
    if files.is_empty() {
        let access = reach.connect().await?;
        let objects = access.objects(kinds).await?;
        return Ok(Source {
            access: Some(access),
            objects,
            unlisted: Vec::new(),
            answers: Answers::new(),
        });
    }
    of_files(files)
}

/// Reads the objects of those of these kinds from the cluster that the user may list, or all of the files where some are named.
pub(super) async fn read_listed(reach: &Reach, files: &[PathBuf], kinds: &[Kind]) -> anyhow::Result<Source> {
    if files.is_empty() {
        let access = reach.connect().await?;
        let (objects, unlisted) = access.listed(kinds).await?;
        return Ok(Source {
            access: Some(access),
            objects,
            unlisted,
            answers: Answers::new(),
        });
    }
    of_files(files)
}

fn of_files(files: &[PathBuf]) -> anyhow::Result<Source> {
    let found = files::read(files)?;
    let objects = match &found.scenarios[..] {
        [] => found.objects,
        [(file, script)] => {
            ensure!(
                found.objects.is_empty(),
                "a scenario is read alone: name no other file"
            );
            let run = scenario::run(script, |_, words| (words == ["walk"]).then(String::new));
            let (_, world) = run.map_err(|problem| anyhow!("{file}: {problem}"))?;
            Objects::of_mesh(&decide(&world.facts, &world.mesh).mesh)
        }
        _ => bail!("a scenario is read alone: name one file"),
    };
    Ok(Source {
        access: None,
        objects,
        unlisted: Vec::new(),
        answers: found.answers,
    })
}
