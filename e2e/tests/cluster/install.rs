//! Before, during and after the installation.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab, Progress,
    expect::{SOON, all_reach_all, leader},
    traces::{keep, kept, main_routes, same, snapshot},
    wait_until,
};

pub(crate) fn nothing_crosses_without_spanwire(lab: &Lab) -> Result<()> {
    wait_until("duplicate address detection is over", SOON, || {
        for node in lab.layout().nodes() {
            let tentative = lab
                .node(&node.name)?
                .run(["ip", "-6", "-o", "address", "show", "tentative"])?;
            ensure!(tentative.trim().is_empty(), "{}: {tentative}", node.name);
        }
        Ok(true)
    })?;
    keep(lab, "before.json", &snapshot(lab)?)?;
    keep(lab, "main.json", &main_routes(lab)?)?;
    let matrix = lab.ping_all()?;
    for (from, missing) in &matrix.unreached {
        let mine = &lab.node_layout(from)?.location;
        let others: Vec<_> = lab
            .layout()
            .nodes()
            .filter(|n| n.location != *mine)
            .map(|n| n.name.clone())
            .collect();
        ensure!(
            *missing == others,
            "{from} does not miss just the other locations:\n{matrix}"
        );
    }
    ensure!(
        matrix.unreached.len() == matrix.nodes.len(),
        "a pod reaches all others:\n{matrix}"
    );
    Ok(())
}

pub(crate) fn installs(lab: &Lab) -> Result<()> {
    lab.install_spanwire(&Progress::shown())
}

/// The error names the release that is there, and nothing is left of the one that was refused.
pub(crate) fn a_second_release_is_refused(lab: &Lab) -> Result<()> {
    let install = [
        "install",
        "another",
        "--namespace",
        "elsewhere",
        "--create-namespace",
    ];
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("charts/spanwire");
    let refused = lab.client("helm").args(install).arg(chart).finish()?;
    ensure!(
        refused.code != 0
            && refused
                .stderr
                .contains("Spanwire is installed in this cluster already")
            && refused.stderr.contains("release spanwire in spanwire"),
        "{refused:?}"
    );
    let releases = lab
        .client("helm")
        .args(["list", "--all-namespaces", "--short"])
        .run()?;
    ensure!(releases.trim() == "spanwire", "{releases}");
    let roles = lab.kubectl(["get", "clusterroles", "-o", "name"])?;
    ensure!(!roles.contains("another"), "{roles}");
    lab.wait_mesh_ready()
}

pub(crate) fn locations_show_their_leaders(lab: &Lab) -> Result<()> {
    for location in ["a", "b", "c"] {
        let leader = leader(lab, location)?;
        ensure!(leader.starts_with(location), "{leader} leads {location}");
    }
    let table = lab.kubectl(["get", "loc"])?;
    let head: Vec<_> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure!(
        head == ["NAME", "LEADER", "NODES", "ENDPOINT", "READY", "AGE"],
        "{table}"
    );
    let endpoints = column(&table, "ENDPOINT")?;
    let outside = |place: usize, router: &str| endpoints[place].starts_with(router);
    ensure!(
        outside(0, "203.0.113.11:") && outside(1, "203.0.113.12:") && endpoints[2].is_empty(),
        "c sits behind NAT, and its own addresses are no way to it from outside:\n{table}"
    );
    let ready = column(&table, "READY")?;
    ensure!(ready == ["True"; 3], "{table}");
    Ok(())
}

pub(crate) fn nodes_show_that_they_are_ready(lab: &Lab) -> Result<()> {
    let table = lab.kubectl(["get", "meshnodes"])?;
    let ready = column(&table, "READY")?;
    ensure!(
        ready.len() == 7 && ready.iter().all(|one| one == "True"),
        "{table}"
    );
    let (names, roles) = (column(&table, "NAME")?, column(&table, "LEADER")?);
    for (name, role) in names.iter().zip(roles) {
        // With two leaders in each location, only the third node of a is none.
        ensure!(role.is_empty() == (name == "a3"), "{name} is {role:?}:\n{table}");
    }
    Ok(())
}

/// Returns the cells of a column of a table of kubectl's, which begin below their heading.
fn column(table: &str, heading: &str) -> Result<Vec<String>> {
    let head = table.lines().next().unwrap_or_default();
    let start = head
        .split_whitespace()
        .find(|word| *word == heading)
        .and_then(|_| head.find(heading))
        .with_context(|| format!("no column {heading}:\n{table}"))?;
    let cells = table.lines().skip(1).map(|line| {
        let cell = line.get(start..).unwrap_or_default();
        if cell.starts_with(' ') {
            return String::new();
        }
        cell.split_whitespace().next().unwrap_or_default().to_owned()
    });
    Ok(cells.collect())
}

pub(crate) fn main_table_is_untouched(lab: &Lab) -> Result<()> {
    same(&kept(lab, "main.json")?, &main_routes(lab)?)
}

pub(crate) fn uninstall(lab: &Lab) -> Result<()> {
    all_reach_all(lab)?;
    lab.helm(["uninstall", "spanwire", "--namespace", "spanwire", "--wait"])?;
    wait_until("all pods of spanwire are gone", SOON, || {
        let pods = lab.kubectl(["get", "pods", "--namespace", "spanwire", "--no-headers"])?;
        ensure!(pods.trim().is_empty(), "{pods}");
        Ok(true)
    })?;
    let before = kept(lab, "before.json")?;
    wait_until("every node is as it was", Duration::from_secs(20), || {
        same(&before, &snapshot(lab)?)?;
        Ok(true)
    })?;
    same(&kept(lab, "main.json")?, &main_routes(lab)?)?;
    let kinds = lab.kubectl(["get", "crd", "-o", "name"])?;
    ensure!(
        kinds.contains("locations.spanwire.dev"),
        "uninstall keeps the resources: {kinds}"
    );
    Ok(())
}
