use serde_json::{Value, json};

use super::*;
use crate::figures::Figures;

/// Two locations of two nodes each, of which a1 and b1 lead, as `status` is tested with.
fn objects() -> Objects {
    let list: Value =
        serde_json::from_str(include_str!("../../tests/answers/cases/status-healthy/mesh.json")).unwrap();
    let mut objects = Objects::default();
    for object in list["items"].as_array().unwrap() {
        objects.add(object.clone()).unwrap();
    }
    objects
}

/// What the agent of a leader says of the other location.
fn says(of: &str, tunnels: &[&str], up: bool, loss: f64, failovers: u64) -> Result<Figures, String> {
    let metrics = format!(
        "spanwire_agent_link_up{{location=\"{of}\"}} {}\nspanwire_agent_leader_rtt_seconds{{location=\"{of}\"}} 0.02\n\
         spanwire_agent_leader_loss{{location=\"{of}\"}} {loss}\nspanwire_agent_failovers_total{{location=\"{of}\"}} {failovers}\n",
        u8::from(up)
    );
    let links = tunnels.iter().map(|leader| {
        format!("tunnel to {leader} of {of}: last handshake 7 s ago, 1000 bytes received, 2000 sent\n")
    });
    Ok(Figures::read(&metrics, &links.collect::<String>()))
}

fn healthy() -> Answers {
    let of = |node: &str, answer| (node.to_owned(), answer);
    Answers::from([
        of("a1", says("b", &["b1"], true, 0.0, 0)),
        of("b1", says("a", &["a1"], true, 0.0, 0)),
    ])
}

/// The events of a text by their names.
fn events(text: &str) -> Vec<(String, Value)> {
    let of = |event: &str| {
        let (name, data) = event
            .strip_prefix("event: ")
            .unwrap()
            .split_once("\ndata: ")
            .unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    };
    text.split_terminator("\n\n").map(of).collect()
}

fn named<'a>(events: &'a [(String, Value)], name: &str) -> &'a Value {
    &events.iter().find(|(other, _)| other == name).unwrap().1
}

/// What a page that knows nothing is sent of one look.
fn first(objects: &Objects, answers: &Answers, notes: &[String]) -> Vec<(String, Value)> {
    let mut map = Map::default();
    let shown = map.look(objects, answers, notes, Duration::ZERO, 0);
    events(&shown.events_since(&Shown::default()))
}

#[test]
fn a_page_that_knows_nothing_is_told_everything() {
    let sent = first(&objects(), &healthy(), &[]);
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["mesh", "links", "trouble", "log"]);
    let mesh = named(&sent, "mesh");
    assert_eq!(
        mesh["locations"][0]["leaders"],
        json!([{"name": "a1", "role": "active"}])
    );
    assert_eq!(mesh["locations"][0]["followers"], json!(["a2"]));
    let link = &named(&sent, "links")[0];
    assert_eq!(
        (&link["a"], &link["b"], &link["health"]),
        (&json!("a"), &json!("b"), &json!("up"))
    );
    assert_eq!(link["ways"][1]["farLeader"], "a1");
    assert_eq!(named(&sent, "log"), &json!([]));
}

#[test]
fn text_from_elsewhere_cannot_begin_an_event_of_its_own() {
    let evil = "</script><img src=x onerror=alert(1)>\r\n\r\nevent: mesh\ndata: {}\n\n".to_owned();
    let sent = first(&objects(), &healthy(), std::slice::from_ref(&evil));
    assert_eq!(sent.len(), Part::ALL.len());
    assert_eq!(named(&sent, "trouble")["notes"], json!([evil]));
}

#[test]
fn what_has_not_changed_is_not_told_again() {
    let (objects, mut answers, mut map) = (objects(), healthy(), Map::default());
    let known = map.look(&objects, &answers, &[], Duration::ZERO, 0).clone();
    let same = map
        .look(&objects, &answers, &[], Duration::from_secs(1), 1)
        .clone();
    assert_eq!(same.events_since(&known), "");
    answers.insert("a1".to_owned(), Err("not within 2 s".to_owned()));
    let now = map
        .look(&objects, &answers, &[], Duration::from_secs(2), 2)
        .clone();
    let sent = events(&now.events_since(&known));
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["links", "trouble"]);
}

#[test]
fn figures_alone_wait_and_a_failover_does_not() {
    let (objects, mut answers, mut map) = (objects(), healthy(), Map::default());
    let at = Duration::from_millis;
    let known = map.look(&objects, &answers, &[], at(0), 0).clone();
    answers.insert("a1".to_owned(), says("b", &["b1"], true, 0.001, 0));
    let soon = map.look(&objects, &answers, &[], at(200), 200).clone();
    assert_eq!(soon.events_since(&known), "");
    let later = map.look(&objects, &answers, &[], REFRESH, 1000).clone();
    assert_eq!(
        named(&events(&later.events_since(&known)), "links")[0]["ways"][0]["loss"],
        0.001
    );
    answers.insert("a1".to_owned(), says("b", &["b1"], true, 0.001, 1));
    let then = map.look(&objects, &answers, &[], REFRESH + at(10), 1010);
    let sent = events(&then.events_since(&later));
    assert_eq!(named(&sent, "links")[0]["ways"][0]["failovers"], 1);
    let entry = &named(&sent, "log")[0];
    assert_eq!(
        (&entry["event"], &entry["at"], &entry["text"]),
        (
            &json!("failover"),
            &json!(1010),
            &json!("a1 of a gave up a leader of b 1 times meanwhile, and goes by b1")
        )
    );
}

#[test]
fn a_link_is_as_bad_as_its_worse_way() {
    let health = |a: Result<Figures, String>, b: Result<Figures, String>| {
        let answers = Answers::from([("a1".to_owned(), a), ("b1".to_owned(), b)]);
        let sent = first(&objects(), &answers, &[]);
        let link = named(&sent, "links")[0].clone();
        let why: Vec<String> = serde_json::from_value(link["why"].clone()).unwrap();
        (link["health"].as_str().unwrap().to_owned(), why.join("; "))
    };
    let well = || says("a", &["a1"], true, 0.0, 0);
    let none = || Err("gone".to_owned());
    let up = |of| says(of, &[], true, 0.0, 0);
    assert_eq!(health(up("b"), well()), ("up".to_owned(), String::new()));
    assert_eq!(health(none(), well()).0, "up", "one side says so");
    assert_eq!(
        health(none(), none()),
        (
            "unknown".to_owned(),
            "no answer from the agents of a1 and b1".to_owned()
        )
    );
    let lossy = says("b", &["b1"], true, 0.02, 0);
    assert_eq!(
        health(lossy, well()),
        (
            "impaired".to_owned(),
            "2.0 % of what a1 of a asks b is not answered in time".to_owned()
        )
    );
    let down = says("b", &["b1"], false, 1.0, 0);
    let (health, why) = health(down, well());
    assert_eq!(health, "down");
    assert!(why.starts_with("no leader of b answers a1 of a; "), "{why}");
}

/// b2 is a standby leader of b, behind b1.
fn with_a_standby(objects: &mut Objects, leaders: Value) {
    let mut head = objects
        .get(crate::objects::Kind::LocationSlice, "b-head")
        .unwrap()
        .clone();
    head["spec"]["head"]["leaders"] = leaders;
    objects.insert(crate::objects::Kind::LocationSlice, "b-head".to_owned(), head);
}

#[test]
fn who_goes_around_a_leader_and_who_leads_instead_is_in_the_log() {
    let (mut objects, mut answers, mut map) = (objects(), healthy(), Map::default());
    let leads = |node: &str, role: &str| json!({"node": node, "role": role});
    with_a_standby(
        &mut objects,
        json!([leads("b1", "Active"), leads("b2", "Standby")]),
    );
    let at = Duration::from_millis;
    let known = map.look(&objects, &answers, &[], at(0), 0).clone();
    let around = Figures {
        forsaken: vec![("b1".to_owned(), "b".to_owned())],
        ..says("b", &["b1", "b2"], true, 0.0, 1).unwrap()
    };
    answers.insert("a1".to_owned(), Ok(around));
    answers.insert("b1".to_owned(), Err("not within 2 s".to_owned()));
    let now = map.look(&objects, &answers, &[], at(100), 100).clone();
    let sent = events(&now.events_since(&known));
    let link = &named(&sent, "links")[0];
    assert_eq!(link["health"], "impaired");
    assert_eq!(
        link["why"],
        json!(["a1 of a goes around b1, the first leader of b, by b2"])
    );
    assert_eq!(
        named(&sent, "log")[0]["text"],
        "a1 of a goes to b by b2 now, before by b1"
    );
    // What is not known for a while is no news when it is known again.
    let figures = answers
        .insert("a1".to_owned(), Err("not within 2 s".to_owned()))
        .unwrap();
    map.look(&objects, &answers, &[], at(200), 200);
    answers.insert("a1".to_owned(), figures);
    map.look(&objects, &answers, &[], at(300), 300);
    with_a_standby(
        &mut objects,
        json!([leads("b2", "Active"), leads("b1", "Standby")]),
    );
    let then = map.look(&objects, &answers, &[], at(400), 400);
    let sent = events(&then.events_since(&now));
    let log = named(&sent, "log").as_array().unwrap();
    let texts: Vec<&Value> = log.iter().map(|entry| &entry["text"]).collect();
    assert_eq!(texts[1..], [&json!("b is led by b2 now, before by b1")]);
    assert_eq!(named(&sent, "links")[0]["health"], "up");
}

#[test]
fn the_log_keeps_its_newest_entries() {
    let (objects, mut answers, mut map) = (objects(), healthy(), Map::default());
    for count in 0..300 {
        answers.insert("a1".to_owned(), says("b", &["b1"], true, 0.0, count));
        map.look(&objects, &answers, &[], Duration::from_millis(count), count);
    }
    let sent = events(&map.shown.events_since(&Shown::default()));
    let log = named(&sent, "log").as_array().unwrap();
    assert_eq!(
        (log.len(), &log[0]["id"], &log[199]["id"]),
        (200, &json!(100), &json!(299))
    );
    assert!(map.before.len() <= 301 && map.before.len() > 1);
}

#[test]
fn how_much_goes_over_a_link_is_counted_over_seconds() {
    let (objects, mut answers, mut map) = (objects(), healthy(), Map::default());
    let links = |map: &mut Map, answers: &Answers, since: u64| {
        let shown = map.look(&objects, answers, &[], Duration::from_secs(since), 0);
        named(&events(&shown.events_since(&Shown::default())), "links")[0]["ways"][0].clone()
    };
    assert_eq!(links(&mut map, &answers, 0)["receiving"], Value::Null);
    assert_eq!(links(&mut map, &answers, 1)["receiving"], Value::Null);
    let more = "tunnel to b1 of b: last handshake 7 s ago, 5000 bytes received, 2000 sent\n";
    answers.insert("a1".to_owned(), Ok(Figures::read("", more)));
    let way = links(&mut map, &answers, 4);
    assert_eq!(
        (&way["receiving"], &way["sending"]),
        (&json!(1333), &json!(0)),
        "in 3 s"
    );
    assert!((0..50).all(|since| !links(&mut map, &answers, 5 + since).is_null()) && map.before.len() <= 4);
}
