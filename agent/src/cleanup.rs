//! Removes every trace of Spanwire from a node, or says what that would be.

use std::io::{self, Write as _};

use anyhow::bail;
use tokio::sync::watch;

use crate::{args::Paths, reconciler::Reconciler};

/// Cleans, or only prints what would be done.
///
/// # Errors
/// When something is left; running it again is safe.
pub async fn run(paths: Paths, only_print: bool) -> anyhow::Result<()> {
    let state = paths.state_dir.clone();
    let owned = paths.names.owned()?;
    let (unused, _) = watch::channel(None);
    let mut machine = Reconciler::new(paths, owned, unused);
    let steps = machine.removal().await?;
    let mut out = io::stdout().lock();
    for step in &steps {
        writeln!(out, "{step}")?;
    }
    for (name, value) in machine.changed_sysctls().await {
        writeln!(out, "sysctl {name} = {value}")?;
    }
    for path in machine.remembered_files() {
        writeln!(out, "remove {}", path.display())?;
    }
    if state.exists() {
        writeln!(out, "remove {}", state.display())?;
    }
    if only_print {
        return Ok(());
    }
    let mut troubles = machine.remove(steps).await?;
    if troubles.is_empty() {
        troubles = machine.forget().await;
    }
    if !troubles.is_empty() {
        let texts: Vec<String> = troubles.iter().map(ToString::to_string).collect();
        bail!("not everything could be removed: {}", texts.join("; "));
    }
    Ok(())
}
