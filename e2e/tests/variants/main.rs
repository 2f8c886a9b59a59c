//! Other networks than the main suite's: both IP families with strict reverse path filters; flannel without
//! encapsulation with a smaller MTU in one location; Calico; clouds. In them, what is about modes of a location.

mod calico;
mod cloud;
mod dual;
mod felix;
mod host_gw;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab, Progress, Provoked, Spanwire,
    expect::{all_reach_all, pod_ip},
    plaintext::{nothing_plain, something_plain},
    plugin_says, reach,
    scenario::Routers,
    size, suite,
};

const DUAL_PROVOKED: &[Provoked] = &[
    // The hook that has the nodes cleaned takes the operator's Lease, and helm takes permissions away first.
    Provoked::without_api_server(DUAL_TUNNEL_ONLY),
];

const DUAL_TUNNEL_ONLY: &str = "dual_with_tunnel_only_nothing_leaves_in_plaintext_before_a_tunnel_is_proven";

const HOST_GW_PROVOKED: &[Provoked] = &[
    Provoked::agent(HOST_GW_DEAD, "repaired what another program had changed"),
    Provoked::agent(HOST_GW_INVERSE, "repaired what another program had changed"),
];

const HOST_GW_DEAD: &str = "host_gw_without_an_agent_each_line_of_defence_holds_alone";
const HOST_GW_INVERSE: &str = "host_gw_without_all_of_them_the_plaintext_is_seen";

/// What tests do to Calico's state and to Spanwire's. Felix takes the old address from its device before it adds the new one,
/// and Linux the routes by a device with its last address.
const CALICO_PROVOKED: &[Provoked] = &[
    Provoked::agent(CALICO_MOVED, "repaired"),
    Provoked::agent(CALICO_MOVED, "again and again"),
    Provoked::agent(CALICO_MOVED, "the CNI's device for"),
    Provoked::agent(CALICO_REPAIRED, "repaired"),
    Provoked::agent(CALICO_REPAIRED, "again and again"),
    // The hook that has the nodes cleaned takes the operator's Lease, and helm takes permissions away first.
    Provoked::without_api_server(CALICO_UNINSTALLED),
];

const CALICO_MOVED: &str = "calico_tunnel_addresses_change_while_packets_flow";
const CALICO_REPAIRED: &str = "calico_what_is_deleted_by_hand_comes_back";
const CALICO_UNINSTALLED: &str = "calico_uninstalling_leaves_no_trace";

const CLOUD_PROVOKED: &[Provoked] = &[
    Provoked::agent(CLOUD_REPAIRED, "repaired"),
    Provoked::agent(CLOUD_REPAIRED, "again and again"),
    Provoked::without_api_server(CLOUD_UNINSTALLED),
];

const CLOUD_REPAIRED: &str = "cloud_what_is_deleted_by_hand_comes_back";
const CLOUD_UNINSTALLED: &str = "cloud_uninstalling_leaves_no_trace";

fn main() -> ExitCode {
    let all = [
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
                ("dual_every_host_and_pod_answers_every_other", dual::everyone),
                ("dual_followers_keep_their_source_address", sources),
                ("dual_megabytes_arrive_unharmed_both_ways", bulk),
                ("dual_services_answer_in_both_families", services),
                ("dual_a_peer_has_addresses_of_both_families", dual::peer),
                (
                    "dual_nodes_that_all_lead_encrypt_inside_their_location",
                    dual::mesh_of_nodes,
                ),
                ("dual_every_node_and_location_is_ready", Lab::wait_mesh_ready),
                (DUAL_TUNNEL_ONLY, dual::tunnel_only),
            ],
            DUAL_PROVOKED,
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
                (
                    "host_gw_packets_of_the_promised_size_pass_and_no_larger_ones",
                    sizes,
                ),
                ("host_gw_services_answer", services),
                (
                    "host_gw_things_in_the_kernel_have_the_names_that_were_given",
                    host_gw::other_names,
                ),
                (HOST_GW_DEAD, host_gw::dead),
                (HOST_GW_INVERSE, host_gw::inverse),
                (
                    "host_gw_two_active_leaders_share_the_members",
                    host_gw::two_active,
                ),
                ("host_gw_every_node_and_location_is_ready", Lab::wait_mesh_ready),
            ],
            HOST_GW_PROVOKED,
        ),
        suite::run(
            "t-calico",
            "calico.yaml",
            &suite::options(Spanwire::Image),
            &[
                ("calico_every_pod_reaches_every_pod", calico::installs),
                ("calico_the_hop_is_what_each_mode_makes_of_it", calico::hops),
                ("calico_hosts_and_pods_reach_each_other", reach::hosts_and_pods),
                ("calico_followers_keep_their_source_address", calico::sources),
                ("calico_megabytes_arrive_unharmed_both_ways", calico::bulk),
                ("calico_services_answer", calico::services),
                (
                    "calico_ebpf_that_does_not_know_the_tunnel_is_named",
                    felix::is_named,
                ),
                (
                    "calico_packets_of_the_promised_size_pass_and_no_larger_ones",
                    calico::sizes,
                ),
                (
                    "calico_a_policy_judges_pods_of_other_locations_by_their_own_addresses",
                    calico::policy,
                ),
                (
                    "calico_a_block_is_followed_to_another_location_and_others_lose_nothing",
                    calico::moved_block,
                ),
                (CALICO_MOVED, calico::moved_tunnel_addresses),
                ("calico_what_is_foreign_is_deleted_by_calico", calico::inverse),
                ("calico_its_own_state_is_untouched", calico::untouched),
                (CALICO_REPAIRED, calico::repaired),
                (
                    "calico_nothing_leaves_in_plaintext_through_open_routers",
                    nothing_in_plaintext,
                ),
                ("calico_every_node_and_location_is_ready", Lab::wait_mesh_ready),
                (CALICO_UNINSTALLED, calico::uninstalls),
            ],
            CALICO_PROVOKED,
        ),
        suite::run(
            "t-cloud",
            "cloud.yaml",
            &suite::options(Spanwire::Image),
            &[
                ("cloud_every_pod_reaches_every_pod", cloud::installs),
                ("cloud_the_hop_is_a_vxlan_which_nobody_named", cloud::hops),
                ("cloud_followers_keep_their_source_address", cloud::sources),
                ("cloud_megabytes_arrive_unharmed_both_ways", cloud::bulk),
                ("cloud_services_answer", cloud::services),
                ("cloud_a_pod_with_a_new_address_is_reached", cloud::new_addresses),
                (
                    "cloud_followers_reach_no_other_location_without_the_vxlan",
                    cloud::nothing_without_the_vxlan,
                ),
                (CLOUD_REPAIRED, cloud::repaired),
                (
                    "cloud_hosts_and_pods_reach_each_other_and_nothing_leaves_in_plaintext",
                    nothing_in_plaintext,
                ),
                ("cloud_every_node_and_location_is_ready", Lab::wait_mesh_ready),
                (CLOUD_UNINSTALLED, cloud::uninstalls),
            ],
            CLOUD_PROVOKED,
        ),
    ];
    // Success only of all.
    all.into_iter()
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

/// Without Spanwire, or without tunnels, nodes reach their own location, and no other.
fn misses_other_locations(lab: &Lab) -> Result<()> {
    let found = lab.ping_all()?;
    for from in lab.layout().nodes() {
        let missing = found.unreached.get(&from.name).cloned().unwrap_or_default();
        let others = lab.layout().nodes().filter(|node| node.location != from.location);
        let others: Vec<String> = others.map(|node| node.name.clone()).collect();
        ensure!(
            missing == others,
            "{} does not miss just the other locations:\n{found}",
            from.name
        );
    }
    Ok(())
}

fn nothing_in_plaintext(lab: &Lab) -> Result<()> {
    lab.set_routers(Routers::Open)?;
    let encrypted = nothing_plain(lab, || {
        all_reach_all(lab)?;
        reach::hosts_and_pods(lab)
    });
    lab.set_routers(Routers::Closed)?;
    encrypted?;
    all_reach_all(lab)
}

/// Without Spanwire, what was not seen in plaintext is seen.
fn is_seen_in_plaintext(lab: &Lab) -> Result<()> {
    lab.set_routers(Routers::Open)?;
    let seen = something_plain(lab, || lab.ping_all().map(drop));
    lab.set_routers(Routers::Closed)?;
    seen
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

/// Inside of each location and between them, and `explain` promises the same.
fn sizes(lab: &Lab) -> Result<()> {
    let across = [("a3", "b2"), ("b2", "a3"), ("a1", "b1")];
    size::promises_are_kept(lab, &[("a3", "a1"), ("b2", "b1")], 1 << 20)?;
    size::promises_are_kept(lab, &across, 1 << 20)?;
    for (from, to) in &across[..2] {
        let [source, destination] = [pod_ip(lab, from)?, pod_ip(lab, to)?].map(|ip| ip.to_string());
        let said = plugin_says(lab, 0, &["explain", &source, &destination])?;
        let promised = size::promised(lab.layout(), from, to)?;
        let words = format!("with packets of up to {promised} bytes");
        let there = said.split("The answer:").next().unwrap_or_default();
        ensure!(there.contains(&words), "{from} to {to}: not {words}:\n{said}");
    }
    Ok(())
}

fn services(lab: &Lab) -> Result<()> {
    reach::services_answer(lab, "b2", &["a1", "a2", "a3", "b1"], "a3")
}
