//! Spanwire in the lab: its image and its chart.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{
    command::Cmd,
    images::{self, Archive},
    lab::Lab,
    layout::API_PORT,
    progress::Progress,
    wait::wait_until,
};

/// Namespace and release that the chart is installed as.
const RELEASE: &str = "spanwire";
/// The image as nodes call it.
const IMAGE: &str = "docker.io/library/spanwire";

impl Lab {
    /// Installs the chart with the scenario's values and waits until it works.
    pub fn install_spanwire(&self, progress: &Progress) -> Result<()> {
        let image = progress.stage("images of spanwire", image)?;
        install(self, &image, progress)
    }

    /// Installs the chart with the scenario's values and these `--set` expressions, and waits until its pods are Ready, whatever
    /// reaches what.
    pub fn install_spanwire_alone(&self, set: &[&str], progress: &Progress) -> Result<()> {
        let image = progress.stage("images of spanwire", image)?;
        install_alone(self, &image, set, progress)
    }
}

/// Builds the project's image, unless `SPANWIRE_IMAGE` names an archive; its archive.
pub(crate) fn image() -> Result<Archive> {
    let path = match std::env::var_os("SPANWIRE_IMAGE") {
        Some(path) => PathBuf::from(path),
        None => {
            let build = Cmd::new(source().join("images/build")).shows_errors();
            PathBuf::from(build.run().context("cannot build the image")?.trim())
        }
    };
    // A tag that changes with the content is what makes an upgrade roll the pods.
    let key = path
        .file_stem()
        .and_then(|stem| stem.to_str()?.strip_prefix("spanwire-"));
    let key = key
        .with_context(|| format!("{} is not named spanwire-KEY.tar", path.display()))?
        .to_owned();
    Ok(Archive {
        path,
        tag: Some((format!("{IMAGE}:dev"), format!("{IMAGE}:{key}"))),
    })
}

/// Installs or upgrades the chart and waits until everything of it is Ready and all test pods reach each other.
pub(crate) fn install(lab: &Lab, image: &Archive, progress: &Progress) -> Result<()> {
    install_alone(lab, image, &[], progress)?;
    progress.stage("all pods reach all pods", || {
        wait_until("every pod reaches every pod", Duration::from_secs(60), || {
            let matrix = lab.ping_all()?;
            anyhow::ensure!(matrix.complete(), "\n{matrix}\nlocations:\n{}", locations(lab));
            Ok(true)
        })
    })
}

fn install_alone(lab: &Lab, image: &Archive, set: &[&str], progress: &Progress) -> Result<()> {
    progress.stage("images on the nodes", || provide(lab, image))?;
    let values = lab.store.write("values.json", values(lab, image)?.to_string())?;
    progress.stage("helm install", || {
        lab.client("helm")
            .args([
                "upgrade",
                "--install",
                RELEASE,
                "--namespace",
                RELEASE,
                "--create-namespace",
            ])
            .arg(source().join("charts/spanwire"))
            .arg("--values")
            .arg(values)
            .args(set.iter().flat_map(|set| ["--set", set]))
            .run()
    })?;
    progress.stage("spanwire ready", || lab.wait_ready())
}

/// Gives the image to every node that does not have it.
fn provide(lab: &Lab, image: &Archive) -> Result<()> {
    let name = image
        .tag
        .as_ref()
        .map(|(_, name)| format!("name=={name}"))
        .context("the image has a tag")?;
    for node in lab.layout.nodes() {
        let machine = lab.node(&node.name)?;
        if machine
            .run(["ctr", "-n", "k8s.io", "images", "ls", "-q", &name])?
            .trim()
            .is_empty()
        {
            images::import(&|| machine.cmd(["ctr"]), image)?;
        }
    }
    Ok(())
}

/// Returns the scenario's values on top of those that every lab needs.
fn values(lab: &Lab, image: &Archive) -> Result<Value> {
    let address = std::net::SocketAddr::new(lab.layout.api(), API_PORT);
    let tag = image.tag.as_ref().and_then(|(_, name)| name.rsplit(':').next());
    let mut all = json!({"apiServer": address.to_string(), "image": {"repository": "spanwire", "tag": tag}});
    merge(
        all.as_object_mut().context("values are an object")?,
        &lab.scenario().values,
    );
    Ok(all)
}

fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Returns what Spanwire says about the locations, for people.
fn locations(lab: &Lab) -> String {
    lab.kubectl(["get", "locations"])
        .unwrap_or_else(|error| format!("{error:#}"))
}

/// Returns the tree that this was built from.
fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the tree")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_scenario_win_key_by_key() {
        let mut into = json!({"image": {"tag": "dev", "repository": "spanwire"}, "x": 1});
        let from = json!({"image": {"tag": "new"}, "y": 2});
        merge(into.as_object_mut().unwrap(), from.as_object().unwrap());
        assert_eq!(
            into,
            json!({"image": {"tag": "new", "repository": "spanwire"}, "x": 1, "y": 2})
        );
    }
}
