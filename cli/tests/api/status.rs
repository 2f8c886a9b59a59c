//! `status`: the program, an API server, and agents of which some say nothing.

use serde_json::json;
use spanwire_crds::Peer;
use spanwire_testbed::wait_until;

use crate::{
    KEY, cli, create,
    kubelet::{Agents, Other},
    map::SOON,
    ours, publish_all,
    server::Server,
};

/// Nine locations of one node each.
const ALL: [(&str, &str); 9] = [
    ("a1", "a"),
    ("b1", "b"),
    ("c1", "c"),
    ("d1", "d"),
    ("e1", "e"),
    ("f1", "f"),
    ("g1", "g"),
    ("h1", "h"),
    ("i1", "i"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_that_are_silent_measure_is_unknown_and_the_rest_is_shown() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    publish_all(&server, &ALL).await;
    let (agents, _kubelet) = Agents::start(&server, &ALL.map(|(node, _)| node)).await;
    for (node, own) in &ALL {
        let leaders = ALL.map(|(node, location)| ([node], location));
        let others = leaders.iter().filter(|(_, location)| location != own);
        let others: Vec<Other<'_>> = others
            .map(|(node, location)| Other::well(location, node))
            .collect();
        agents.say(node, &others);
    }
    let run = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);
    // On a busy machine an agent may take more than its two seconds.
    let status = |what: &str, is: &dyn Fn(i32, &str) -> bool| {
        let mut last = (0, String::new());
        wait_until(what, SOON, || {
            last = run(&["status"]);
            is(last.0, &last.1) || {
                eprintln!("{what}: {} {}", last.0, last.1);
                false
            }
        });
        last
    };
    let links = |said: &str| -> Vec<Vec<String>> {
        let words = said
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect());
        words
            .filter(|words: &Vec<String>| words.get(3).is_some_and(|word| word == ">"))
            .collect()
    };
    let (_, said) = status("all agents answer", &|code, said| {
        code == 0 && said.contains("Nothing is wrong.")
    });
    let rows = links(&said);
    assert_eq!(rows.len(), 9 * 8, "{said}");
    assert!(rows.iter().all(|row| row[5] == "up"), "{said}");

    for silent in ["h1", "i1"] {
        agents.silence(silent);
    }
    let (code, said) = status("two of nine are silent", &|_, said| {
        said.matches("its agent does not answer").count() == 1 && said.contains("meshnodes h1, i1: NoAnswer")
    });
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("not within 2 s") && !said.contains("Nothing is wrong."),
        "{said}"
    );
    let rows = links(&said);
    assert_eq!(rows.len(), 9 * 8, "{said}");
    for row in rows {
        // FROM TO LEADER > FAR LINK HANDSHAKE …
        let (far, link) = (row[4].as_str(), row[5].as_str());
        match row[0].as_str() {
            "h" | "i" => assert_eq!((far, link), ("?", "?"), "{row:?}"),
            _ => assert_eq!((far, link), (format!("{}1", row[1]).as_str(), "up"), "{row:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_listed_with_when_and_where_a_leader_heard_them_last() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    publish_all(&server, &ALL[..2]).await;
    let (agents, _kubelet) = Agents::start(&server, &["a1", "b1"]).await;
    for (name, attachments, connected) in [
        ("both", json!(["a", "b"]), json!(["b"])),
        ("never", json!(["a"]), json!([])),
        ("unknown", json!(["b"]), json!([])),
    ] {
        let spec = json!({"publicKey": KEY[0], "allowedIPs": ["192.168.50.0/24"]});
        let accepted = json!({"publicKey": KEY[0], "home": "a", "attachments": attachments});
        let status =
            json!({"accepted": accepted, "connectedTo": connected, "lastHandshake": "2026-01-01T00:00:00Z"});
        let peer = ours("Peer", name, spec, Some(status));
        create::<Peer>(&server, peer).await;
    }
    let at = |age: u32, port: u16| {
        format!(
            "tunnel to peer both: last handshake {age} s ago, 5 bytes received, 7 sent, at 203.0.113.9:{port}\n"
        )
    };
    agents.links(
        "a1",
        at(71, 1) + "tunnel to peer never: no handshake yet, 0 bytes received, 296 sent\n",
    );
    agents.links("b1", at(12, 2));
    let run = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);
    let mut last = String::new();
    wait_until("both agents to have answered", SOON, || {
        last = run(&["peer", "list"]).1;
        last.contains("12 s ago")
    });
    let ends = |name: &str| {
        let line = last.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .rev()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(ends("both"), "203.0.113.9:2 ago", "{last}");
    let both = last.lines().find(|line| line.starts_with("both")).unwrap();
    assert!(both.contains("Unknown   b              12 s ago"), "{last}");
    assert_eq!(ends("never"), "- never", "{last}");
    assert_eq!(ends("unknown"), "- ?", "{last}");
    agents.silence("a1");
    wait_until("an agent is silent", SOON, || {
        let said = run(&["peer", "list", "-o", "json"]).1;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap().clone();
        assert_eq!(row("both")["connectedTo"], json!(["b"]));
        assert_eq!(row("both")["lastHandshake"], "2026-01-01T00:00:00Z");
        row("never")["never"].is_null() && row("both")["handshakeSeconds"] == 12
    });
}
