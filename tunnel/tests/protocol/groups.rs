//! Peers of one group send each other's sources.

use crate::bench::{Bench, converse, packet};

/// What a2's network sends to c, whichever gateway carries it.
const SOURCE: &str = "10.0.2.1";

/// Two gateways, 1 and 2, with a session to 3, which has the network of each with that one.
struct Gateways {
    a1: Bench,
    a2: Bench,
    c: Bench,
}

impl Gateways {
    fn new() -> Self {
        let [mut a1, mut a2, mut c] = [1, 2, 3].map(Bench::new);
        for gateway in [&mut a1, &mut a2] {
            c.know(gateway, false);
            gateway.know(&c, true);
            converse(gateway, &mut c);
        }
        Self { a1, a2, c }
    }

    /// Returns what the far device is configured with for a gateway.
    fn tell(&mut self, gateway: u8, line: &str) {
        let key = Bench::new(gateway).key();
        self.c.set(&[&format!("public_key={key}"), line]);
    }

    /// Returns whether the far device takes a packet of a2's network from each of the gateways.
    fn taken(&mut self) -> [bool; 2] {
        let Self { a1, a2, c } = self;
        [a1, a2].map(|gateway| {
            gateway.emit(&packet(SOURCE, "10.0.3.1", 8));
            converse(gateway, c);
            !c.delivered().is_empty()
        })
    }
}

#[test]
fn a_source_belongs_to_one_peer_where_there_is_no_group() {
    let mut all = Gateways::new();
    assert_eq!(all.taken(), [false, true]);
    all.tell(1, "allowed_ip=10.0.2.0/24");
    assert_eq!(all.taken(), [true, false]);
    assert_eq!(all.c.device.drops().wrong_source, 2);
}

#[test]
fn peers_of_one_group_send_each_others_sources() {
    let mut all = Gateways::new();
    all.tell(1, "group=a");
    assert_eq!(all.taken(), [false, true], "a group of one");
    all.tell(2, "group=a");
    let before = all.c.device.drops().wrong_source;
    assert_eq!(all.taken(), [true, true]);
    // Whichever gateway has the network: nothing is lost while it moves.
    for gateway in [1, 2, 1] {
        all.tell(gateway, "allowed_ip=10.0.2.0/24");
        assert_eq!(all.taken(), [true, true]);
    }
    assert_eq!(all.c.device.drops().wrong_source, before);
}

#[test]
fn other_groups_and_what_belongs_to_nobody_stay_out() {
    let mut all = Gateways::new();
    all.tell(1, "group=a");
    all.tell(2, "group=b");
    assert_eq!(all.taken(), [false, true]);
    all.tell(1, "group=b");
    all.tell(2, "allowed_ip=-10.0.2.0/24");
    assert_eq!(all.taken(), [false, false], "in no peer's allowed IPs");
    // A narrower prefix of another peer's is not the group's, though the group has the wider one.
    all.tell(2, "allowed_ip=10.0.0.0/16");
    assert_eq!(all.taken(), [true, true]);
    all.tell(9, "allowed_ip=10.0.2.0/24");
    assert_eq!(all.taken(), [false, false]);
}

#[test]
fn a_group_ends_with_its_line_and_with_its_peer() {
    let mut all = Gateways::new();
    all.tell(1, "group=a");
    all.tell(2, "group=a");
    all.tell(2, "group=");
    assert_eq!(all.taken(), [false, true]);
    all.tell(2, "group=a");
    assert_eq!(all.taken(), [true, true]);
    // Its place is used again, its group is not.
    all.tell(1, "remove=true");
    let Gateways { a1, c, .. } = &mut all;
    c.know(a1, true);
    converse(c, a1);
    assert_eq!(all.taken(), [false, true]);
    all.tell(1, "group=a");
    all.c.set(&["replace_peers=true"]);
    let Gateways { a1, a2, c } = &mut all;
    for gateway in [a1, a2] {
        c.know(gateway, true);
        converse(c, gateway);
    }
    assert_eq!(all.taken(), [false, true]);
}

#[test]
fn a_group_changes_neither_where_packets_go_nor_a_session() {
    let mut all = Gateways::new();
    let handshakes = |c: &Bench| {
        c.device
            .peers()
            .map(|(_, peer)| peer.last_handshake)
            .collect::<Vec<_>>()
    };
    let before = handshakes(&all.c);
    all.tell(1, "group=a");
    all.tell(2, "group=a");
    all.tell(1, "group=b");
    all.tell(1, "group=a");
    assert!(
        all.c.kept.sent.is_empty(),
        "a change of the group alone says nothing"
    );
    assert_eq!(all.taken(), [true, true]);
    assert_eq!(handshakes(&all.c), before);
    let Gateways { a1, a2, c } = &mut all;
    c.emit(&packet("10.0.3.1", SOURCE, 8));
    assert!(c.kept.sent.iter().all(|(to, _)| *to == a2.at) && c.kept.sent.len() == 1);
    converse(c, a2);
    assert_eq!((a1.delivered().len(), a2.delivered().len()), (0, 1));
}

#[test]
fn a_get_tells_the_group() {
    let mut all = Gateways::new();
    let key = format!("public_key={}\n", all.a1.key());
    assert!(!all.c.get().contains("group="));
    all.tell(1, "group=a");
    let answer = all.c.get();
    let of_it = answer
        .split(&key)
        .nth(1)
        .unwrap()
        .split("public_key=")
        .next()
        .unwrap();
    assert!(of_it.contains("\ngroup=a\n"), "{answer}");
    assert_eq!(answer.matches("group=").count(), 1);
    assert_eq!(all.c.try_set(&[key.trim_end(), "group=\u{7}"]), "errno=-22\n\n");
    assert_eq!(
        all.c.try_set(&["group=a"]),
        "errno=-22\n\n",
        "a device has no group"
    );
    assert_eq!(all.c.get(), answer);
}
