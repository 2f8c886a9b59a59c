//! Whatever happens to messages, what has been heard once changes nothing, and what is said is heard in the end.

use proptest::{collection::vec, prelude::*};

use super::*;

/// What the network, or who controls it, does next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Of what is on its way to a leader it delivers one, and may keep it on the way as well.
    Deliver { to: usize, which: usize, keep: bool },
    /// It delivers one that it has delivered before.
    Replay { to: usize, which: usize },
    /// It loses what is on its way to a leader.
    Lose { to: usize },
    /// A leader uses another one.
    Use { who: usize, whom: u8 },
    /// A leader starts again.
    Start { who: usize },
    /// Time passes, in hundredths of a second.
    Wait { time: u64 },
}

/// So seldom as that all messages are opened. Else one that was not the first time might count the next time.
const UNHURRIED: Duration = Duration::from_millis(250);

fn event() -> impl Strategy<Value = Event> {
    let one = 0..2_usize;
    prop_oneof![
        8 => (one.clone(), 0..9_usize, any::<bool>()).prop_map(|(to, which, keep)| Event::Deliver { to, which, keep }),
        4 => (one.clone(), 0..99_usize).prop_map(|(to, which)| Event::Replay { to, which }),
        1 => one.clone().prop_map(|to| Event::Lose { to }),
        2 => (one.clone(), 0..3_u8).prop_map(|(who, whom)| Event::Use { who, whom }),
        1 => one.prop_map(|who| Event::Start { who }),
        4 => (1..150_u64).prop_map(|time| Event::Wait { time }),
    ]
}

const NAMES: [[&str; 2]; 2] = [["a1", "a2"], ["b11", "b12"]];

fn uses(leaders: &mut [Leader; 2], who: usize, whom: u8, now: Instant) {
    let named = usize::from(whom).checked_sub(1).map(|whom| NAMES[1 - who][whom]);
    let location = ["b", "a"][who];
    leaders[who].uses(location, named.as_slice(), now);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_counts_twice_and_all_is_heard_in_the_end(events in vec(event(), 1..120)) {
        let (mut leaders, mut now) = pair();
        let mut under_way: [Vec<[u8; LENGTH]>; 2] = Default::default();
        let mut delivered: [Vec<[u8; LENGTH]>; 2] = Default::default();
        let others = |to: usize| (address([11, 1][to]), [11, 1][to]);
        let mut starts = 100;
        for event in events {
            for from in 0..2 {
                let sent = leaders[from].sent(now);
                under_way[1 - from].extend(sent.into_iter().map(|(_, datagram)| datagram));
            }
            match event {
                Event::Deliver { to, which, keep } if !under_way[to].is_empty() => {
                    let which = which % under_way[to].len();
                    let datagram = if keep { under_way[to][which] } else { under_way[to].remove(which) };
                    let is_replay = delivered[to].contains(&datagram);
                    now += UNHURRIED;
                    leaders[to].advisor.handle_timeout(now);
                    let before = leaders[to].hears(others(to).1);
                    leaders[to].advisor.handle_datagram(others(to).0, &datagram, now);
                    prop_assert!(!is_replay || leaders[to].hears(others(to).1) == before);
                    delivered[to].push(datagram);
                }
                Event::Replay { to, which } if !delivered[to].is_empty() => {
                    let datagram = delivered[to][which % delivered[to].len()];
                    now += UNHURRIED;
                    leaders[to].advisor.handle_timeout(now);
                    let before = leaders[to].hears(others(to).1);
                    leaders[to].advisor.handle_datagram(others(to).0, &datagram, now);
                    prop_assert_eq!(leaders[to].hears(others(to).1), before);
                }
                Event::Deliver { .. } | Event::Replay { .. } => {}
                Event::Lose { to } => under_way[to].clear(),
                Event::Use { who, whom } => uses(&mut leaders, who, whom, now),
                Event::Start { who } => {
                    starts += 1;
                    leaders[who].start(starts, now);
                }
                Event::Wait { time } => now += Duration::from_millis(10 * time),
            }
        }
        uses(&mut leaders, 0, 1, now);
        uses(&mut leaders, 1, 2, now);
        run(&mut leaders, &mut now, 5 * SECOND);
        prop_assert_eq!(leaders[0].hears(11), Some(names(&["a2"])));
        prop_assert_eq!(leaders[1].hears(1), Some(names(&["b11"])));
        let count = run(&mut leaders, &mut now, 10 * SECOND);
        prop_assert!((12..32).contains(&count), "they do not go on answering each other: {count}");
    }
}
