//! A location of which no leader is left.

use std::net::IpAddr;

use anyhow::Result;
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all, pod_ip},
    fault::Roles,
    plaintext::nothing_plain,
    wait_until,
};

/// Its followers live on. Who sends there from another location, from a leader or from a follower, hears of it; and when the leaders
/// are back, all is as before.
pub(crate) fn refused(lab: &Lab) -> Result<()> {
    let roles = Roles::now(lab)?;
    let far = pod_ip(lab, &roles.follower)?;
    let leaders = [&roles.leader, &roles.standby];
    nothing_plain(lab, || {
        leaders.iter().try_for_each(|leader| lab.crash(leader))?;
        let refused = ["a3", &roles.far, "c3"].iter().try_for_each(|from| {
            let what = format!("what {from} sends to {} is refused", roles.follower);
            wait_until(&what, SOON, || is_refused(lab, from, far))
        });
        // In any case: what follows needs a whole lab.
        leaders.iter().try_for_each(|leader| lab.reboot(leader))?;
        refused?;
        all_reach_all(lab)
    })?;
    lab.wait_mesh_ready()
}

/// Asks the pod of a node to ping an address. Returns whether it gets an error instead of silence.
fn is_refused(lab: &Lab, from: &str, to: IpAddr) -> Result<bool> {
    let ping = ["ping", "-n", "-c", "1", "-W", "1", &to.to_string()];
    let said = lab.pod_on(from)?.finish(ping)?.stdout;
    Ok(said.contains("Destination Host Unreachable"))
}
