//! The screen with 3 locations, and with 50.

use spanwire_topology::{decide, scenario::World};

use super::*;
use crate::{
    figures::Figures,
    findings::{Answers, Finding},
    objects::{Kind, Objects},
    status::{active_leaders, report},
};

const SIZE: Size = Size {
    rows: 30,
    columns: 100,
};

/// Locations of two nodes each, all of them with their tunnels, of which the first `twice` have two active leaders.
fn mesh_of(count: usize, twice: usize) -> Objects {
    let name = |number: usize| format!("l{number:02}");
    let mut world = World::default();
    let mut line = |text: &str| world.line(text).unwrap();
    line("overlay 10.4.0.0/16");
    for number in 0..count {
        if number < twice {
            line(&format!("location {} active=2", name(number)));
        }
        let others: Vec<String> = (0..count).filter(|other| *other != number).map(name).collect();
        for node in 0..2 {
            // The one that is reached from outside leads.
            let endpoint = if node == 0 || number < twice {
                format!("endpoints=203.0.{number}.{}:51820", node + 1)
            } else {
                String::new()
            };
            line(&format!(
                "node {0}n{node} region={0} addresses=192.168.{number}.{1} pods=10.{2}.{node}.0/24 key={3} hop=10.{2}.{node}.1 up={4} \
                 {endpoint}",
                name(number),
                node + 1,
                number + 100,
                2 * number + node + 1,
                others.join(","),
            ));
        }
    }
    line("decide");
    line("decide");
    let mut objects = Objects::of_mesh(&decide(&world.facts, &world.mesh).mesh);
    let ready = serde_json::json!([{"type": "Ready", "status": "True", "reason": "AllWell", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    for number in 0..count {
        let mut object = objects.get(Kind::Location, &name(number)).unwrap().clone();
        object["status"]["conditions"] = ready.clone();
        objects.insert(Kind::Location, name(number), object);
        for node in 0..2 {
            objects.remove(Kind::MeshNode, &format!("{}n{node}", name(number)));
        }
    }
    objects
}

/// What all active leaders answer; of those of `lost`, that nothing comes from the location l00.
fn answers(objects: &Objects, lost: &[&str]) -> Answers {
    let mesh = objects.published();
    let answer = |leader: String| {
        let mut metrics = format!(
            "spanwire_agent_build_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        );
        let mut links = String::new();
        for (to, far) in mesh
            .locations
            .iter()
            .filter(|(to, _)| !leader.starts_with(to.as_str()))
        {
            let up = u8::from(!(lost.contains(&leader.as_str()) && to.as_str() == "l00"));
            metrics += &format!(
                "spanwire_agent_link_up{{location=\"{to}\"}} {up}\nspanwire_agent_leader_rtt_seconds{{location=\"{to}\"}} 0.0213\n\
                 spanwire_agent_leader_loss{{location=\"{to}\"}} 0\n"
            );
            for far in far.active() {
                links += &format!(
                    "tunnel to {far} of {to}: last handshake 71 s ago, 123456 bytes received, 234567 sent\n"
                );
            }
        }
        (leader, Ok(Figures::read(&metrics, &links)))
    };
    active_leaders(&mesh).into_iter().map(answer).collect()
}

fn screen_of(count: usize, twice: usize, lost: &[&str], size: Size) -> String {
    let objects = mesh_of(count, twice);
    report(&objects, &answers(&objects, lost), None).screen(&[], size)
}

fn fits(text: &str, size: Size) {
    assert!(text.lines().count() < size.rows, "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= size.columns),
        "{text}"
    );
}

#[test]
fn three_locations_are_there_in_full() {
    let text = screen_of(3, 0, &[], SIZE);
    fits(&text, SIZE);
    assert_eq!(
        text,
        "Nothing is wrong.

LOCATION   LEADERS   STANDBY   NODES   ESTABLISHED   ENDPOINT   READY
l00        l00n0     l00n1     2       2 of 2        -          True
l01        l01n0     l01n1     2       2 of 2        -          True
l02        l02n0     l02n1     2       2 of 2        -          True

FROM   TO    BY              LINK   HANDSHAKE   RTT       LOSS    IN         OUT        FAILOVERS
l00    l01   l00n0 > l01n0   up     71 s        21.3 ms   0.0 %   123.5 kB   234.6 kB   0
l00    l02   l00n0 > l02n0   up     71 s        21.3 ms   0.0 %   123.5 kB   234.6 kB   0
l01    l00   l01n0 > l00n0   up     71 s        21.3 ms   0.0 %   123.5 kB   234.6 kB   0
l01    l02   l01n0 > l02n0   up     71 s        21.3 ms   0.0 %   123.5 kB   234.6 kB   0
l02    l00   l02n0 > l00n0   up     71 s        21.3 ms   0.0 %   123.5 kB   234.6 kB   0
l02    l01   l02n0 > l01n0   up     71 s        21.3 ms   0.0 %   123.5 kB   234.6 kB   0
"
    );
}

#[test]
fn of_fifty_locations_as_many_are_there_as_fit_and_the_others_are_counted() {
    let text = screen_of(50, 0, &[], SIZE);
    fits(&text, SIZE);
    let rows = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    let locations = text.lines().filter(|line| line.ends_with("True")).count();
    let links = rows("l") - locations;
    assert!(locations > 5 && links > 5, "{text}");
    for count in [50 - locations, 50 * 49 - links] {
        let line = format!("and {count} more; -o wide shows all\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
    let large = Size { rows: 120, ..SIZE };
    let text = screen_of(50, 0, &[], large);
    fits(&text, large);
    assert!(text.lines().count() > 110, "the terminal is used: {text}");
}

#[test]
fn what_is_wrong_comes_first_of_fifty() {
    let mut objects = mesh_of(50, 0);
    let mut bad = objects.get(Kind::Location, "l40").unwrap().clone();
    let condition = &mut bad["status"]["conditions"][0];
    condition["status"] = "False".into();
    condition["reason"] = "Degraded".into();
    objects.insert(Kind::Location, "l40".to_owned(), bad);
    let text = report(&objects, &answers(&objects, &["l49n0", "l48n0"]), None).screen(&[], SIZE);
    fits(&text, SIZE);
    assert!(text.starts_with("ERROR: location l40: Degraded"), "{text}");
    let first = |heading: &str| {
        let lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(
        first("LOCATION")[0].starts_with("l40") && first("LOCATION")[1].starts_with("l00"),
        "{text}"
    );
    for (line, (from, state)) in first("FROM")
        .iter()
        .zip([("l48", "down"), ("l49", "down"), ("l00", "up")])
    {
        assert!(line.starts_with(from) && line.contains(state), "{line}: {text}");
    }
}

#[test]
fn both_active_leaders_of_a_location_are_there_with_their_links() {
    let text = screen_of(3, 1, &[], SIZE);
    let expected = [
        "l00        l00n0,l00n1   -",
        "l00    l01   l00n0 > l01n0   up ",
        "l00    l01   l00n1 > l01n0   up ",
        "l00    l02   l00n0 > l02n0   up ",
        "l00    l02   l00n1 > l02n0   up ",
    ];
    for line in expected {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn long_lines_are_broken_and_half_of_a_small_terminal_is_left_for_the_tables() {
    let objects = mesh_of(3, 0);
    let mut report = report(&objects, &answers(&objects, &[]), None);
    report.findings = (0..20)
        .map(|number| Finding {
            severity: Severity::Error,
            object: format!("location x{number}"),
            reason: "NoLeader".to_owned(),
            evidence: format!("word {number} ").repeat(12),
            next: "kubectl describe".to_owned(),
            page: String::new(),
        })
        .collect();
    let small = Size {
        rows: 24,
        columns: 60,
    };
    let text = report.screen(&["some is not known".to_owned()], small);
    fits(&text, small);
    assert!(
        text.starts_with("ERROR: location x0: NoLeader\n  word 0"),
        "{text}"
    );
    assert!(
        text.contains("\n    word 0") || text.contains("\n    0 word"),
        "{text}"
    );
    assert!(text.contains("more; -o wide shows all\n\nLOCATION"), "{text}");
    assert!(text.contains("FROM   TO"), "{text}");
    for rows in 0..6 {
        let tiny = Size { rows, columns: 10 };
        assert!(report.screen(&[], tiny).lines().count() <= rows.saturating_sub(1));
    }
}

#[test]
fn lines_are_shared_so_that_what_needs_few_leaves_the_rest_to_others() {
    assert_eq!(shares(&[1, 51, 2451, 3], 26), [1, 11, 11, 3]);
    assert_eq!(shares(&[100, 4, 4, 0], 26), [18, 4, 4, 0]);
    assert_eq!(shares(&[100, 100, 100], 26), [13, 6, 7]);
    assert_eq!(shares(&[], 26), Vec::<usize>::new());
}
