//! Several clients of one device at once.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    conformance::ask,
    world::{Engine, World},
};

const PEERS: usize = 2000;
const ROUNDS: usize = 5;

/// Gives thousands of peers one interval each, which is another in every round.
fn intervals(round: usize) -> String {
    let mut request = "set=1\n".to_owned();
    for peer in 1..=PEERS {
        request += &format!("public_key={peer:064x}\npersistent_keepalive_interval={round}\n");
    }
    request + "\n"
}

#[test]
fn a_get_sees_all_or_nothing_of_a_set() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let side = &world.a;
    assert_eq!(ask(side, &intervals(1)), "errno=0\n\n");
    let seen = thread::scope(|scope| {
        let setter = scope.spawn(|| {
            for round in 2..2 + ROUNDS {
                assert_eq!(ask(side, &intervals(round)), "errno=0\n\n");
            }
        });
        let mut seen = BTreeSet::new();
        while !setter.is_finished() {
            let answer = ask(side, "get=1\n\n");
            let intervals: Vec<&str> = answer
                .lines()
                .filter_map(|line| line.strip_prefix("persistent_keepalive_interval="))
                .collect();
            assert_eq!(intervals.len(), PEERS);
            let different: BTreeSet<_> = intervals.into_iter().collect();
            assert_eq!(different.len(), 1, "half of a set is seen: {different:?}");
            seen.extend(different.into_iter().map(str::to_owned));
        }
        seen
    });
    assert!(seen.len() > 1, "nothing was set meanwhile: {seen:?}");
}

#[test]
fn nobody_waits_long_for_who_stops_in_the_middle_of_a_set() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let side = &world.a;
    let mut stopped: Vec<UnixStream> = (1..=5)
        .map(|mark| {
            let mut stream = UnixStream::connect(side.socket()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            write!(stream, "set=1\nfwmark={mark}\n").unwrap();
            stream
        })
        .collect();
    let start = Instant::now();
    let answer = ask(side, "get=1\n\n");
    let waited = start.elapsed();
    // One of them is waited for, a second, and not each in turn.
    assert!(answer.contains("fwmark="), "{answer}");
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    for stream in &mut stopped {
        stream.write_all(b"fwmark=9\n\n").unwrap();
        let mut errno = [0; 9];
        stream.read_exact(&mut errno).unwrap();
        assert_eq!(&errno, b"errno=0\n\n");
    }
    assert!(ask(side, "get=1\n\n").contains("fwmark=9\n"));
}
