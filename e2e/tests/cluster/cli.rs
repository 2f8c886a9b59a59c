//! `kubectl spanwire` in the lab.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Finished, Lab, expect::leader};

/// The program is built beside the tests: its own test of this run's `--test api` has cargo build it.
fn program() -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let folder = tests
        .parent()
        .and_then(|deps| deps.parent())
        .context("where are the tests?")?;
    let program = folder.join("kubectl-spanwire");
    ensure!(
        program.exists(),
        "{} is not built: cargo build -p spanwire-cli",
        program.display()
    );
    Ok(program)
}

fn cli(lab: &Lab, words: &[&str]) -> Result<Finished> {
    let program = program()?;
    let program = program.to_str().context("a path of letters")?;
    lab.client(program).args(words).finish()
}

/// In a healthy cluster everything is known, and nothing is wrong.
pub(crate) fn nothing_is_wrong(lab: &Lab) -> Result<()> {
    let status = cli(lab, &["status"])?;
    let links: Vec<&str> = status
        .stdout
        .lines()
        .filter(|line| line.contains(" > "))
        .collect();
    ensure!(
        status.code == 0 && status.stdout.contains("Nothing is wrong."),
        "status ends with {}:\n{}{}",
        status.code,
        status.stdout,
        status.stderr
    );
    ensure!(
        links.len() == 6,
        "not each location has a link to each other:\n{}",
        status.stdout
    );
    for link in links {
        ensure!(
            link.contains(" up ") && !link.contains('?'),
            "not all is known of {link}:\n{}{}",
            status.stdout,
            status.stderr
        );
    }
    let diagnosis = cli(lab, &["diagnose"])?;
    ensure!(
        diagnosis.code == 0 && diagnosis.stdout.contains("Nothing is wrong."),
        "diagnose ends with {}:\n{}{}",
        diagnosis.code,
        diagnosis.stdout,
        diagnosis.stderr
    );
    let (from, to) = (lab.pods()?["a2"][0].to_string(), "location/c".to_owned());
    let way = cli(lab, &["explain", &from, &to])?;
    ensure!(
        way.code == 0
            && way.stdout.contains("[encrypted]")
            && way.stdout.matches("arrives after").count() == 2,
        "explain ends with {}:\n{}{}",
        way.code,
        way.stdout,
        way.stderr
    );
    let device = cli(lab, &["showconf", "node", &leader(lab, "a")?, "-o", "wg"])?;
    ensure!(
        device.code == 0 && device.stdout.matches("[Peer]").count() >= 2,
        "{}{}",
        device.stdout,
        device.stderr
    );
    Ok(())
}
