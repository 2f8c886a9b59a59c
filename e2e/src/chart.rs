//! Spanwire in the lab: its image and its chart.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{
    cluster,
    command::Cmd,
    lab::{Lab, wait_until},
    layout::API_PORT,
    progress::Progress,
};

/// Namespace and release that the chart is installed as.
const RELEASE: &str = "spanwire";

/// Builds the project's image; its archive.
pub(crate) fn images() -> Result<PathBuf> {
    let script = source().join("images/build");
    let path = Cmd::new(script)
        .run()
        .context("cannot build the image spanwire:dev")?;
    Ok(PathBuf::from(path.trim()))
}

/// Installs the chart and waits until everything of it is Ready and all test pods reach each other.
pub(crate) fn install(lab: &Lab, progress: &Progress) -> Result<()> {
    let image = progress.stage("images of spanwire", images)?;
    progress.stage("images on the nodes", || provide(lab, &image))?;
    let values = lab.store.write("values.json", values(lab)?.to_string())?;
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
            .run()
    })?;
    progress.stage("spanwire ready", || cluster::wait_ready(lab))?;
    progress.stage("all pods reach all pods", || {
        wait_until("every pod reaches every pod", Duration::from_secs(60), || {
            let matrix = lab.ping_all()?;
            anyhow::ensure!(matrix.complete(), "\n{matrix}\nlocations:\n{}", locations(lab));
            Ok(true)
        })
    })
}

/// Gives the image to every node that has another one or none.
fn provide(lab: &Lab, archive: &Path) -> Result<()> {
    let archive = archive.to_string_lossy();
    for node in lab.layout.nodes() {
        let (machine, file) = (lab.node(&node.name)?, format!("imported/{}", node.name));
        if fs::read_to_string(lab.store.path(&file)).is_ok_and(|has| has == archive) {
            continue;
        }
        machine.run(["ctr", "--namespace", "k8s.io", "images", "import", &archive])?;
        lab.store.write(&file, archive.as_bytes())?;
    }
    Ok(())
}

/// The scenario's values on top of those that every lab needs.
fn values(lab: &Lab) -> Result<Value> {
    let address = std::net::SocketAddr::new(lab.layout.api(), API_PORT);
    let mut all =
        json!({"apiServer": address.to_string(), "image": {"repository": "spanwire", "tag": "dev"}});
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

/// What Spanwire says about the locations, for people.
fn locations(lab: &Lab) -> String {
    lab.kubectl(["get", "locations"])
        .unwrap_or_else(|error| format!("{error:#}"))
}

/// The tree that this was built from.
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
