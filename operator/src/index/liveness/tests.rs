use k8s_openapi::{
    api::coordination::v1::LeaseSpec,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::*;

const START: i64 = 1_000_000;

#[test]
fn a_lease_that_is_not_renewed_in_time_means_dead_and_a_renewal_alive() {
    let mut world = World::new();
    world.tell(0, lease("a", "agent", START));
    assert_eq!(world.liveness.poll_timeout(), Some(world.at(15)));
    world.tell(5, lease("a", "agent", START + 5));
    world.others(5..20);
    assert!(!world.liveness.handle_timeout(world.at(19)));
    assert!(world.liveness.handle_timeout(world.at(20)));
    assert!(!world.alive("a"));
    assert_eq!(world.liveness.poll_timeout(), None);
    assert!(world.tell(21, lease("a", "agent", START + 21)));
    assert!(world.alive("a"));
}

#[test]
fn the_same_renewal_told_again_prolongs_nothing() {
    let mut world = World::new();
    world.tell(0, lease("a", "agent", START));
    world.others(0..10);
    let at = world.at(10);
    world.liveness.handle(Event::Init, at);
    world
        .liveness
        .handle(Event::InitApply(lease("a", "agent", START)), at);
    world.liveness.handle(Event::InitDone, at);
    assert!(world.others(10..16));
    assert!(!world.alive("a"));
}

#[test]
fn the_clock_of_the_node_may_be_wrong() {
    let mut world = World::new();
    for second in 0..10 {
        world.tell(second, lease("a", "agent", START - 1000 + second));
        assert!(world.alive("a"));
    }
}

#[test]
fn when_the_api_server_was_away_nobody_is_taken_for_dead() {
    let mut world = World::new();
    world.tell(0, lease("a", "agent", START));
    world.tell(1, lease("b", "agent", START));
    assert!(!world.liveness.handle_timeout(world.at(15)));
    assert!(!world.liveness.handle_timeout(world.at(16)));
    assert!(
        !world.others(60..61),
        "the first to come back is the operator itself"
    );
    assert!(!world.tell(61, lease("b", "agent", START + 61)));
    assert!(world.alive("a"));
    world.others(61..76);
    assert!(
        !world.alive("a"),
        "who does not come back is dead after a full term"
    );
}

#[test]
fn who_was_dead_before_the_operator_started_stays_so() {
    let mut world = World::new();
    let at = world.at(0);
    world.liveness.handle(Event::Init, at);
    for (node, renewed) in [("a", START - 100), ("b", START), ("c", START - 20)] {
        world
            .liveness
            .handle(Event::InitApply(lease(node, "agent", renewed)), at);
    }
    assert!(world.liveness.handle(Event::InitDone, at));
    assert_eq!(
        [world.alive("a"), world.alive("b"), world.alive("c")],
        [false, true, true]
    );
}

#[test]
fn when_all_leases_are_old_the_api_server_was_away_and_nobody_is_dead_yet() {
    let mut world = World::new();
    let at = world.at(0);
    world.liveness.handle(Event::Init, at);
    for node in ["a", "b"] {
        world
            .liveness
            .handle(Event::InitApply(lease(node, "agent", START - 1000)), at);
    }
    assert!(!world.liveness.handle(Event::InitDone, at));
    assert!(world.alive("a") && world.alive("b"));
}

#[test]
fn a_lease_that_was_given_up_or_deleted_says_nothing() {
    let mut world = World::new();
    for node in ["a", "b"] {
        world.tell(0, lease(node, "agent", START));
    }
    world.others(0..20);
    assert!(!world.alive("a") && !world.alive("b"));
    assert!(world.tell(20, lease("a", "", START)));
    assert!(world.alive("a"));
    let at = world.at(20);
    assert!(
        world
            .liveness
            .handle(Event::Delete(lease("b", "agent", START)), at)
    );
    assert!(world.alive("b"));
    assert_eq!(world.liveness.poll_timeout(), None);
}

#[test]
fn a_leader_without_a_lease_has_a_grace_and_is_forgiven_at_a_sign_of_life() {
    let mut world = World::new();
    let leaders = BTreeSet::from([name("a")]);
    world.liveness.lead(&leaders, world.at(0));
    world.liveness.lead(&leaders, world.at(30));
    assert_eq!(world.liveness.poll_timeout(), Some(world.at(60)));
    assert!(world.others(30..61));
    assert!(!world.alive("a"));
    world.liveness.lead(&leaders, world.at(61));
    assert_eq!(world.liveness.poll_timeout(), None);
    world.liveness.heard(&name("a"));
    assert!(world.alive("a"));
}

#[test]
fn who_leads_no_more_needs_no_lease() {
    let mut world = World::new();
    world.liveness.lead(&BTreeSet::from([name("a")]), world.at(0));
    world.liveness.lead(&BTreeSet::new(), world.at(10));
    assert!(!world.others(10..100));
    assert!(world.alive("a"));
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

    fn at(&self, second: i64) -> Instant {
        self.start + Duration::from_secs(second.unsigned_abs())
    }

    fn tell(&mut self, second: i64, lease: Lease) -> bool {
        let at = self.at(second);
        self.liveness.handle(Event::Apply(lease), at)
    }

    /// The operator renews its own Lease every second.
    fn others(&mut self, seconds: std::ops::Range<i64>) -> bool {
        let own = |second| {
            let mut own = lease("x", "operator", START + second);
            own.metadata.name = Some("spanwire-operator".to_owned());
            own
        };
        let turned: Vec<bool> = seconds.map(|second| self.tell(second, own(second))).collect();
        turned.contains(&true)
    }

    fn alive(&self, node: &str) -> bool {
        self.liveness.alive(&name(node))
    }
}

fn lease(node: &str, holder: &str, renewed: i64) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(format!("spanwire-leader-{node}")),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }),
    }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}
