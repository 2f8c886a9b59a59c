//! `kubectl spanwire` in the lab.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{Background, Cmd, Finished, Lab, layout::API_PORT, pki};

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

/// Runs `kubectl spanwire` with these words.
///
/// # Errors
/// Where it cannot be started.
pub fn plugin(lab: &Lab, words: &[&str]) -> Result<Finished> {
    command(lab, words)?.finish()
}

/// Starts it with these words beside the API server, and lets it run.
///
/// # Errors
/// Where it cannot be started.
pub fn plugin_runs(lab: &Lab, words: &[&str]) -> Result<Background> {
    Background::start(command(lab, words)?)
}

fn command(lab: &Lab, words: &[&str]) -> Result<Cmd> {
    let program = program()?;
    let program = program.to_str().context("a path of letters")?;
    Ok(lab.client(program).args(words))
}

/// The same, where it has to end with this code; returns what it says.
///
/// # Errors
/// Where it ends with another one.
pub fn plugin_says(lab: &Lab, code: i32, words: &[&str]) -> Result<String> {
    let finished = plugin(lab, words)?;
    ensure!(
        finished.code == code,
        "kubectl spanwire {} ends with {}:\n{}{}",
        words.join(" "),
        finished.code,
        finished.stdout,
        finished.stderr
    );
    Ok(finished.stdout)
}

/// Starts `kubectl spanwire connect` with these words on the host outside, which reaches the API server as kubelets elsewhere do.
///
/// # Errors
/// Where it cannot be started.
pub fn connect(lab: &Lab, words: &[&str]) -> Result<Background> {
    let program = program()?;
    let tunnel = program.with_file_name("spanwire-tunnel");
    // One may be there that is older than the sources.
    let build = ["build", "-q", "--locked", "-p", "spanwire-tunnel"];
    Cmd::new(env!("CARGO")).args(build).run()?;
    let server = SocketAddr::new(lab.layout.api(), API_PORT);
    let file = "kubeconfig/outside";
    pki::kubeconfig(&lab.store, file, "admin", &format!("https://{server}"))?;
    let kubeconfig = lab.store.path(file);
    let paths = [&program, &kubeconfig, &tunnel].map(|path| path.display().to_string());
    let [program, kubeconfig, tunnel] = &paths;
    let first = [program, "--kubeconfig", kubeconfig, "connect", "--tunnel", tunnel];
    lab.outside().spawn(first.iter().chain(words))
}
