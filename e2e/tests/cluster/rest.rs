//! What happens when nothing happens.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::Lab;

/// Writes of Spanwire's resources, by verb and kind, from the API server's metrics.
fn writes(lab: &Lab) -> Result<Vec<(String, u64)>> {
    let text = lab.kubectl(["get", "--raw", "/metrics"])?;
    let verbs = [
        "verb=\"APPLY\"",
        "verb=\"PATCH\"",
        "verb=\"PUT\"",
        "verb=\"POST\"",
        "verb=\"DELETE\"",
    ];
    let lines = text.lines().filter(|line| {
        line.starts_with("apiserver_request_total{")
            && verbs.iter().any(|verb| line.contains(verb))
            && line.contains("group=\"spanwire.dev\"")
    });
    let read = |line: &str| {
        let (labels, count) = line.rsplit_once(' ').context("a sample")?;
        Ok((labels.to_owned(), count.parse::<f64>()? as u64))
    };
    lines.map(read).collect()
}

/// The full five minutes are `make bench-mesh`'s; a test waits for less, but long past every timer of the agents.
pub(crate) fn quiet(lab: &Lab) -> Result<()> {
    let before = writes(lab)?;
    thread::sleep(Duration::from_secs(75));
    let after = writes(lab)?;
    let total = |samples: &[(String, u64)]| samples.iter().map(|(_, count)| count).sum::<u64>();
    ensure!(
        total(&before) > 0,
        "the API server counts no write of spanwire.dev: the test sees nothing"
    );
    ensure!(
        before == after,
        "something was written at rest:\n{before:#?}\n{after:#?}"
    );
    Ok(())
}
