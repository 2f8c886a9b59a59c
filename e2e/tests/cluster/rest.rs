//! What happens when nothing happens.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Result, ensure};
use spanwire_e2e::{Lab, expect::writes};

/// Writes of Spanwire's own resources.
fn own(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut all = writes(lab)?;
    all.retain(|resource, _| resource.ends_with(".spanwire.dev"));
    Ok(all)
}

/// The full five minutes are `make bench-mesh`'s; a test waits for less, but long past every timer of the agents.
pub(crate) fn quiet(lab: &Lab) -> Result<()> {
    let before = own(lab)?;
    thread::sleep(Duration::from_secs(75));
    let after = own(lab)?;
    ensure!(
        before.values().sum::<u64>() > 0,
        "the API server counts no write of spanwire.dev: the test sees nothing"
    );
    ensure!(
        before == after,
        "something was written at rest:\n{before:#?}\n{after:#?}"
    );
    Ok(())
}
