//! Spanwire's things under other names, and two leaders of one location that both carry members.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab,
    defences::{Names, Trial, leader_and_follower},
    expect::{SOON, all_reach_all, leader, loses_nothing_between, pod_ip},
    plaintext::Watch,
    wait_until,
};

/// As the scenario calls them.
const LINK: &str = "mesh7";
const NAMES: Names = Names {
    link: LINK,
    tables: [4711, 4712],
    nft_table: "elsewhere",
};

pub(crate) fn other_names(lab: &Lab) -> Result<()> {
    for node in lab.layout().nodes() {
        let machine = lab.node(&node.name)?;
        let rules = machine.run(["ip", "rule"])?;
        ensure!(
            rules.contains("lookup 4711") && !rules.contains("lookup 51830"),
            "{}: {rules}",
            node.name
        );
        let tables = machine.run(["nft", "list", "tables"])?;
        ensure!(
            tables.contains("inet elsewhere") && !tables.contains("inet spanwire"),
            "{}: {tables}",
            node.name
        );
    }
    let leader = lab.node(&leader(lab, "a")?)?;
    let mark = leader.run(["wg", "show", LINK, "fwmark"])?;
    ensure!(mark.trim() == "0x100", "the mark is {mark}");
    Ok(())
}

/// There is no device of the CNI's between a pod and the LAN: what is left is the router, who would have it.
fn by_the_lan(lab: &Lab) -> Result<Trial> {
    Ok(Trial {
        nodes: leader_and_follower(lab, "a", NAMES)?.into(),
        far: "b2".to_owned(),
        names: NAMES,
        watch: Watch::router_of(lab, "a", "b")?,
    })
}

pub(crate) fn dead(lab: &Lab) -> Result<()> {
    by_the_lan(lab)?.each_holds_alone(lab)
}

pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    by_the_lan(lab)?.without_all_of_them_plaintext_is_seen(lab)
}

pub(crate) fn two_active(lab: &Lab) -> Result<()> {
    let far = lab.node(&leader(lab, "a")?)?;
    let carries = |node: &str| -> Result<String> {
        let mesh_node = lab.get(&["meshnode", node])?;
        let key = mesh_node["status"]["publicKey"]
            .as_str()
            .context("a key")?
            .to_owned();
        let shown = far.run(["wg", "show", LINK, "allowed-ips"])?;
        let line = shown.lines().find(|line| line.starts_with(&key));
        Ok(line.unwrap_or_default().to_owned())
    };
    // Each leader carries itself, so with two nodes each carries one.
    let of = |node: &str| -> Result<String> {
        let pod = pod_ip(lab, node)?.to_string();
        let (network, _) = pod.rsplit_once('.').context("IPv4")?;
        Ok(format!("{network}.0/24"))
    };
    loses_nothing_between(
        lab,
        &[("a1", "a2"), ("b1", "b2"), ("a3", "b2"), ("b1", "a3")],
        || {
            let patch = r#"{"spec":{"leaders":{"active":2}}}"#;
            lab.kubectl(["patch", "location", "b", "--type=merge", "-p", patch])?;
            wait_until("each carries its own pods", SOON, || {
                for (node, other) in [("b1", "b2"), ("b2", "b1")] {
                    let carried = carries(node)?;
                    ensure!(
                        carried.contains(&of(node)?) && !carried.contains(&of(other)?),
                        "{node} carries {carried}"
                    );
                }
                Ok(true)
            })
        },
    )?;
    all_reach_all(lab)?;
    let patch = r#"{"spec":{"leaders":{"active":1}}}"#;
    lab.kubectl(["patch", "location", "b", "--type=merge", "-p", patch])?;
    wait_until("one carries both", SOON, || {
        let first = carries(&leader(lab, "b")?)?;
        Ok(first.contains(&of("b1")?) && first.contains(&of("b2")?))
    })?;
    all_reach_all(lab)
}
