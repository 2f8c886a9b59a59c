//! The page of `kubectl spanwire map` while a leader fails.

use std::time::Instant;

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::all_reach_all,
    fault::{Fault, Roles},
    plugin_runs,
};

use crate::GAP;

const PORT: &str = "8800";

/// A page that is open says by whom packets go around the leader.
pub(crate) fn says_who_is_gone_around(lab: &Lab) -> Result<()> {
    let roles = Roles::now(lab)?;
    let fault = Fault::named("the leader's link is gone")?;
    let mut program = plugin_runs(lab, &["map", "--no-open", "--port", PORT])?;
    program.writes("the map is at")?;
    let events = format!("http://127.0.0.1:{PORT}/events");
    let mut page = lab.control_plane().spawn(["curl", "-sN", &events])?;
    // What has been so since the beginning is no news.
    let way = format!(
        "\"from\":\"a\",\"to\":\"b\",\"leader\":\"{}\",\"farLeader\":\"{}\"",
        roles.far, roles.leader
    );
    page.writes(&way)?;
    let news = format!(
        "{} of a goes to b by {} now, before by {}",
        roles.far, roles.standby, roles.leader
    );
    let shown = fault.during(lab, &roles, || {
        let begun = Instant::now();
        page.writes(&news)?;
        Ok(begun.elapsed())
    })?;
    program.interrupt()?;
    page.interrupt()?;
    ensure!(shown < GAP, "it was on the page after {shown:?}");
    all_reach_all(lab)?;
    lab.wait_mesh_ready()
}
