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
    // The standby leader of a location shares its router's address with the active one, so its packets leave by another
    // port than the one that is forwarded to it; the router forgets that after 30 s, and says so to who still uses it.
    let ((), forgotten) = lab.capture("internet", "icmp", || {
        thread::sleep(Duration::from_secs(75));
        Ok(())
    })?;
    let after = own(lab)?;
    ensure!(
        forgotten.trim().is_empty(),
        "mappings of NATs were not kept alive:\n{forgotten}"
    );
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
