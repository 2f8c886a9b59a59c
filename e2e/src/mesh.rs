//! Whether the mesh says of itself that all is well: the conditions of its nodes and locations.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{lab::Lab, wait::wait_until};

/// A leader that was started a moment ago has tunnels to all others by then.
const SOON: Duration = Duration::from_secs(60);

impl Lab {
    /// Waits until every node has a MeshNode that is Ready, and every Location is Ready.
    pub fn wait_mesh_ready(&self) -> Result<()> {
        wait_until("every MeshNode and every Location is Ready", SOON, || {
            let unready = unready(self)?;
            ensure!(unready.is_empty(), "\n  {}", unready.join("\n  "));
            Ok(true)
        })
    }
}

/// Returns what is not Ready, and why.
fn unready(lab: &Lab) -> Result<Vec<String>> {
    let list = lab.get(&["meshnodes,locations"])?;
    let items = list["items"].as_array().context("no list of items")?;
    Ok(of(items, &lab.node_names()))
}

/// Returns what of these objects is not Ready, and which of these nodes has no MeshNode.
fn of(items: &[Value], nodes: &[String]) -> Vec<String> {
    let has = |node: &&String| {
        items
            .iter()
            .any(|item| item["kind"] == "MeshNode" && item["metadata"]["name"] == node.as_str())
    };
    let missing = nodes.iter().filter(|node| !has(node));
    let mut unready: Vec<_> = missing.map(|node| format!("{node} has no MeshNode")).collect();
    if !items.iter().any(|item| item["kind"] == "Location") {
        unready.push("there is no Location".to_owned());
    }
    // A stale Node object has a MeshNode, and no agent that could report.
    let counts = |item: &&Value| {
        item["kind"] != "MeshNode" || nodes.iter().any(|node| item["metadata"]["name"] == node.as_str())
    };
    unready.extend(items.iter().filter(counts).filter_map(why));
    unready
}

/// Returns why an object is not Ready, if it is not.
fn why(item: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = format!("{} {}", text(&item["kind"]), text(&item["metadata"]["name"]));
    let conditions = item["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    let Some(ready) = ready else {
        return Some(format!("{name} has no condition Ready"));
    };
    (ready["status"] != "True").then(|| {
        let [status, reason, message] = ["status", "reason", "message"].map(|key| text(&ready[key]));
        format!("{name}: Ready={status} {reason}: {message}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, name: &str, ready: &str) -> Value {
        json!({"kind": kind, "metadata": {"name": name}, "status": {"conditions": [
            {"type": "Accepted", "status": "True"},
            {"type": "Ready", "status": ready, "reason": "Degraded", "message": "no way to a1"}]}})
    }

    #[test]
    fn nodes_without_a_report_and_conditions_that_are_not_true_are_named_with_their_reason() {
        let nodes = ["a1", "a2", "a3"].map(str::to_owned);
        let silent = json!({"kind": "MeshNode", "metadata": {"name": "a2"}});
        let items = [
            object("MeshNode", "a1", "True"),
            object("MeshNode", "a1-old", "Unknown"),
            silent,
            object("Location", "a", "False"),
        ];
        assert_eq!(
            of(&items, &nodes),
            [
                "a3 has no MeshNode",
                "MeshNode a2 has no condition Ready",
                "Location a: Ready=False Degraded: no way to a1"
            ]
        );
    }

    #[test]
    fn a_mesh_without_locations_is_not_ready() {
        let items = [object("MeshNode", "a1", "True")];
        assert_eq!(of(&items, &["a1".to_owned()]), ["there is no Location"]);
        let whole = [object("MeshNode", "a1", "True"), object("Location", "a", "True")];
        assert!(of(&whole, &["a1".to_owned()]).is_empty());
    }
}
