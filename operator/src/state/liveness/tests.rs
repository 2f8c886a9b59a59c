use k8s_openapi::{
    api::coordination::v1::LeaseSpec,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::*;

const START: i64 = 1_000_000;

#[test]
fn a_leader_that_does_not_renew_in_time_is_silent_and_a_renewal_brings_it_back() {
    let mut world = World::led_by(&["a"]);
    assert_eq!(world.liveness.poll_timeout(), Some(world.at(40)));
    world.tell(5, lease("a", START + 5));
    world.others(5..45);
    assert!(!world.liveness.handle_timeout(world.at(44)));
    assert!(world.liveness.handle_timeout(world.at(45)));
    assert!(!world.alive("a") && world.liveness.lingers(&name("a")));
    assert_eq!(
        world.liveness.poll_timeout(),
        Some(world.at(84)),
        "of the other one"
    );
    assert!(
        !world.liveness.heard(&name("a")),
        "of a leader its Lease says more"
    );
    assert!(world.tell(46, lease("a", START + 46)));
    assert!(world.alive("a"));
}

#[test]
fn a_leader_with_a_lease_needs_no_kubelet_and_all_others_do() {
    let mut world = World::led_by(&["a"]);
    assert!(world.leads_on("a") && !world.leads_on("b"));
    world.tell(1, lease("b", START + 1));
    assert!(
        !world.leads_on("b"),
        "a Lease of one that does not lead means nothing"
    );
    world.others(2..41);
    assert!(!world.leads_on("a") && !world.alive("a"), "its term is over");
    world.tell(41, lease("a", START + 41));
    assert!(world.leads_on("a"));
    world.liveness.take_vouched();
    world.lead(42, &["c"]);
    assert!(!world.leads_on("a"), "it does not lead any more");
    assert!(!world.leads_on("c"), "it has no Lease yet");
    assert_eq!(world.liveness.take_vouched(), [name("a")].into());
    world.tell(43, lease("c", START + 43));
    assert!(world.leads_on("c"));
    assert_eq!(world.liveness.take_vouched(), [name("c")].into());
    let at = world.at(44);
    world.liveness.handle(Event::Delete(lease("c", START).into()), at);
    assert!(!world.leads_on("c") && world.alive("c"), "it has a grace");
    assert_eq!(world.liveness.take_vouched(), [name("c")].into());
}

#[test]
fn the_same_renewal_told_again_prolongs_nothing() {
    let mut world = World::led_by(&["a"]);
    world.others(0..10);
    let at = world.at(10);
    world.liveness.handle(Event::Init, at);
    world
        .liveness
        .handle(Event::InitApply(lease("a", START).into()), at);
    world.liveness.handle(Event::InitDone, at);
    assert!(world.others(10..41));
    assert!(!world.alive("a"));
}

#[test]
fn a_lease_that_cannot_be_read_is_no_renewal() {
    let mut world = World::led_by(&["a"]);
    for second in 1..40 {
        world.tell(second, unreadable("a", second));
        assert!(!world.others(second..second + 1));
    }
    assert!(world.others(40..41));
    assert!(!world.alive("a"));
    assert!(
        world.tell(41, lease("a", START + 41)),
        "a readable one brings it back"
    );
    let at = world.at(42);
    world.liveness.handle(Event::Init, at);
    for lease in [unreadable("a", 42), lease("z", START + 40).into()] {
        world.liveness.handle(Event::InitApply(lease), at);
    }
    world.liveness.handle(Event::InitDone, at);
    assert!(!world.others(43..81));
    assert!(
        world.others(81..82),
        "the term goes on from the last renewal, without a grace"
    );
}

#[test]
fn an_agent_cannot_ask_for_a_term_of_years_and_has_one_that_it_can_renew_whatever_it_asks_for() {
    let asked = |second: i64, term: Option<i32>| {
        let mut asked = lease("a", START + second);
        asked.spec.as_mut().unwrap().lease_duration_seconds = term;
        asked
    };
    let years = [i32::MAX, 3600, 61].map(|term| (Some(term), 60));
    let moments = [Some(-5), Some(0), Some(1), None].map(|term| (term, 30));
    for (term, counts) in years.into_iter().chain(moments) {
        let mut world = World::led_by(&["a"]);
        for second in 1..=100 {
            if second % 10 == 0 {
                world.tell(second, asked(second, term));
            }
            assert!(!world.others(second..second + 1), "{term:?}");
        }
        assert!(!world.others(101..100 + counts), "{term:?}");
        assert!(world.others(100 + counts..101 + counts), "{term:?}");
    }
}

/// Of a node that writes as fast as it can, and of times that are garbage.
#[test]
fn whatever_times_a_lease_has_its_node_is_silent_a_term_after_the_last_write_and_no_other_is() {
    let times = [
        Some(Timestamp::MIN),
        Some(Timestamp::MAX),
        None,
        Timestamp::from_second(START).ok(),
        Some(Timestamp::MAX),
    ];
    for term in [None, Some(0), Some(1), Some(40), Some(i32::MAX)] {
        let mut world = World::led_by(&["a", "b"]);
        let mut turned = Vec::new();
        for write in 0..1000_usize {
            let mut asked = lease("a", START);
            let spec = asked.spec.as_mut().unwrap();
            spec.renew_time = times[write % times.len()].map(MicroTime);
            spec.lease_duration_seconds = term;
            turned.push(world.tell(1, asked));
        }
        assert!(!turned.contains(&true), "{term:?}");
        for second in 2..62 {
            world.tell(second, lease("b", START + second));
        }
        assert!(!world.alive("a") && world.alive("b"), "{term:?}");
    }
}

#[test]
fn a_lease_that_is_released_ends_no_lead_that_came_after_and_gives_the_next_one_its_grace() {
    let released = |second| {
        let mut lease = lease("a", START + second);
        let spec = lease.spec.as_mut().unwrap();
        (spec.holder_identity, spec.lease_duration_seconds) = (None, Some(1));
        lease
    };
    let mut world = World::led_by(&["a"]);
    assert!(!world.renewed_by(&["a", "z"], 1..51));
    // It was to cease, and leads again before its agent has released the Lease.
    world.others(51..55);
    world.tell(55, released(55));
    let turned = (55..100).find(|second| world.others(*second..second + 1));
    assert_eq!(turned, Some(90), "it was no renewal, and no end");

    let mut world = World::led_by(&["a"]);
    world.lead(5, &[]);
    world.tell(6, released(6));
    world.lead(7, &["a"]);
    world.others(7..67);
    assert!(world.alive("a"), "time to learn of it");
    assert!(world.others(67..68) && !world.alive("a"));
}

#[test]
fn the_clock_of_the_node_may_be_wrong() {
    let mut world = World::led_by(&["a"]);
    for second in 0..100 {
        world.tell(second, lease("a", START - 1000 + second));
        assert!(world.alive("a"));
    }
}

#[test]
fn when_the_api_server_was_away_no_leader_is_taken_for_silent() {
    let mut world = World::led_by(&["a", "b"]);
    assert!(!world.liveness.handle_timeout(world.at(45)));
    assert!(!world.liveness.handle_timeout(world.at(46)));
    assert!(
        !world.others(60..61),
        "the first to come back is the operator itself"
    );
    assert!(!world.tell(61, lease("b", START + 61)));
    assert!(world.alive("a"));
    assert!(!world.others(61..100));
    assert!(
        world.others(100..101) && !world.alive("a"),
        "a leader that does not come back is silent after a full term"
    );
}

#[test]
fn while_no_leader_renews_its_lease_none_is_silent_and_their_kubelets_speak_for_them() {
    let mut world = World::led_by(&["a", "b"]);
    world.others(1..15);
    world.liveness.take_vouched();
    assert!(!world.renewed_by(&[], 15..300));
    assert_eq!(world.overdue(), ["a", "b", "z"]);
    assert_eq!(world.liveness.take_turned(), ["a", "b", "z"].map(name).into());
    assert_eq!(world.liveness.take_vouched(), ["a", "b", "z"].map(name).into());
    assert!(world.alive("a") && !world.leads_on("a"));
    assert_eq!(
        world.liveness.poll_timeout(),
        None,
        "there is nothing to wait for"
    );

    world.others(300..301);
    assert!(
        !world.renewed_by(&["a", "z"], 301..340),
        "each has time to come back"
    );
    assert!(world.alive("b") && world.leads_on("a"));
    assert_eq!(world.overdue(), ["b"]);
    assert!(world.renewed_by(&["a", "z"], 340..341), "the others have done so");
    assert!(!world.alive("b"));
}

#[test]
fn leaders_of_one_location_are_compared_with_each_other() {
    let mut world = World::led_by(&["a"]);
    world.lead_all(0, &[("a", "here"), ("b", "here"), ("z", "there")], &[]);
    assert!(!world.others(1..300), "neither of the two renews");
    assert_eq!(world.overdue(), ["a", "b"]);
    assert!(!world.renewed_by(&["b", "z"], 300..340));
    assert!(world.renewed_by(&["b", "z"], 340..341));
    assert!(!world.alive("a") && world.alive("b"));
}

#[test]
fn a_leader_that_leads_alone_is_compared_with_the_cluster_and_its_successor_is_not_until_it_has_renewed() {
    let mut world = World::led_by(&["a"]);
    let led_by = |world: &mut World, second, node| {
        world.lead_all(second, &[(node, "here"), ("z", "there")], &[]);
    };
    led_by(&mut world, 0, "a");
    world.tell(0, lease("z", START - 1));
    assert!(!world.others(1..40));
    assert!(world.others(40..41) && !world.alive("a"));
    led_by(&mut world, 41, "b");
    assert!(!world.others(41..300), "it is the location that is silent");
    assert_eq!(world.overdue(), ["b"]);
    world.tell(300, lease("b", START + 300));
    assert!(!world.others(301..340));
    assert!(world.others(340..341) && !world.alive("b"));
}

#[test]
fn a_leader_whose_lease_is_refused_before_it_leads_is_silent_until_it_renews() {
    let mut world = World::led_by(&["a"]);
    let leaders = [("a", "here"), ("b", "here"), ("z", "here")];
    world.lead_all(1, &leaders, &["a", "b"]);
    assert!(world.alive("a"), "it led already");
    assert!(world.liveness.lingers(&name("b")) && !world.liveness.lingers(&name("a")));
    assert_eq!(world.overdue(), ["b"]);
    world.tell(2, lease("b", START + 2));
    assert!(world.alive("b"));
    assert_eq!(world.overdue(), [""; 0]);
}

#[test]
fn a_node_that_is_deleted_is_known_no_longer() {
    let mut world = World::led_by(&["a"]);
    world.others(1..41);
    assert!(!world.alive("a"));
    world.liveness.forget(&name("a"));
    assert!(world.alive("a"));
}

#[test]
fn who_does_not_lead_needs_no_lease() {
    let mut world = World::led_by(&["a"]);
    world.lead(5, &["b"]);
    world.others(5..50);
    assert!(world.alive("a"));
    assert_eq!(world.liveness.poll_timeout(), Some(world.at(65)));
}

#[test]
fn who_comes_to_lead_with_an_old_lease_has_a_grace() {
    let mut world = World::led_by(&["a"]);
    world.lead(5, &[]);
    world.others(5..100);
    world.lead(100, &["a"]);
    world.others(100..159);
    assert!(world.alive("a"));
    assert!(world.others(159..161));
    assert!(!world.alive("a"));
}

#[test]
fn a_leader_without_a_lease_has_a_grace_and_is_forgiven_at_a_sign_of_life() {
    let mut world = World::led_by(&[]);
    world.lead(0, &["a"]);
    world.lead(1, &["a"]);
    assert!(!world.others(1..60));
    assert!(world.others(60..61));
    assert!(!world.alive("a"));
    world.lead(61, &[]);
    assert!(world.liveness.take_turned().contains(&name("a")));
    assert!(world.liveness.heard(&name("a")));
    assert!(world.alive("a"));
}

#[test]
fn a_lease_that_is_deleted_is_as_one_that_never_was() {
    let mut world = World::led_by(&["a"]);
    let at = world.at(5);
    world.liveness.handle(Event::Delete(lease("a", START).into()), at);
    world.others(5..65);
    assert!(world.alive("a"));
    assert!(world.others(65..66));
    assert!(!world.alive("a"));
}

struct World {
    start: Instant,
    liveness: Liveness,
}

impl World {
    /// With a fresh Lease each, beside a leader that has just begun to renew its own.
    fn led_by(nodes: &[&str]) -> Self {
        let mut world = Self {
            start: Instant::now(),
            liveness: Liveness::default(),
        };
        for node in nodes {
            world.tell(0, lease(node, START));
        }
        world.lead(0, nodes);
        world.tell(0, lease("z", START));
        world
    }

    fn at(&self, second: i64) -> Instant {
        self.start + Duration::from_secs(second.unsigned_abs())
    }

    fn lead(&mut self, second: i64, nodes: &[&str]) {
        let leaders: Vec<_> = nodes.iter().chain(&["z"]).map(|node| (*node, "here")).collect();
        self.lead_all(second, &leaders, &[]);
    }

    /// Leaders with their locations, and those of them that report that their Lease is refused.
    fn lead_all(&mut self, second: i64, leaders: &[(&str, &str)], refused: &[&str]) {
        let at = self.at(second);
        let leaders = leaders
            .iter()
            .map(|(node, location)| (name(node), location.parse().unwrap()));
        let refused = refused.iter().map(|node| name(node)).collect();
        self.liveness.lead(&leaders.collect(), &refused, at);
    }

    fn tell(&mut self, second: i64, lease: impl Into<Observed<Lease>>) -> bool {
        let at = self.at(second);
        self.liveness.handle(Event::Apply(lease.into()), at)
    }

    /// The operator and one leader renew their Leases every second; returns whether another one turned.
    fn others(&mut self, seconds: std::ops::Range<i64>) -> bool {
        self.renewed_by(&["z"], seconds)
    }

    /// The operator and these renew their Leases every second.
    fn renewed_by(&mut self, nodes: &[&str], seconds: std::ops::Range<i64>) -> bool {
        let mut turned = false;
        for second in seconds {
            let mut own = lease("x", START + second);
            own.metadata.name = Some("spanwire-operator".to_owned());
            turned |= self.tell(second, own);
            for node in nodes {
                turned |= self.tell(second, lease(node, START + second));
            }
        }
        turned
    }

    fn overdue(&self) -> Vec<&str> {
        self.liveness.overdue().map(NodeName::as_str).collect()
    }

    fn alive(&self, node: &str) -> bool {
        self.liveness.alive(&name(node), true)
    }

    /// With a kubelet that is dead.
    fn leads_on(&self, node: &str) -> bool {
        self.liveness.alive(&name(node), false)
    }
}

fn lease(node: &str, renewed: i64) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(format!("spanwire-leader-{node}")),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }),
    }
}

/// As an agent may write it, another one each second.
fn unreadable(node: &str, second: i64) -> Observed<Lease> {
    let text = format!(
        r#"{{"metadata": {{"name": "spanwire-leader-{node}"}},
            "spec": {{"holderIdentity": "{node}", "leaseDurationSeconds": 40, "renewTime": "9999-12-31T23:59:{second:02}Z"}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}
