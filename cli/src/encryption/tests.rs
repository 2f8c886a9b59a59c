use std::sync::Arc;

use spanwire_topology::{Leader, LeaderRole, Location, LocationName, Member};

use super::*;

/// Locations a (led by a1, a2), b (b1) and c (c1, not established with a), with a follower each.
fn mesh() -> Mesh {
    let mut mesh = Mesh::default();
    for (name, leaders, established) in [
        ("a", &["a1", "a2"][..], &["b"][..]),
        ("b", &["b1"], &["a", "c"]),
        ("c", &["c1"], &["b"]),
    ] {
        let leader = |node: &&str| Leader {
            node: node.parse().unwrap(),
            role: LeaderRole::Active,
        };
        let members = leaders
            .iter()
            .map(|node| (*node).to_owned())
            .chain([format!("{name}9")]);
        let location = Location {
            leaders: leaders.iter().map(leader).collect(),
            established: established.iter().map(|other| other.parse().unwrap()).collect(),
            members: Arc::new(
                members
                    .map(|node| (node.parse().unwrap(), Member::default()))
                    .collect(),
            ),
            ..Location::default()
        };
        mesh.locations.insert(name.parse().unwrap(), location);
    }
    // What is left of a location whose nodes are gone.
    mesh.locations.insert("d".parse().unwrap(), Location::default());
    mesh
}

/// What makes an answer a part of what there was.
type Change = fn(&mut Counted);

fn pair(from: &str, to: &str, wireguard: u64, plaintext: u64) -> Pair {
    let amount = |packets| Amount {
        packets,
        bytes: packets * 1000,
    };
    Pair {
        from: from.to_owned(),
        to: to.to_owned(),
        wireguard: amount(wireguard),
        plaintext: amount(plaintext),
        sample: (plaintext > 0).then(|| "10.244.1.2 to 10.244.3.2, TCP, sent by eth0".to_owned()),
    }
}

fn counted(pairs: &[Pair]) -> Result<Counted, String> {
    Ok(Counted {
        devices: vec!["eth0".to_owned()],
        pairs: pairs.to_vec(),
        ..Counted::default()
    })
}

fn healthy() -> Counts {
    [
        ("a1", counted(&[pair("a", "b", 20, 0), pair("b", "a", 21, 0)])),
        ("a2", counted(&[pair("a", "b", 2, 0)])),
        (
            "b1",
            counted(&[pair("a", "b", 22, 0), pair("b", "a", 21, 0), pair("b", "c", 7, 0)]),
        ),
        ("c1", counted(&[pair("b", "c", 7, 0)])),
    ]
    .map(|(node, answer)| (node.to_owned(), answer))
    .into()
}

fn shown(counts: &Counts, wide: bool) -> (String, Vec<String>, Verdict) {
    let mesh = mesh();
    let (rows, notes, verdict) = report(&mesh, &asked(&mesh, false), counts);
    (text(&rows, wide), notes, verdict)
}

/// Returns the result of a row.
fn result(counts: &Counts, from: &str, to: &str) -> Outcome {
    let mesh = mesh();
    let (rows, ..) = report(&mesh, &asked(&mesh, false), counts);
    rows.iter()
        .find(|row| row.from == from && row.to == to)
        .unwrap()
        .result
}

#[test]
fn each_location_has_a_row_for_each_other_one() {
    let (text, notes, verdict) = shown(&healthy(), false);
    assert_eq!(text, include_str!("tests/healthy.txt"));
    assert_eq!((notes, verdict), (vec![], Verdict::Warnings));
}

#[test]
fn what_went_in_plaintext_is_shown_with_its_node() {
    let mut counts = healthy();
    counts.insert(
        "b1".to_owned(),
        counted(&[pair("a", "b", 5, 3), pair("b", "a", 5, 0)]),
    );
    let (text, _, verdict) = shown(&counts, true);
    assert_eq!(text, include_str!("tests/plaintext.txt"));
    assert_eq!(verdict, Verdict::Errors);
    assert_eq!(
        result(&counts, "a", "b"),
        Outcome::Plaintext,
        "though it has seen none of that"
    );
}

#[test]
fn programs_get_the_figures_of_each_row() {
    let mesh = mesh();
    let (rows, ..) = report(&mesh, &asked(&mesh, false), &healthy());
    let json = serde_json::to_value(&rows).unwrap();
    let row = &json[2];
    assert_eq!(
        (&row["from"], &row["to"], &row["result"]),
        (&"b".into(), &"a".into(), &"Encrypted".into())
    );
    assert_eq!(
        row["wireguard"]["in"],
        serde_json::json!({"packets": 22, "bytes": 22_000})
    );
    assert_eq!(row["plaintext"]["out"]["packets"], 0);
    assert!(
        serde_saphyr::to_string(&json)
            .unwrap()
            .contains("result: NotEstablished")
    );
}

/// What the agent writes (`answer` of its module `encryption`), and more, as a later version may.
#[test]
fn the_answer_of_an_agent_is_read() {
    let answer = r#"{"location": "a", "seconds": 2, "devices": ["eth0"], "pairs": [{"from": "a", "to": "b",
        "wireguard": {"packets": 5, "bytes": 500}, "plaintext": {"packets": 0, "bytes": 0}, "sample": null}],
        "others": {"packets": 0, "bytes": 0}, "unreadable": 0, "missed": {"wireguard": 0, "rest": 0},
        "troubles": [], "more": {}}"#;
    let found: Counted = serde_json::from_str(answer).unwrap();
    assert_eq!((found.pairs[0].wireguard.packets, found.devices.len()), (5, 1));
}

#[test]
fn plaintext_that_passes_another_location_counts_for_the_two_that_it_is_between() {
    let mut counts = healthy();
    counts.insert("a2".to_owned(), counted(&[pair("b", "c", 0, 1)]));
    assert_eq!(result(&counts, "b", "c"), Outcome::Plaintext);
    assert_eq!(result(&counts, "c", "b"), Outcome::Plaintext);
    assert_eq!(result(&counts, "a", "b"), Outcome::Encrypted);
    let (text, ..) = shown(&counts, false);
    assert!(text.contains("\n  a2: 10.244.1.2 to "), "{text}");
}

#[test]
fn what_is_not_known_is_not_said_to_be_encrypted() {
    let with = |node: &str, answer: Result<Counted, String>| {
        let mut counts = healthy();
        counts.insert(node.to_owned(), answer);
        counts
    };
    assert_eq!(result(&healthy(), "a", "b"), Outcome::Encrypted);
    let silent = with("a2", Err("not within 7 s".to_owned()));
    assert_eq!(result(&silent, "a", "b"), Outcome::Incomplete);
    let (text, notes, verdict) = shown(&with("b1", Err("it has no running pod".to_owned())), false);
    assert!(text.contains("b      a    ?       ?"), "{text}");
    assert_eq!(notes, ["b1: what it counts is not known: it has no running pod"]);
    assert_eq!(verdict, Verdict::Warnings);
    assert_eq!(result(&with("b1", counted(&[])), "b", "a"), Outcome::NothingSeen);
    let plain = [pair("a", "b", 9, 1)];
    let changes: [(Change, &str); 3] = [
        (
            |counted| counted.missed.rest = 5,
            "a1: 5 packets were too many to be looked at",
        ),
        (
            |counted| counted.unreadable = 1,
            "a1: 1 packets between locations are cut off",
        ),
        (
            |counted| counted.troubles.push("eth0: gone".to_owned()),
            "a1: eth0: gone",
        ),
    ];
    for (change, note) in changes {
        let changed = |pairs: &[Pair]| {
            let mut answer = counted(pairs).unwrap();
            change(&mut answer);
            with("a1", Ok(answer))
        };
        let counts = changed(&[pair("a", "b", 9, 0)]);
        assert_eq!(result(&counts, "a", "b"), Outcome::Incomplete, "{note}");
        assert_eq!(shown(&counts, false).1, [note]);
        assert_eq!(result(&changed(&plain), "a", "b"), Outcome::Plaintext, "{note}");
    }
    // Of WireGuard's datagrams some are enough.
    let mut busy = counted(&[pair("a", "b", 9, 0)]).unwrap();
    busy.missed.wireguard = 1000;
    let busy = with("a1", Ok(busy));
    assert_eq!(result(&busy, "a", "b"), Outcome::Encrypted);
    assert!(shown(&busy, false).0.contains("11+ out, 0+ in"));
}

#[test]
fn before_two_locations_are_established_plaintext_is_no_error() {
    let mut counts = healthy();
    counts.insert("c1".to_owned(), counted(&[pair("c", "a", 0, 4)]));
    assert_eq!(result(&counts, "c", "a"), Outcome::NotEstablished);
    let (text, ..) = shown(&counts, false);
    counts.insert("a1".to_owned(), Err("gone".to_owned()));
    counts.insert("a2".to_owned(), Err("gone".to_owned()));
    assert_eq!(result(&counts, "a", "c"), Outcome::NotEstablished);
    assert!(text.contains("4 out, 0 in") && !text.contains("ERROR"), "{text}");
}

#[test]
fn followers_are_asked_on_demand_and_nodes_that_lead_themselves_are_a_pair() {
    let mut mesh = mesh();
    assert_eq!(asked(&mesh, false)["a"], ["a1", "a2"]);
    assert_eq!(asked(&mesh, true)["a"], ["a1", "a2", "a9"]);
    let a = mesh
        .locations
        .get_mut(&"a".parse::<LocationName>().unwrap())
        .unwrap();
    a.settings.mode = MeshMode::Nodes;
    a.established.insert("a".parse().unwrap());
    let counts = [("a1".to_owned(), counted(&[pair("a", "a", 5, 0)]))].into();
    let (rows, ..) = report(&mesh, &asked(&mesh, false), &counts);
    assert_eq!((rows[0].from.as_str(), rows[0].to.as_str()), ("a", "a"));
    assert_eq!(rows[0].wireguard.out.packets, 5);
}

#[test]
fn where_all_is_encrypted_it_says_so() {
    let mut mesh = mesh();
    mesh.locations.retain(|name, _| name.as_str() != "c");
    let (rows, notes, verdict) = report(&mesh, &asked(&mesh, false), &healthy());
    let text = text(&rows, false);
    assert!(text.ends_with("were in WireGuard.\n"), "{text}");
    assert_eq!((notes, verdict), (vec![], Verdict::Clean));
    mesh.locations.retain(|name, _| name.as_str() == "a");
    let (rows, ..) = report(&mesh, &asked(&mesh, false), &healthy());
    assert_eq!(super::text(&rows, false), "There are no two locations.\n");
}
