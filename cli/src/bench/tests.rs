use super::*;

const TIME: Duration = Duration::from_secs(5);

fn stream(from: &str, to: &str) -> Stream {
    let address = |node: &str| format!("192.168.{}.1", node.len()).parse().unwrap();
    Stream {
        from: from.to_owned(),
        to: to.to_owned(),
        source: address(from),
        destination: address(to),
    }
}

fn measured(bytes: u64, seconds: f64) -> Measured {
    let spent = |busy, softirq| {
        Ok(Processors {
            processors: 4,
            busy,
            user: busy / 2.0,
            system: busy / 4.0,
            softirq,
            stolen: 0.011,
        })
    };
    Measured {
        received: Received { bytes, seconds },
        processors: [
            ("a3".to_owned(), spent(0.124, 0.02)),
            ("a1".to_owned(), spent(0.5, 0.1251)),
            ("c1".to_owned(), spent(0.484, 0.119)),
            ("c2".to_owned(), spent(0.2, 0.05)),
        ]
        .into(),
    }
}

fn nodes() -> Vec<String> {
    ["a3", "a1", "c1", "c2"].map(str::to_owned).into()
}

/// Of the two directions between a3 and c2.
fn shown(outcomes: [Outcome; 2], wide: bool) -> (String, Vec<String>, Verdict) {
    let [there, back] = outcomes;
    let outcomes = [(stream("a3", "c2"), there), (stream("c2", "a3"), back)];
    let (rows, notes, verdict) = report(&outcomes, &nodes(), TIME);
    (text(&rows, wide), notes, verdict)
}

fn healthy() -> [Outcome; 2] {
    [Ok(measured(589_123_456, 5.0)), Ok(measured(1_489_123_456, 4.999))]
}

#[test]
fn each_direction_has_its_throughput_and_the_load_of_each_node() {
    let (text, notes, verdict) = shown(healthy(), false);
    assert_eq!(text, include_str!("tests/healthy.txt"));
    assert_eq!((notes, verdict), (vec![], Verdict::Clean));
    let (text, ..) = shown(healthy(), true);
    assert_eq!(text, include_str!("tests/wide.txt"));
}

#[test]
fn what_an_agent_does_not_answer_is_unknown_and_the_rest_appears() {
    let [mut there, _] = healthy();
    let unknown = Err("not within 7 s".to_owned());
    there
        .as_mut()
        .unwrap()
        .processors
        .insert("c1".to_owned(), unknown);
    let why = Failure::Unanswered("c2: its agent is of another version".to_owned());
    let (text, notes, verdict) = shown([there, Err(why)], false);
    assert_eq!(text, include_str!("tests/unanswered.txt"));
    assert_eq!(
        notes,
        [
            "the processors of c1 are not known: not within 7 s",
            "c2 to a3 is not known: c2: its agent is of another version"
        ]
    );
    assert_eq!(verdict, Verdict::Warnings);
}

#[test]
fn what_is_unknown_in_both_directions_is_said_once() {
    let of_one = |mut outcome: Outcome| {
        let processors = &mut outcome.as_mut().unwrap().processors;
        processors.insert("c1".to_owned(), Err("it has no running pod".to_owned()));
        outcome
    };
    let (_, notes, verdict) = shown(healthy().map(of_one), false);
    assert_eq!(
        notes,
        ["the processors of c1 are not known: it has no running pod"]
    );
    assert_eq!(verdict, Verdict::Warnings);
}

#[test]
fn what_the_network_does_not_carry_is_wrong() {
    let lost = Failure::Lost("no TCP connection".to_owned());
    let (_, notes, verdict) = shown([Err(lost), Ok(measured(0, 5.0))], false);
    assert_eq!(notes[0], "a3 to c2: no TCP connection");
    assert!(notes[1].contains("nothing came"), "{notes:?}");
    assert!(
        notes[1].contains("kubectl spanwire explain 192.168.2.1"),
        "{notes:?}"
    );
    assert_eq!(verdict, Verdict::Errors);
    for wrong in [Err(Failure::Lost(String::new())), Ok(measured(0, 5.0))] {
        let (_, _, verdict) = shown([wrong, Ok(measured(9, 5.0))], false);
        assert_eq!(verdict, Verdict::Errors);
    }
}

#[test]
fn a_connection_that_ends_early_is_worth_looking_at() {
    let (text, notes, verdict) = shown([Ok(measured(9, 2.04)), Ok(measured(9, 4.6))], false);
    assert!(text.contains("9 B        2.0       35 bit/s"), "{text}");
    assert_eq!(notes, ["a3 to c2: the connection ended after 2.0 of 5 s"]);
    assert_eq!(verdict, Verdict::Warnings);
}

#[test]
fn no_time_is_no_rate_whatever_an_agent_says() {
    for seconds in [0.0, -1.0] {
        let (text, _, verdict) = shown([Ok(measured(9, seconds)), Ok(measured(9, 5.0))], false);
        assert!(text.lines().nth(1).unwrap().ends_with('?'), "{text}");
        assert_eq!(verdict, Verdict::Warnings);
    }
    let (text, ..) = shown([Ok(measured(u64::MAX, 1e-9)), Ok(measured(u64::MAX, 5.0))], true);
    assert!(text.contains("Gbit/s"), "{text}");
}

#[test]
fn programs_get_the_figures() {
    let [there, back] = healthy();
    let outcomes = [(stream("a3", "c2"), there), (stream("c2", "a3"), back)];
    let (rows, ..) = report(&outcomes, &nodes(), TIME);
    let json = serde_json::to_value(&rows).unwrap();
    assert_eq!(json[0]["source"], "192.168.2.1");
    assert_eq!(json[0]["bytes"], 589_123_456);
    assert_eq!(json[0]["bitsPerSecond"], 942_597_529.6);
    let load = &json[1]["nodes"][0];
    assert_eq!((&load["node"], &load["does"]), (&"a3".into(), &"receives".into()));
    assert_eq!(load["softirq"], 0.02);
    let unknown = [(
        stream("a3", "c2"),
        Err(Failure::Lost("no TCP connection".to_owned())),
    )];
    let json = serde_json::to_value(report(&unknown, &nodes(), TIME).0).unwrap();
    assert!(json[0].get("bytes").is_none() && json[0]["nodes"][0].get("busy").is_none());
    assert!(serde_saphyr::to_string(&json).unwrap().contains("does: sends"));
}

/// What the agent writes (its modules `bench` and `processors`), and more, as a later version may.
#[test]
fn the_answers_of_agents_are_read() {
    let token = "0123456789abcdef0123456789abcdef";
    let offer = format!(r#"{{"port": 40001, "token": "{token}", "more": 1}}"#);
    let offer = serde_json::from_str::<Offer>(&offer).unwrap().checked().unwrap();
    let way = stream("a3", "c2");
    assert_eq!(
        way.send_path(&offer, TIME),
        format!("/debug/bench/send/192.168.2.1/192.168.2.1/40001/{token}/5")
    );
    assert_eq!(way.receive_path(TIME), "/debug/bench/receive/192.168.2.1/5");
    assert_eq!(processors_path(TIME), "/debug/processors/5");
    let done: Ended<Received> =
        serde_json::from_str(r#"{"bytes": 7, "seconds": 1.5, "more": null}"#).unwrap();
    assert_eq!(
        done,
        Ended::Done(Received {
            bytes: 7,
            seconds: 1.5
        })
    );
    let failed: Ended<Sent> = serde_json::from_str(r#"{"failed": "no"}"#).unwrap();
    assert_eq!(
        failed,
        Ended::Failed {
            failed: "no".to_owned()
        }
    );
    let spent = r#"{"processors": 2, "busy": 0.5, "user": 0.1, "system": 0.2, "softirq": 0.2, "stolen": 0.0, "more": {}}"#;
    assert_eq!(serde_json::from_str::<Processors>(spent).unwrap().processors, 2);
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    for text in [
        "",
        "{}",
        "[]",
        r#"{"bytes": -1, "seconds": 1.0}"#,
        r#"{"bytes": 1}"#,
        r#"{"failed": 1}"#,
    ] {
        assert!(serde_json::from_str::<Ended<Received>>(text).is_err(), "{text}");
    }
    for (port, token) in [
        (0, "0123456789abcdef0123456789abcdef"),
        (1, ""),
        (1, "0123456789abcdef0123456789abcde/"),
        (1, "../../../../../../../healthz/xxx"),
        (1, "0123456789abcdef0123456789abcdef0"),
    ] {
        let offer = Offer {
            port,
            token: token.to_owned(),
        };
        assert!(offer.checked().is_err(), "{port} {token}");
    }
}

#[test]
fn rates_have_three_digits_and_the_unit_that_fits() {
    let shown = [
        0.0,
        999.0,
        999.9,
        1234.0,
        9_999.0,
        99_960.0,
        942_597_529.6,
        12_345_678_901.0,
        1e15,
    ]
    .map(bits);
    assert_eq!(
        shown,
        [
            "0 bit/s",
            "999 bit/s",
            "1.00 kbit/s",
            "1.23 kbit/s",
            "10.0 kbit/s",
            "100 kbit/s",
            "943 Mbit/s",
            "12.3 Gbit/s",
            "1000000 Gbit/s"
        ]
    );
}
