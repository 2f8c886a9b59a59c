//! Hosts as people have them, and people who have broken into one: neighbours of every kind on leaders and followers, in
//! locations that reach each other by plain routing, so that whatever is not in the tunnel would be seen.

mod attacks;
mod neighbours;

use std::process::ExitCode;

use spanwire_e2e::{Lab, Options, Provoked, Spanwire, suite};

/// The command `lab`, which answers, asks and advertises.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lab");

const COME_AND_GO: &str = "neighbours_that_come_and_go_cut_nothing";
const DEAD: &str = "where_a_vtep_is_no_member_address_each_line_of_defence_holds_alone";
const INVERSE: &str = "and_without_all_of_them_the_plaintext_is_seen";
const FORBIDDEN: &str = "what_a_host_forbids_is_named_with_its_rule";
const CLASH: &str = "a_network_that_two_places_have_is_reported_and_harms_nothing_else";
const NEIGHBOURS: &str = "with_neighbours_on_all_hosts_every_pod_reaches_every_pod";
const CLAIMED: &str = "addresses_that_a_kubelet_claims_draw_nothing";
const UNREADABLE: &str = "a_report_that_cannot_be_read_harms_nothing_else";

/// What tests do on purpose that programs warn of.
const PROVOKED: &[Provoked] = &[
    // A VPN resets what went another way before: any connection to the API server, on a2 one after the other.
    Provoked::without_api_server(COME_AND_GO),
    Provoked::operator(COME_AND_GO, "Connection reset by peer"),
    Provoked::agent(DEAD, "repaired what another program had changed"),
    Provoked::agent(INVERSE, "repaired what another program had changed"),
    Provoked::agent(FORBIDDEN, "the chain ip forbids f of this node's firewall drops"),
    Provoked::agent(CLASH, "is connected here, too, by clash0"),
    Provoked::agent(UNREADABLE, "cannot be read, ignoring that part"),
    Provoked::operator(UNREADABLE, "cannot be read, ignoring that part"),
    Provoked::event(UNREADABLE, "InvalidField: node c2: status.conditions["),
    // Of a node that was made again the object before is there, which is said by each operator that starts.
    Provoked::event(
        NEIGHBOURS,
        "ClaimRejected: node a3-old: status.addresses: 192.168.1.13/32",
    ),
    Provoked::event(
        UNREADABLE,
        "ClaimRejected: node a3-old: status.addresses: 192.168.1.13/32",
    ),
    Provoked::event(CLAIMED, "ClaimRejected: node c2: status.addresses: "),
];

fn main() -> ExitCode {
    let options = Options {
        spanwire: Spanwire::Image,
        advertise: Some(PROGRAM.into()),
        ..Options::default()
    };
    suite::run(
        "t-hosts",
        "hosts.yaml",
        &options,
        &[
            (
                "without_spanwire_plaintext_crosses_the_internet",
                neighbours::plaintext_before,
            ),
            (NEIGHBOURS, neighbours::installs),
            ("every_node_and_location_is_ready", Lab::wait_mesh_ready),
            (
                "with_neighbours_that_break_nothing_nothing_is_found",
                neighbours::diagnosed,
            ),
            (FORBIDDEN, neighbours::forbidden),
            ("what_a_kubelet_says_of_its_node_is_refused", attacks::annotations),
            ("leases_and_reports_of_others_are_refused", attacks::others),
            (CLAIMED, attacks::addresses),
            ("locations_are_settled", neighbours::settled),
            (
                "every_host_and_pod_answers_every_other_and_nothing_is_plain",
                neighbours::all_answer,
            ),
            (
                "leaders_keep_what_their_router_advertises",
                neighbours::advertised,
            ),
            (
                "a_node_keeps_its_address_beside_a_stale_one",
                neighbours::stale_node,
            ),
            (
                "packets_that_others_have_marked_never_leave_in_plaintext",
                neighbours::marked,
            ),
            (DEAD, neighbours::dead),
            (INVERSE, neighbours::inverse),
            (
                "with_every_neighbour_on_a_leader_all_answer_all",
                neighbours::on_leaders,
            ),
            (COME_AND_GO, neighbours::come_and_go),
            (CLASH, neighbours::clash),
            (UNREADABLE, attacks::unreadable),
            ("after_all_that_everything_is_ready", Lab::wait_mesh_ready),
        ],
        PROVOKED,
    )
}
