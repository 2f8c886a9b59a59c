//! The main job, in a real cluster: three locations, one of them behind NAT without a port forward, one with a
//! node that never leads. Asserted with foreign tools, from the installed chart.

mod annotations;
mod bad_input;
mod cli;
mod install;
mod ipv6;
mod peers;
mod plaintext;
mod reach;
mod repair;
mod rest;
mod restarts;
mod tour;
mod trust;
mod wire;

use std::process::ExitCode;

use spanwire_e2e::{Lab, Provoked, Spanwire, suite};

/// What tests do on purpose that programs warn of.
const PROVOKED: &[Provoked] = &[
    Provoked::agent(BAD_PEERS, "no.such.host.invalid"),
    // The node's own network is also that of the location it has left.
    Provoked::agent(
        "a_node_moves_to_a_location_of_its_own_and_back",
        "which is connected here by eth0",
    ),
    Provoked::agent("what_is_deleted_by_hand_comes_back", "repaired"),
    // It is, when the test is tried again.
    Provoked::agent("what_is_deleted_by_hand_comes_back", "again and again"),
    Provoked::agent(
        "what_is_deleted_by_hand_comes_back",
        "cannot read the WireGuard device",
    ),
    Provoked::agent("all_of_it_with_strict_reverse_path_filters", "rp_filter = 2"),
    // The agent's connection to it ends with the old process.
    Provoked::agent(TUNNELS_ROLLED, NO_TUNNEL_YET),
    Provoked::without_api_server(RESTARTED),
    Provoked::without_api_server(STOPPED),
    // The test takes the agent's device away, perhaps while it is being made.
    Provoked::agent(STOPPED, "spanwire0"),
    Provoked::agent(STOPPED, "cannot read the WireGuard device"),
    Provoked::agent(TUNNEL_STOPPED, NO_TUNNEL_YET),
    Provoked::agent(TUNNEL_STOPPED, "repaired"),
    // The tunnel that starts again has its device a moment before it answers for it.
    Provoked::agent(
        TUNNEL_STOPPED,
        "no WireGuard answers for the TUN device spanwire0",
    ),
    // The hook that has the nodes cleaned takes the operator's Lease, and helm takes permissions away first.
    Provoked::without_api_server(UNINSTALLED),
    // The agent of a node that boots works from its checkpoint, before flannel has made its device and the tunnel runs.
    Provoked::agent(CRASHED, NO_CNI_YET),
    Provoked::agent(CRASHED, NO_TUNNEL_YET),
    Provoked::without_api_server(CRASHED),
    Provoked::agent(REBOOTED, NO_CNI_YET),
    Provoked::agent(REBOOTED, NO_TUNNEL_YET),
    Provoked::without_api_server(REBOOTED),
    Provoked::event(BAD_ANNOTATIONS, "InvalidField: node b2: annotation spanwire.dev/"),
    Provoked::event(
        BAD_ANNOTATIONS,
        "ClaimRejected: node b2: annotation spanwire.dev/location-cidrs",
    ),
    Provoked::event(BAD_PEERS, "ClaimRejected: peer greedy: spec.allowedIPs"),
    Provoked::event(BAD_PEERS, "ClaimRejected: peer thief: spec.allowedIPs"),
    Provoked::event(BAD_PEERS, "ClaimRejected: peer twin: spec.publicKey"),
    Provoked::event(
        "bad_locations_are_refused_and_harm_nothing",
        "ClaimRejected: location late: spec.cidrs",
    ),
    // The Peer is there before the Secret that it names.
    Provoked::agent(PRESHARED, "cannot read a preshared key"),
];

const NO_CNI_YET: &str = "the CNI's device for";
const NO_TUNNEL_YET: &str = "userspace WireGuard is not reached";

const BAD_ANNOTATIONS: &str = "bad_annotations_are_reported_and_harm_nothing";
const BAD_PEERS: &str = "bad_peers_are_refused_and_harm_nothing";
const PRESHARED: &str = "a_peer_with_a_preshared_key_is_out_without_it";
const RESTARTED: &str = "restarting_operator_and_api_server_loses_no_packet";
const TUNNELS_ROLLED: &str = "rolling_the_tunnels_costs_a_handshake_each";
const TUNNEL_STOPPED: &str = "without_the_tunnel_traffic_stops_and_nothing_leaks";
const CRASHED: &str = "a_crashed_follower_comes_back";
const REBOOTED: &str = "a_rebooted_leader_keeps_its_key";
const UNINSTALLED: &str = "uninstall_leaves_every_node_as_it_was";
const STOPPED: &str = "an_agent_without_api_server_goes_on_from_its_checkpoint";

fn main() -> ExitCode {
    suite::run(
        "t-cluster",
        "test.yaml",
        &suite::options(Spanwire::Image),
        &[
            (
                "without_spanwire_no_location_reaches_another",
                install::nothing_crosses_without_spanwire,
            ),
            ("helm_installs_and_every_pod_reaches_every_pod", install::installs),
            ("every_node_and_location_is_ready", Lab::wait_mesh_ready),
            (
                "a_second_release_is_refused",
                install::a_second_release_is_refused,
            ),
            (
                "locations_show_their_leaders",
                install::locations_show_their_leaders,
            ),
            (
                "nodes_show_that_they_are_ready",
                install::nodes_show_that_they_are_ready,
            ),
            (
                "kubectl_spanwire_says_that_nothing_is_wrong",
                cli::nothing_is_wrong,
            ),
            (
                "kubectl_spanwire_finds_that_kernels_do_what_is_planned",
                cli::kernels_do_what_is_planned,
            ),
            (
                "kubectl_spanwire_measures_the_legs_of_a_way",
                cli::legs_are_measured,
            ),
            (
                "kubectl_spanwire_measures_throughput_in_both_directions",
                cli::throughput_is_measured,
            ),
            (
                "kubectl_spanwire_shows_that_traffic_between_locations_is_encrypted",
                cli::traffic_is_encrypted,
            ),
            ("the_tour_shows_what_kubectl_spanwire_says", tour::typed),
            (
                "without_ipv6_in_the_cluster_ipv6_of_the_nodes_stays_as_it_was",
                ipv6::stays_as_it_was,
            ),
            (
                "a_node_on_which_ipv6_is_switched_off_leads_and_is_ready",
                ipv6::switched_off,
            ),
            (
                "leaders_keep_the_default_route_that_a_router_advertises",
                ipv6::learned_route,
            ),
            ("hosts_and_pods_reach_each_other", reach::hosts_and_pods),
            ("followers_keep_their_source_address", reach::source_is_preserved),
            ("a_hundred_megabytes_arrive_unharmed_both_ways", reach::bulk),
            ("a_service_answers_from_pods_nodes_and_outside", reach::service),
            (
                "udp_to_a_remote_wireguard_port_goes_through_the_tunnel",
                reach::udp_to_the_wireguard_port,
            ),
            ("logs_and_exec_work_behind_nat", reach::logs_and_exec),
            (
                "all_of_it_with_strict_reverse_path_filters",
                reach::strict_reverse_path,
            ),
            (
                "the_internet_sees_only_wireguard",
                wire::internet_sees_only_wireguard,
            ),
            (
                "inside_a_location_there_is_vxlan_and_no_wireguard",
                wire::lan_sees_vxlan,
            ),
            (
                "the_routes_of_the_cni_stay_as_they_were",
                install::main_table_is_untouched,
            ),
            ("wg_shows_the_mesh", wire::wg_shows_the_mesh),
            ("at_rest_nothing_is_written_and_no_nat_forgets", rest::quiet),
            (
                "a_peer_outside_reaches_every_location_until_deleted",
                peers::laptop,
            ),
            (PRESHARED, peers::preshared),
            ("kubectl_spanwire_connects_this_machine", peers::connects),
            (BAD_PEERS, bad_input::peers),
            ("bad_locations_are_refused_and_harm_nothing", bad_input::locations),
            (BAD_ANNOTATIONS, bad_input::annotations),
            (
                "an_agents_token_writes_only_its_own_node",
                trust::token_is_bound_to_its_node,
            ),
            ("an_annotated_leader_takes_over", annotations::leader_moves),
            (
                "a_cordoned_leader_hands_its_role_on_and_no_packet_is_lost",
                annotations::leader_cordoned,
            ),
            ("a_changed_endpoint_is_followed", annotations::endpoint),
            (
                "a_node_moves_to_a_location_of_its_own_and_back",
                annotations::location,
            ),
            ("what_is_deleted_by_hand_comes_back", repair::objects),
            ("agents_killed_hard_lose_no_packet", restarts::agents_killed),
            ("rolling_the_agents_loses_no_packet", restarts::agents_rolled),
            (TUNNELS_ROLLED, restarts::tunnels_rolled),
            (RESTARTED, restarts::control),
            (STOPPED, restarts::checkpoint),
            (TUNNEL_STOPPED, plaintext::tunnel_stopped),
            (CRASHED, restarts::follower_crash),
            (REBOOTED, restarts::leader_reboot),
            ("after_all_that_everything_is_ready_again", Lab::wait_mesh_ready),
            (UNINSTALLED, install::uninstall),
            (
                "with_open_routers_and_no_spanwire_the_plaintext_is_seen",
                plaintext::inverse,
            ),
        ],
        PROVOKED,
    )
}
