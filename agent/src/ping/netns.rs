//! Echo requests between two namespaces.

use spanwire_testbed::Namespace;

use super::*;

fn p(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Asks from within a namespace.
fn ask(namespace: &Namespace, from: &'static str, to: &'static str) -> Result<Value, String> {
    namespace.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(ping(p(from), p(to)))
    })
}

#[test]
fn a_neighbour_answers_and_who_is_away_does_not() {
    let [near, far] = [(); 2].map(|()| Namespace::new());
    near.run(&format!(
        "ip link add near type veth peer name far netns {}
         ip address add 192.0.2.1/24 dev near
         ip address add fd00::1/64 dev near nodad
         ip link set near up",
        far.pid()
    ));
    far.run(
        "ip address add 192.0.2.2/24 dev far
         ip address add fd00::2/64 dev far nodad
         ip link set far up",
    );
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2")] {
        // The first packet waits for the link and for the neighbour.
        assert!((0..5).any(|_| near.pings(to)));
        let found = ask(&near, from, to).unwrap();
        let rtts = found["rtts"].as_array().unwrap();
        assert_eq!(
            (found["sent"].as_u64(), rtts.len()),
            (Some(REQUESTS), 5),
            "{found}"
        );
        let sane = |rtt: &Value| rtt.as_f64().is_some_and(|rtt| (0.0..1.0).contains(&rtt));
        assert!(rtts.iter().all(sane), "{found}");
    }
    let found = ask(&near, "192.0.2.1", "192.0.2.9").unwrap();
    assert_eq!(found["rtts"].as_array().unwrap().len(), 0);
    let why = ask(&near, "192.0.2.77", "192.0.2.2").unwrap_err();
    assert!(why.contains("from 192.0.2.77"), "{why}");
    let why = ask(&near, "192.0.2.1", "198.51.100.1").unwrap_err();
    assert!(why.contains("unreachable"), "{why}");
}
