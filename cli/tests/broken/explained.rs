//! A way on which a firewall drops a packet.

use serde_json::json;
use spanwire_cli::{
    answer::Verdict::{Clean, Errors, Warnings},
    explain::{Report, explain},
    findings::Answers,
    ways::{NodeWay, Packet, Ways},
};
use spanwire_host::{Protocol, Transport};
use spanwire_topology::PublicKey;

use crate::{HEALTHY, cluster};

/// A packet of a2 to b1, with what the agent of a1, by which it goes, says of its firewall.
fn explained(answer: &str) -> Report {
    let (report, notes) = explained_of(None, answer);
    assert_eq!(notes, Vec::<String>::new());
    report
}

/// One that carries this, of which the agents of a2 and b1 do not say that they look at it; with what is not known of it.
fn explained_of(transport: Option<Transport>, answer: &str) -> (Report, Vec<String>) {
    let (from, to) = ("192.168.1.2".parse().unwrap(), "192.168.2.1".parse().unwrap());
    let packet = Packet { from, to, transport };
    let mut report = explain(&cluster(HEALTHY, &[]), &Answers::new(), packet).unwrap();
    let ways = report.questions().into_iter().map(|question| {
        let out = |device: &str, tunnel: bool, via: Option<&str>| {
            json!({"device": device, "tunnel": tunnel, "via": via, "table": 51830, "mtu": 1420, "peer": null})
        };
        let mut way = match (question.node.as_str(), question.answers) {
            ("a2", false) => out("flannel.1", false, Some("10.244.1.0")),
            ("a1", true) => out("flannel.1", false, Some("10.244.2.0")),
            ("a1", false) | ("b1", true) => {
                let mut way = out("spanwire0", true, None);
                let key = if question.answers { 1 } else { 3 };
                way["peer"] = json!(PublicKey::new([key; 32]).to_string());
                way
            }
            _ => json!({"here": true}),
        };
        way["firewall"] = json!({"verdict": "accepted"});
        if question.node == "a1" {
            way["packet"] = json!(question.transport.map(|transport| transport.to_string()));
        }
        if question.node == "a1" && !question.answers {
            way["firewall"] = serde_json::from_str(answer).unwrap();
        }
        (question, serde_json::from_value(way).map_err(|error| error.to_string()))
    });
    let ways: Ways = ways.collect();
    let notes = report.compare(&ways);
    (report, notes)
}

#[test]
fn explain_names_the_first_node_whose_firewall_drops_a_packet() {
    let accepted = explained(r#"{"verdict": "accepted"}"#);
    assert_eq!(accepted.verdict(), Clean);
    let text = accepted.text();
    assert_eq!(text.matches("     its firewall: accepted\n").count(), 6, "{text}");
    assert!(
        text.contains("arrives after 2 hops, with packets of up to 1420 bytes"),
        "{text}"
    );
    let dropped = explained(
        r#"{"verdict": "dropped", "by": "the policy of the chain FORWARD (ip filter)", "hook": "forward", "family": "ip",
            "table": "filter", "chain": "FORWARD", "rule": null, "legacy": false, "own": false}"#,
    );
    assert_eq!(dropped.verdict(), Errors);
    let text = dropped.text();
    for line in [
        "     its firewall: dropped by the policy of the chain FORWARD (ip filter)\n",
        "  is dropped by the firewall of a1\n",
        "`nft -a list chain ip filter FORWARD` on a1 shows it",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // What comes to no node is not asked about there.
    assert_eq!(text.matches("its firewall: accepted").count(), 4, "{text}");
    let unknown = explained(r#"{"verdict": "unknown", "by": "rule 9 of the chain FORWARD (ip filter)"}"#);
    assert_eq!(unknown.verdict(), Clean);
    let text = unknown.text();
    assert!(
        text.contains("its firewall: not known: rule 9 of the chain FORWARD (ip filter) decides"),
        "{text}"
    );
    let newer = serde_json::from_str::<NodeWay>(r#"{"here": true, "firewall": null}"#).unwrap();
    assert_eq!(newer.firewall, None);
}

#[test]
fn explain_says_what_a_packet_carries_and_which_agents_do_not_look_at_that() {
    let web = Transport {
        destination_port: Some(443),
        ..Protocol::Tcp.into()
    };
    let (report, notes) = explained_of(Some(web), r#"{"verdict": "accepted"}"#);
    let text = report.text();
    for line in [
        "a2/192.168.1.2 to b1/192.168.2.1, tcp to port 443\n",
        "a2/192.168.1.2, tcp from port 443\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let older = |node: &str| {
        notes
            .iter()
            .filter(|note| note.starts_with(&format!("what {node} does by protocol")))
            .count()
    };
    assert_eq!([older("a2"), older("a1"), older("b1")], [2, 0, 2], "{notes:?}");
    assert_eq!(report.verdict(), Warnings);
}
