//! Leaders that are rebooted one after the other, as for an update of their kernel.

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all},
    fault::{Roles, noticing},
    wait_until,
};

/// Each is cordoned, leads no more, boots, and is uncordoned. Packets between all other nodes notice nothing.
pub(crate) fn rebooted(lab: &Lab) -> Result<()> {
    let first = Roles::now(lab)?;
    for node in [&first.leader, &first.standby] {
        let roles = Roles::now(lab)?;
        ensure!(*node == roles.leader, "{node} does not lead: {roles:?}");
        let noticed = noticing(lab, &roles, || {
            lab.kubectl(["cordon", node])?;
            wait_until(&format!("{node} leads no more"), SOON, || {
                let location = lab.get(&["location", "b"])?;
                Ok(!location["status"]["leaders"].to_string().contains(node.as_str()))
            })?;
            lab.reboot(node)?;
            lab.wait_ready()
        });
        lab.kubectl(["uncordon", node])?;
        let noticed = noticed?;
        noticed.recovered()?;
        ensure!(noticed.lost() == 0, "{node}: {:?}", noticed.paths);
        lab.wait_mesh_ready()?;
    }
    all_reach_all(lab)
}
