//! Leaders that fail in every way: packets take another one, before anyone notices.
//!
//! Here counts that they do, also while the fault lasts; how fast is measured by `make chaos`.

mod cut;
mod gone;
mod idle;
mod map;
mod silent;
mod upkeep;

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab, Progress, Provoked, Spanwire,
    expect::all_reach_all,
    fault::{FAULTS, NO_API_SERVER, Roles},
    suite,
};

/// Long enough for everything that a fault sets off, on a busy machine: TCP sends again after 0.2 s, and then after twice as long each
/// time, so it flows again after 3.0 or 6.2 s where nothing arrived for three or four.
const LASTS: Duration = Duration::from_secs(7);
/// Long enough for a leader that boots to be used again.
const AFTER: Duration = Duration::from_secs(3);
/// Generous: on such a machine a probe waits for a processor.
const GAP: Duration = Duration::from_secs(4);

const CUT: &str = "pods that the leader does not reach get theirs by the other one";
const MAP: &str = "the map shows that a leader is gone around";
const REBOOTED: &str = "leaders that are cordoned and rebooted in turn lose no packet";
const IDLE: &str = "a leader that forwards nothing for long is replaced";
const GONE: &str = "all leaders of a location lose power";

fn main() -> ExitCode {
    let mut tests: Vec<suite::Test> = vec![
        ("every_pod_reaches_every_pod", installs),
        ("every_node_and_location_is_ready", Lab::wait_mesh_ready),
        (CUT, cut::handed_to_the_other_leader),
        (REBOOTED, upkeep::rebooted),
    ];
    tests.extend(
        FAULTS
            .iter()
            .zip(SUFFERED)
            .map(|(fault, test)| (fault.name, test)),
    );
    tests.push((MAP, map::says_who_is_gone_around));
    tests.push((NO_API_SERVER.name, silent::replaced));
    tests.push((GONE, gone::refused));
    // The last: one of the two rests afterwards, and leads again only where the other cannot.
    tests.push((IDLE, idle::replaced));
    let others = [CUT, REBOOTED, IDLE, MAP, NO_API_SERVER.name, GONE];
    let faults = FAULTS.iter().map(|fault| fault.name).chain(others);
    let provoked: Vec<Provoked> = faults.flat_map(warns).collect();
    suite::run(
        "t-failover",
        "failover.yaml",
        &suite::options(Spanwire::Image),
        &tests,
        &provoked,
    )
}

/// What programs warn of because of a fault.
fn warns(fault: &'static str) -> [Provoked; 6] {
    [
        // What cuts a link here is a firewall.
        Provoked::agent(fault, "of this node's firewall drops what the tunnel sends"),
        Provoked::agent(
            fault,
            "of this node's firewall drops UDP to WireGuard's port 51820",
        ),
        // A leader that is cut off, and one that boots, does not reach it.
        Provoked::without_api_server(fault),
        // The agent wants its device back before the tunnel runs again, or serves.
        Provoked::agent(fault, "userspace WireGuard"),
        Provoked::agent(fault, "no WireGuard answers for the TUN device spanwire0"),
        // It boots before flannel has made its device, or while flannel replaces it.
        Provoked::agent(fault, "the CNI's device for"),
    ]
}

const SUFFERED: [fn(&Lab) -> Result<()>; FAULTS.len()] = [
    suffered::<0>,
    suffered::<1>,
    suffered::<2>,
    suffered::<3>,
    suffered::<4>,
    suffered::<5>,
    suffered::<6>,
    suffered::<7>,
    suffered::<8>,
];

fn installs(lab: &Lab) -> Result<()> {
    lab.install_spanwire(&Progress::shown())?;
    all_reach_all(lab)
}

fn suffered<const FAULT: usize>(lab: &Lab) -> Result<()> {
    let suffered = FAULTS[FAULT].suffer(lab, &Roles::now(lab)?, LASTS, AFTER)?;
    for noticed in [suffered.during, suffered.after] {
        noticed.recovered()?;
        let gap = noticed.gap();
        ensure!(gap < GAP, "nothing arrived for {gap:?}: {:?}", noticed.paths);
    }
    all_reach_all(lab)?;
    lab.wait_mesh_ready()
}
