//! `status`: the program, an API server, and agents of which some say nothing.

use spanwire_testbed::wait_until;

use crate::{
    cli,
    kubelet::{Agents, Other},
    map::SOON,
    publish_all,
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
