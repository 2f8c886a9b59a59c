//! Other networks than the main suite's: both IP families with strict reverse path filters; flannel without
//! encapsulation with a smaller MTU in one location. In them, what is about modes of a location.

mod dual;
mod host_gw;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use spanwire_e2e::{Lab, Progress, Spanwire, expect::all_reach_all, reach, suite};

fn main() -> ExitCode {
    let both = [
        suite::run(
            "t-dual",
            "dual.yaml",
            &suite::options(Spanwire::Image),
            &[
                (
                    "dual_installing_keeps_the_default_routes_that_a_router_advertises",
                    dual::learned_route,
                ),
                ("dual_every_pod_reaches_every_pod", all_reach_all),
                ("dual_hosts_and_pods_reach_each_other", reach::hosts_and_pods),
                ("dual_followers_keep_their_source_address", sources),
                ("dual_megabytes_arrive_unharmed_both_ways", bulk),
                ("dual_services_answer_in_both_families", services),
                ("dual_a_peer_has_addresses_of_both_families", dual::peer),
                (
                    "dual_nodes_that_all_lead_encrypt_inside_their_location",
                    dual::mesh_of_nodes,
                ),
                ("dual_every_node_and_location_is_ready", Lab::wait_mesh_ready),
            ],
            &[],
        ),
        suite::run(
            "t-host-gw",
            "host-gw.yaml",
            &suite::options(Spanwire::Image),
            &[
                ("host_gw_every_pod_reaches_every_pod", installs),
                ("host_gw_hosts_and_pods_reach_each_other", reach::hosts_and_pods),
                ("host_gw_followers_keep_their_source_address", sources),
                ("host_gw_megabytes_arrive_through_a_smaller_mtu", bulk),
                ("host_gw_services_answer", services),
                (
                    "host_gw_things_in_the_kernel_have_the_names_that_were_given",
                    host_gw::other_names,
                ),
                (
                    "host_gw_two_active_leaders_share_the_members",
                    host_gw::two_active,
                ),
                ("host_gw_every_node_and_location_is_ready", Lab::wait_mesh_ready),
            ],
            &[],
        ),
    ];
    // Success only of both.
    both.into_iter()
        .find(|code| *code != ExitCode::SUCCESS)
        .unwrap_or(ExitCode::SUCCESS)
}

fn installs(lab: &Lab) -> Result<()> {
    let before = lab.ping_all()?;
    ensure!(
        !before.complete(),
        "the locations reach each other without Spanwire:\n{before}"
    );
    lab.install_spanwire(&Progress::shown())?;
    all_reach_all(lab)
}

fn sources(lab: &Lab) -> Result<()> {
    let leaders = [("a1", "b2"), ("b1", "a2")];
    let third = [("a3", "b2"), ("b2", "a3"), ("a3", "b1"), ("b1", "a3")];
    reach::sources_are_preserved(lab, &[&leaders[..], &third].concat())
}

fn bulk(lab: &Lab) -> Result<()> {
    reach::bulk(lab, "a3", "b2", 20 << 20)?;
    reach::bulk(lab, "b2", "a3", 20 << 20)
}

fn services(lab: &Lab) -> Result<()> {
    reach::services_answer(lab, "b2", &["a1", "a2", "a3", "b1"], "a3")
}
