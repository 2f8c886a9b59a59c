//! Two or more leaders, and a network that does what it likes with their messages.

mod attacks;
mod chance;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use spanwire_host::HostFacts;
use spanwire_topology::{Advice, NodeName, PublicKey, Reachability, plan, scenario::World};

use super::{Advisor, Heeded, LENGTH, OwnKey, Partner, Partners, Said};

const SECOND: Duration = Duration::from_secs(1);
/// More than any message takes.
const MOMENT: Duration = Duration::from_millis(100);

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn names(text: &[&str]) -> BTreeSet<NodeName> {
    text.iter().map(|text| name(text)).collect()
}

fn key(number: u8) -> OwnKey {
    OwnKey::new([number; 32])
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 4, 0, number])
}

/// Numbers that differ from advisor to advisor, and from start to start.
fn random(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Box::new(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    })
}

/// A leader by its number: those up to nine are of location a, others of b.
struct Leader {
    number: u8,
    partners: Partners,
    advisor: Advisor,
}

fn place(number: u8) -> &'static str {
    if number < 10 { "a" } else { "b" }
}

fn node(number: u8) -> NodeName {
    name(&format!("{}{number}", place(number)))
}

impl Leader {
    fn new(number: u8, others: &[u8], groups: bool, now: Instant) -> Self {
        let partner = |other: &u8| {
            let partner = Partner {
                location: name(place(*other)),
                node: node(*other),
                overlay: address(*other),
            };
            (key(*other).public(), partner)
        };
        let partners = Partners {
            link: None,
            groups,
            draining: false,
            own: [number, number + 1].map(node).into(),
            leaders: others.iter().map(partner).collect(),
            uses: BTreeMap::new(),
        };
        let mut leader = Self {
            number,
            partners,
            advisor: Advisor::new(random(number.into())),
        };
        leader.start(number.into(), now);
        leader
    }

    /// Starts again, with nothing but its key.
    fn start(&mut self, seed: u64, now: Instant) {
        self.advisor = Advisor::new(random(seed));
        self.advisor.handle_key(Some(key(self.number)), now);
        self.advisor.handle_partners(&self.partners, now);
    }

    fn uses(&mut self, location: &str, leaders: &[&str], now: Instant) {
        self.partners.uses.insert(name(location), names(leaders));
        self.advisor.handle_partners(&self.partners, now);
    }

    fn drains(&mut self, draining: bool, now: Instant) {
        self.partners.draining = draining;
        self.advisor.handle_partners(&self.partners, now);
    }

    fn sent(&mut self, now: Instant) -> Vec<(IpAddr, [u8; LENGTH])> {
        self.advisor.handle_timeout(now);
        std::iter::from_fn(|| self.advisor.poll_datagram()).collect()
    }

    /// Which leaders of its own location one of another location says to use.
    fn hears(&self, of: u8) -> Option<BTreeSet<NodeName>> {
        let said = self.advisor.said().into_iter();
        let mut said = said.filter(|said| said.leader == node(of));
        said.next().map(|said| said.advice.uses)
    }
}

/// Two leaders, of which the second knows no groups, at that time.
fn pair() -> ([Leader; 2], Instant) {
    let now = Instant::now();
    let pair = [
        Leader::new(1, &[11], true, now),
        Leader::new(11, &[1], false, now),
    ];
    (pair, now)
}

/// Has messages arrive for so long. Returns how many there were.
fn run(leaders: &mut [Leader], now: &mut Instant, time: Duration) -> usize {
    let end = *now + time;
    let mut count = 0;
    while *now < end {
        for from in 0..leaders.len() {
            let source = address(leaders[from].number);
            for (to, datagram) in leaders[from].sent(*now) {
                count += 1;
                if let Some(to) = leaders.iter_mut().find(|leader| address(leader.number) == to) {
                    to.advisor.handle_datagram(source, &datagram, *now);
                }
            }
        }
        *now += Duration::from_millis(5);
    }
    count
}

#[test]
fn leaders_hear_at_once_which_of_them_the_other_one_uses() {
    let ([one, other], mut now) = pair();
    let mut leaders = [one, other];
    leaders[1].uses("a", &["a1"], now);
    run(&mut leaders, &mut now, MOMENT);
    assert_eq!(leaders[0].hears(11), Some(names(&["a1"])));
    assert_eq!(leaders[1].hears(1), Some(names(&[])));
    run(&mut leaders, &mut now, 10 * SECOND);
    leaders[1].uses("a", &["a2", "a7"], now);
    run(&mut leaders, &mut now, MOMENT);
    assert_eq!(
        leaders[0].hears(11),
        Some(names(&["a2"])),
        "a7 does not lead its location"
    );
    leaders[1].start(12, now);
    run(&mut leaders, &mut now, MOMENT);
    assert_eq!(leaders[1].hears(1), Some(names(&[])), "after a start, too");
}

#[test]
fn what_changes_is_heard_though_the_first_message_is_lost() {
    let ([one, other], mut now) = pair();
    let mut leaders = [one, other];
    run(&mut leaders, &mut now, 10 * SECOND);
    leaders[1].uses("a", &["a1"], now);
    assert_eq!(leaders[1].sent(now).len(), 1);
    run(&mut leaders, &mut now, Duration::from_millis(500));
    assert_eq!(leaders[0].hears(11), Some(names(&["a1"])));
}

#[test]
fn what_is_heard_is_news_once_and_of_use_where_one_of_the_two_has_no_groups() {
    let now = Instant::now();
    for groups in [[true, true], [true, false], [false, true], [false, false]] {
        let mut now = now;
        let mut leaders = [
            Leader::new(1, &[11], groups[0], now),
            Leader::new(11, &[1], groups[1], now),
        ];
        leaders[1].uses("a", &["a1"], now);
        run(&mut leaders, &mut now, SECOND);
        let advice = Advice {
            uses: names(&["a1"]),
            groups: groups[1],
            draining: false,
        };
        let heeded = Heeded {
            advice: [((name("b"), name("b11")), advice.clone())].into(),
            ..Heeded::default()
        };
        let expected = (groups != [true, true]).then_some(heeded);
        assert_eq!(leaders[0].advisor.poll_advice(), expected, "{groups:?}");
        let said = Said {
            location: name("b"),
            leader: name("b11"),
            advice,
        };
        assert_eq!(leaders[0].advisor.said(), [said]);
        run(&mut leaders, &mut now, 10 * SECOND);
        assert_eq!(leaders[0].advisor.poll_advice(), None);
    }
}

#[test]
fn that_tunnels_are_about_to_end_is_heard_at_once_whatever_their_kind_and_until_it_is_taken_back() {
    for groups in [[true, true], [true, false], [false, true], [false, false]] {
        let mut now = Instant::now();
        let mut leaders = [
            Leader::new(1, &[11], groups[0], now),
            Leader::new(11, &[1], groups[1], now),
        ];
        run(&mut leaders, &mut now, 5 * SECOND);
        leaders[0].advisor.poll_advice();
        leaders[1].drains(true, now);
        run(&mut leaders, &mut now, Duration::from_millis(10));
        let draining = |leader: &mut Leader| leader.advisor.poll_advice().map(|heeded| heeded.draining);
        let b11 = (name("b"), name("b11"));
        assert_eq!(draining(&mut leaders[0]), Some([b11].into()), "{groups:?}");
        assert!(leaders[0].advisor.said()[0].advice.draining);
        run(&mut leaders, &mut now, 10 * SECOND);
        assert_eq!(draining(&mut leaders[0]), None, "it goes on");
        leaders[1].drains(false, now);
        run(&mut leaders, &mut now, Duration::from_millis(10));
        assert_eq!(draining(&mut leaders[0]), Some(BTreeSet::new()));
        // Who has said it and is silent since may be there no more.
        leaders[1].drains(true, now);
        run(&mut leaders, &mut now, SECOND);
        leaders[0].advisor.poll_advice().unwrap();
        run(&mut leaders[..1], &mut now, 5 * SECOND);
        assert_eq!(draining(&mut leaders[0]), Some(BTreeSet::new()));
    }
}

#[test]
fn who_is_silent_is_forgotten() {
    let ([one, other], mut now) = pair();
    let mut leaders = [one, other];
    leaders[1].uses("a", &["a1"], now);
    run(&mut leaders, &mut now, SECOND);
    leaders[0].advisor.poll_advice().unwrap();
    run(&mut leaders[..1], &mut now, 3 * SECOND);
    assert!(leaders[0].hears(11).is_some(), "three messages may be lost");
    run(&mut leaders[..1], &mut now, 2 * SECOND);
    assert_eq!(leaders[0].hears(11), None);
    assert_eq!(leaders[0].advisor.poll_advice(), Some(Heeded::default()));
    // Also one that does not lead any more.
    run(&mut leaders, &mut now, SECOND);
    leaders[0].advisor.poll_advice().unwrap();
    leaders[0].advisor.handle_partners(&Partners::default(), now);
    assert_eq!(leaders[0].advisor.poll_advice(), Some(Heeded::default()));
    assert_eq!(leaders[0].advisor.poll_timeout(), None);
}

#[test]
fn however_many_leaders_there_are_ten_messages_are_sent_in_a_second() {
    let mut now = Instant::now();
    let others: Vec<u8> = (11..111).collect();
    let mut leaders = [Leader::new(1, &others, true, now)];
    let begin = run(&mut leaders, &mut now, Duration::from_millis(200));
    assert!((20..=31).contains(&begin), "{begin} at the start");
    run(&mut leaders, &mut now, 30 * SECOND);
    let count = run(&mut leaders, &mut now, 100 * SECOND);
    assert!((900..1100).contains(&count), "{count} in 100 s");
    let mut few = [Leader::new(1, &[11, 12], true, now)];
    run(&mut few, &mut now, 5 * SECOND);
    let count = run(&mut few, &mut now, 100 * SECOND);
    assert!((180..220).contains(&count), "{count} in 100 s to two leaders");
}

#[test]
fn the_leader_that_is_spoken_to_is_named_first_of_more_than_four() {
    let ([one, other], mut now) = pair();
    let mut leaders = [one, other];
    leaders[1].uses("a", &["a01", "a02", "a03", "a04", "a1", "a2"], now);
    run(&mut leaders, &mut now, MOMENT);
    assert_eq!(leaders[0].hears(11), Some(names(&["a1"])));
}

#[test]
fn a_leader_exchanges_advice_with_those_of_other_locations_which_a_few_lead() {
    let script = "overlay 10.4.0.0/16
        location paris standby=1
        node a1 region=paris addresses=192.168.1.1 pods=10.244.1.0/24 key=1 up=rome leader=true
        node a2 region=paris addresses=192.168.1.2 pods=10.244.2.0/24 key=2 up=rome leader=true
        node a3 region=paris addresses=192.168.1.3 pods=10.244.3.0/24 key=3 leader=false
        node b1 region=rome addresses=192.168.2.1 pods=10.244.6.0/24 key=6 up=paris
        decide";
    let mut world = World::default();
    script.lines().for_each(|line| drop(world.line(line).unwrap()));
    let partners = |of: &str| {
        let plan = plan(&world.mesh, &name(of), &Reachability::default());
        Partners::new(&plan, &HostFacts::default())
    };
    let rome = partners("b1");
    let leaders: Vec<(&PublicKey, &str)> = rome
        .leaders
        .iter()
        .map(|(key, leader)| (key, leader.node.as_str()))
        .collect();
    let key_of = |node: &str| {
        world.mesh.locations[&name("paris")].members[&name(node)]
            .public_key
            .unwrap()
    };
    assert_eq!(leaders, [(&key_of("a1"), "a1"), (&key_of("a2"), "a2")]);
    let first = world.mesh.locations[&name("paris")].leaders[0].node.clone();
    assert_eq!(rome.uses, [(name("paris"), [first].into())].into());
    assert_eq!(rome.own, names(&["b1"]));
    assert_eq!(partners("a2").own, names(&["a1", "a2"]));
    assert_eq!(partners("a3"), Partners::default());
}
