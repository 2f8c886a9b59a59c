use k8s_openapi::{
    api::coordination::v1::LeaseSpec,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::*;

const START: i64 = 1_000_000;

#[test]
fn a_leader_that_does_not_renew_in_time_is_silent_and_a_renewal_brings_it_back() {
    let mut world = World::led_by(&["a"]);
    assert_eq!(world.liveness.poll_timeout(), Some(world.at(15)));
    world.tell(5, lease("a", START + 5));
    world.others(5..20);
    assert!(!world.liveness.handle_timeout(world.at(19)));
    assert!(world.liveness.handle_timeout(world.at(20)));
    assert!(!world.alive("a"));
    assert_eq!(world.liveness.poll_timeout(), None);
    assert!(world.tell(21, lease("a", START + 21)));
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
    world.others(2..16);
    assert!(!world.leads_on("a") && !world.alive("a"), "its term is over");
    world.tell(16, lease("a", START + 16));
    assert!(world.leads_on("a"));
    world.liveness.take_vouched();
    world.lead(17, &["c"]);
    assert!(!world.leads_on("a"), "it does not lead any more");
    assert!(!world.leads_on("c"), "it has no Lease yet");
    assert_eq!(world.liveness.take_vouched(), [name("a")].into());
    world.tell(18, lease("c", START + 18));
    assert!(world.leads_on("c"));
    assert_eq!(world.liveness.take_vouched(), [name("c")].into());
    let at = world.at(19);
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
    assert!(world.others(10..16));
    assert!(!world.alive("a"));
}

#[test]
fn a_lease_that_cannot_be_read_is_no_renewal() {
    let mut world = World::led_by(&["a"]);
    for second in 1..15 {
        world.tell(second, unreadable("a", second));
    }
    assert!(world.others(15..17));
    assert!(!world.alive("a"));
    assert!(
        world.tell(17, lease("a", START + 17)),
        "a readable one brings it back"
    );
    let at = world.at(18);
    world.liveness.handle(Event::Init, at);
    world.liveness.handle(Event::InitApply(unreadable("a", 18)), at);
    world.liveness.handle(Event::InitDone, at);
    assert!(
        world.others(19..33),
        "the term goes on from the last renewal, without a grace"
    );
}

#[test]
fn an_agent_cannot_ask_for_a_term_of_years() {
    for term in [i32::MAX, 3600, 61] {
        let mut world = World::new();
        let mut asked = lease("a", START);
        asked.spec.as_mut().unwrap().lease_duration_seconds = Some(term);
        world.tell(0, asked);
        world.lead(0, &["a"]);
        assert!(!world.others(1..60), "{term}");
        assert!(world.others(60..61), "{term}");
    }
}

/// The API server refuses none of these but what is less than 1, and not from each of its versions.
#[test]
fn a_term_that_is_over_at_once_makes_no_leader_silent_and_alive_in_turn() {
    for term in [None, Some(0), Some(1), Some(9), Some(-5), Some(i32::MIN)] {
        let asked = |second: i64| {
            let mut asked = lease("a", START + second);
            asked.spec.as_mut().unwrap().lease_duration_seconds = term;
            asked
        };
        for leads_before in [true, false] {
            let mut world = World::new();
            if leads_before {
                world.lead(0, &["a"]);
            }
            world.tell(0, asked(0));
            world.lead(0, &["a"]);
            for second in 1..100 {
                let back = second % 10 == 0 && world.tell(second, asked(second));
                let turned = back || world.others(second..second + 1);
                assert!(!turned && world.alive("a"), "{term:?} at {second}");
            }
            assert!(world.others(100..120), "{term:?}: it ends all the same");
        }
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
    // It was to cease, and leads again before its agent has released the Lease.
    world.tell(5, released(5));
    assert!(!world.others(5..15) && world.alive("a"));
    assert!(world.others(15..16), "it was no renewal");

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
fn when_the_api_server_was_away_nobody_is_taken_for_silent() {
    let mut world = World::led_by(&["a", "b"]);
    assert!(!world.liveness.handle_timeout(world.at(15)));
    assert!(!world.liveness.handle_timeout(world.at(16)));
    assert!(
        !world.others(60..61),
        "the first to come back is the operator itself"
    );
    assert!(!world.tell(61, lease("b", START + 61)));
    assert!(world.alive("a"));
    world.others(61..76);
    assert!(
        !world.alive("a"),
        "who does not come back is silent after a full term"
    );
}

#[test]
fn who_does_not_lead_needs_no_lease() {
    let mut world = World::led_by(&["a"]);
    world.lead(5, &["b"]);
    world.others(5..30);
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
    let mut world = World::new();
    world.others(0..1);
    world.lead(0, &["a"]);
    world.lead(30, &["a"]);
    assert_eq!(world.liveness.poll_timeout(), Some(world.at(60)));
    assert!(world.others(1..61));
    assert!(!world.alive("a"));
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
    fn new() -> Self {
        Self {
            start: Instant::now(),
            liveness: Liveness::default(),
        }
    }

    /// With a fresh Lease each.
    fn led_by(nodes: &[&str]) -> Self {
        let mut world = Self::new();
        for node in nodes {
            world.tell(0, lease(node, START));
        }
        world.lead(0, nodes);
        world
    }

    fn at(&self, second: i64) -> Instant {
        self.start + Duration::from_secs(second.unsigned_abs())
    }

    fn lead(&mut self, second: i64, nodes: &[&str]) {
        let at = self.at(second);
        self.liveness
            .lead(&nodes.iter().map(|node| name(node)).collect(), at);
    }

    fn tell(&mut self, second: i64, lease: impl Into<Observed<Lease>>) -> bool {
        let at = self.at(second);
        self.liveness.handle(Event::Apply(lease.into()), at)
    }

    /// The operator renews its own Lease every second.
    fn others(&mut self, seconds: std::ops::Range<i64>) -> bool {
        let own = |second| {
            let mut own = lease("x", START + second);
            own.metadata.name = Some("spanwire-operator".to_owned());
            own
        };
        let turned: Vec<bool> = seconds.map(|second| self.tell(second, own(second))).collect();
        turned.contains(&true)
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
            lease_duration_seconds: Some(15),
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
