//! Installing into a cluster whose locations reach each other already: nothing is cut; they move into the tunnel when
//! it is proven, and not before.

mod absence;
mod unset;

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab, Progress, Provoked, Spanwire,
    expect::{SOON, all_reach_all, condition, loses_nothing},
    plaintext::{nothing_plain, something_plain},
    suite, wait_until,
};

const FLUSHED: &str = "rules_routes_and_tables_that_others_flush_let_nothing_out";
const DEAD: &str = "without_an_agent_each_line_of_defence_holds_alone";
const CNI: &str = "a_cni_that_starts_again_and_a_wide_network_let_nothing_out";
const REBOOTS: &str = "rebooted_nodes_with_a_guard_let_nothing_out";
const UNGUARDED: &str = "a_node_that_boots_without_a_guard_is_plain_until_its_agent_runs_and_not_after";
const AGAIN: &str = "a_site_that_is_deleted_and_registers_again_is_in_the_tunnel_or_nowhere";
const INVERSE: &str = "without_all_of_it_the_plaintext_is_seen";

/// What tests do on purpose that programs warn of.
const PROVOKED: &[Provoked] = &[
    Provoked::agent(FLUSHED, "repaired what another program had changed"),
    Provoked::agent(DEAD, "repaired what another program had changed"),
    // With the CNI's device go the routes over it.
    Provoked::agent(CNI, "repaired what another program had changed"),
    Provoked::agent(CNI, "the CNI's device for IPv4 is missing on this node"),
    Provoked::agent(CNI, "no IPv4 way to"),
    // The agent of a node that boots works from its checkpoint, before flannel has made its device and the tunnel runs; and
    // one of the nodes has the API server.
    Provoked::agent(REBOOTS, "the CNI's device for IPv4 is missing on this node"),
    Provoked::agent(REBOOTS, "no IPv4 way to"),
    Provoked::agent(REBOOTS, "userspace WireGuard is not reached"),
    // The CNI, kube-proxy and the kubelet set up theirs in the same moment.
    Provoked::agent(REBOOTS, "other programs change nf_tables so often"),
    Provoked::without_api_server(REBOOTS),
    Provoked::operator(REBOOTS, "renewing the lease timed out"),
    Provoked::agent(UNGUARDED, "the CNI's device for IPv4 is missing on this node"),
    Provoked::agent(UNGUARDED, "no IPv4 way to"),
    Provoked::agent(UNGUARDED, "userspace WireGuard is not reached"),
    Provoked::agent(UNGUARDED, "other programs change nf_tables so often"),
    Provoked::agent(AGAIN, "the CNI's device for IPv4 is missing on this node"),
    Provoked::agent(AGAIN, "no IPv4 way to"),
    Provoked::agent(AGAIN, "userspace WireGuard is not reached"),
    Provoked::agent(AGAIN, "other programs change nf_tables so often"),
    Provoked::agent(INVERSE, "repaired what another program had changed"),
];

fn main() -> ExitCode {
    suite::run(
        "t-open",
        "open.yaml",
        &suite::options(Spanwire::Image),
        &[
            ("pods_reach_pods_in_plaintext_before", plaintext_before),
            (
                "with_the_wireguard_port_blocked_traffic_stays_where_it_was",
                blocked,
            ),
            ("when_the_port_opens_traffic_moves_into_the_tunnel", opened),
            ("then_no_plaintext_is_left", no_plaintext),
            (
                "without_api_server_in_the_values_nodes_reach_it_past_the_mesh",
                unset::past_the_mesh,
            ),
            (
                "agents_hear_of_changes_while_the_tunnel_is_blocked",
                unset::blocked,
            ),
            (FLUSHED, absence::flushed),
            (DEAD, absence::dead),
            (CNI, absence::cni),
            (REBOOTS, absence::reboots),
            (UNGUARDED, absence::unguarded),
            (AGAIN, absence::registered_again),
            (INVERSE, absence::inverse),
            ("every_node_and_location_is_ready", Lab::wait_mesh_ready),
        ],
        PROVOKED,
    )
}

fn plaintext_before(lab: &Lab) -> Result<()> {
    something_plain(lab, || all_reach_all(lab))
}

fn blocked(lab: &Lab) -> Result<()> {
    lab.block_udp(51820)?;
    loses_nothing(lab, || {
        lab.install_spanwire(&Progress::shown())?;
        wait_until("the condition says why", SOON, || {
            let (status, message) = condition(lab, &["location", "a"], "Connected")?;
            ensure!(
                status == "False" && message.contains("UDP port"),
                "{status}: {message}"
            );
            Ok(true)
        })
    })?;
    something_plain(lab, || all_reach_all(lab))
}

fn opened(lab: &Lab) -> Result<()> {
    loses_nothing(lab, || {
        lab.heal()?;
        for location in ["a", "b", "c"] {
            wait_until("the location is connected", SOON, || {
                let (status, message) = condition(lab, &["location", location], "Connected")?;
                ensure!(status == "True", "{location}: {status}: {message}");
                Ok(true)
            })?;
        }
        // Past the moment from which agents drop plaintext.
        thread::sleep(Duration::from_secs(35));
        Ok(())
    })
}

fn no_plaintext(lab: &Lab) -> Result<()> {
    nothing_plain(lab, || all_reach_all(lab))
}
