//! `kubectl spanwire` in a healthy cluster: everything is known, and nothing is wrong.

use std::time::Duration;

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{by_role, leader},
    plugin_says, wait_until,
};

/// By then every leader has begun a session with every other.
const CONNECTED: Duration = Duration::from_secs(20);

pub(crate) fn nothing_is_wrong(lab: &Lab) -> Result<()> {
    // When all packets arrive a leader that stands by may still wait for WireGuard to repeat its first handshake (5 s).
    let said = || plugin_says(lab, 0, &["status"]).map(|status| status.contains("Nothing is wrong."));
    wait_until("nothing is wrong", CONNECTED, said)?;
    let status = plugin_says(lab, 0, &["status"])?;
    let links: Vec<&str> = status.lines().filter(|line| line.contains(" > ")).collect();
    ensure!(
        links.len() == 6,
        "not each location has a link to each other:\n{status}"
    );
    for link in links {
        ensure!(
            link.contains(" up ") && !link.contains('?'),
            "not all is known of {link}:\n{status}"
        );
    }
    let diagnosis = plugin_says(lab, 0, &["diagnose"])?;
    ensure!(diagnosis.contains("Nothing is wrong."), "{diagnosis}");
    let device = plugin_says(lab, 0, &["showconf", "node", &leader(lab, "a")?, "-o", "wg"])?;
    ensure!(device.matches("[Peer]").count() >= 2, "{device}");
    Ok(())
}

/// Between pods and nodes, leaders and followers, in every direction.
pub(crate) fn kernels_do_what_is_planned(lab: &Lab) -> Result<()> {
    let pods = lab.pods()?;
    let pod = |node: &str| pods[node][0].to_string();
    let ways = [
        (pod("a2"), "location/c".to_owned()),
        (pod("a3"), pod("b2")),
        ("a3".to_owned(), "c2".to_owned()),
        ("location/b".to_owned(), pod("a3")),
        (pod("b1"), "a1".to_owned()),
    ];
    for (from, to) in &ways {
        let way = plugin_says(lab, 0, &["explain", from, to])?;
        let is_hop = |line: &&str| {
            line.trim_start()
                .split_once(". ")
                .is_some_and(|(number, _)| number.parse::<u8>().is_ok())
        };
        let hops = way.lines().filter(is_hop).count();
        ensure!(
            way.contains("[encrypted]")
                && way.matches("arrives after").count() == 2
                && way.matches("with packets of up to").count() == 2
                && way.matches("     its kernel: ").count() == hops
                && way.matches("     its firewall: ").count() == hops
                && !way.contains("dropped by"),
            "not all is known of the way from {from} to {to}:\n{way}"
        );
    }
    Ok(())
}

/// A node measures the way to another location leg by leg.
pub(crate) fn legs_are_measured(lab: &Lab) -> Result<()> {
    let [from, to] = far_apart(lab)?;
    let table = plugin_says(lab, 0, &["ping", &from, &to])?;
    let rows: Vec<&str> = table.lines().skip(1).collect();
    let of = |by: &str| rows.iter().filter(|row| row.contains(by)).count();
    ensure!(
        of(" lan ") == 2
            && of(" tunnel ") == 1
            && of(" mesh ") == 1
            && rows.iter().all(|row| row.contains(" 0 of 5 ")),
        "not every leg of the way from {from} to {to} was measured:\n{table}"
    );
    Ok(())
}

/// A follower and a leader that stands by, of two locations: what goes between them passes an active leader of each. Who that is in
/// a location of two leaders is for its agents to say.
fn far_apart(lab: &Lab) -> Result<[String; 2]> {
    let [a, c] = [by_role(lab, "a")?, by_role(lab, "c")?];
    Ok([a[2].clone(), c[1].clone()])
}

/// Two nodes of two locations measure what goes between them, in both directions, and every node on the way its processors.
pub(crate) fn throughput_is_measured(lab: &Lab) -> Result<()> {
    let [from, to] = far_apart(lab)?;
    let tables = plugin_says(lab, 0, &["bench", &from, &to, "--seconds", "2"])?;
    let streams = tables.lines().filter(|line| line.ends_with("bit/s")).count();
    let of = |does: &str| tables.matches(&format!(" {does} ")).count();
    ensure!(
        streams == 2
            && [of("sends"), of("receives")] == [2, 2]
            && of("forwards") >= 4
            && !tables.contains('?'),
        "not all is known of what goes between {from} and {to}:\n{tables}"
    );
    let pod = lab.pods()?[&to][0].to_string();
    plugin_says(lab, 1, &["bench", &from, &pod]).map(drop)
}

/// All leaders see packets of each pair of locations, and none of them in plaintext.
pub(crate) fn traffic_is_encrypted(lab: &Lab) -> Result<()> {
    let table = plugin_says(lab, 0, &["verify", "encryption", "--seconds", "3", "-o", "wide"])?;
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.contains(" encrypted "))
        .collect();
    ensure!(
        rows.len() == 6 && rows.iter().all(|row| row.contains(" none ")),
        "not each location is shown to be encrypted with each other:\n{table}"
    );
    Ok(())
}
