//! Configuration and what packets make of it.

use std::net::IpAddr;

use spanwire_tunnel::uapi::{Reply, Session};

use crate::bench::{Bench, Kept, converse, packet, pair};

/// Ids are used again.
#[test]
fn what_a_client_says_of_a_peer_that_another_client_removed_is_said_of_nobody() {
    let mut bench = Bench::quiet(1);
    let (now, mut kept) = (bench.now, Kept::default());
    let [mut one, mut other] = [(); 2].map(|()| Session::default());
    let mut say = |session: &mut Session, lines: &[&str]| {
        lines
            .iter()
            .map(|line| session.handle_line(now, line, &mut [&mut bench.device], &mut kept))
            .last()
            .unwrap()
    };
    let [removed, fresh] = [2, 3].map(|number| format!("public_key={number:064x}"));
    say(&mut one, &["set=1", &removed]);
    say(&mut other, &["set=1", &removed, "remove=true", &fresh, ""]);
    let done = say(&mut one, &["allowed_ip=10.9.0.0/16", ""]);
    assert_eq!(done, Reply::Answer("errno=0\n\n".into()));
    assert_eq!(bench.device.owner([10, 9, 0, 1].into()), None);
}

/// Returns how many of five packets arrive.
fn carried(a: &mut Bench, b: &mut Bench) -> usize {
    for _ in 0..5 {
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        converse(a, b);
    }
    b.delivered().len()
}

#[test]
fn a_packet_for_nobody_is_dropped_and_counted() {
    let (mut a, b) = (Bench::new(1), Bench::new(2));
    a.know(&b, false);
    a.emit(&packet("10.0.1.1", "10.9.9.9", 0));
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    a.emit(b"not an IP packet");
    let drops = a.device.drops();
    assert_eq!((drops.no_peer, drops.no_endpoint, drops.not_ip), (1, 1, 1));
    assert!(a.kept.sent.is_empty());
    let answers = a.delivered();
    let kinds: Vec<_> = answers.iter().map(|answer| &answer[20..22]).collect();
    assert_eq!(kinds, [[3, 1]; 2], "the sender hears that there is no way");
    assert_eq!(answers[0][12..20], [10, 9, 9, 9, 10, 0, 1, 1]);
}

#[test]
fn a_thousand_senders_a_second_hear_that_there_is_no_way() {
    let mut a = Bench::new(1);
    for second in 0..3 {
        for _ in 0..5000 {
            a.emit(&packet("10.0.1.1", "10.9.9.9", 8));
        }
        assert_eq!(a.delivered().len(), 1000, "in second {second}");
        a.wait(std::time::Duration::from_secs(1));
    }
}

#[test]
fn what_the_device_sends_into_itself_goes_round_no_second_time() {
    for v6 in [false, true] {
        let (mut a, b) = (Bench::quiet(1), Bench::quiet(2));
        let (endpoint, own) = if v6 {
            ("[fd00::2]:7", "fd00::1")
        } else {
            ("192.0.2.2:7", "192.0.2.1")
        };
        a.set(&[
            "listen_port=51820",
            &format!("public_key={}", b.key()),
            &format!("endpoint={endpoint}"),
            "allowed_ip=0.0.0.0/0",
            "allowed_ip=::/0",
        ]);
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        let (to, initiation) = a.kept.sent.remove(0);
        let datagram = |source: u16, payload: &[u8]| {
            let length = u16::try_from(8 + payload.len()).unwrap();
            let ports = [source, 7, length, 0].map(u16::to_be_bytes).concat();
            match (own.parse().unwrap(), to.ip()) {
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let head = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64]].concat();
                    [&head[..], &from.octets(), &to.octets(), &ports, payload].concat()
                }
                _ => {
                    let mut outer = packet(own, &to.ip().to_string(), 0);
                    outer[2..4].copy_from_slice(&(20 + length).to_be_bytes());
                    outer[9] = 17;
                    [&outer[..], &ports, payload].concat()
                }
            }
        };
        a.wait(std::time::Duration::from_secs(1));
        let held = |a: &Bench| a.device.drops().looped;
        a.emit(&datagram(51820, &initiation));
        assert_eq!(held(&a), 1);
        // Another program's datagram, and what is no WireGuard's.
        a.emit(&datagram(4000, &initiation));
        a.emit(&datagram(51820, b"hello"));
        assert_eq!(held(&a), 1);
        // Its first fragment, and a later one that looks like it.
        a.emit(&fragment(&datagram(51820, &initiation), 0));
        assert_eq!(held(&a), 2);
        a.emit(&fragment(&datagram(51820, &initiation), 185));
        assert_eq!(held(&a), 2);
        // Another machine's, which this one forwards.
        a.kept.foreign = own.parse().ok();
        a.emit(&datagram(51820, &initiation));
        assert_eq!(held(&a), 2);
    }
}

/// Makes a packet a fragment that more follow, so many times eight bytes behind the first.
fn fragment(packet: &[u8], offset: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[6..8].copy_from_slice(&(0x2000 | offset).to_be_bytes());
        return packet;
    }
    let [high, low] = (offset << 3 | 1).to_be_bytes();
    let header = [packet[6], 0, high, low, 0, 0, 0, 7];
    packet.splice(40..40, header);
    packet[6] = 44;
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

#[test]
fn a_packet_with_a_foreign_source_is_dropped_and_counted() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.7.1", "10.0.2.1", 0));
    converse(&mut a, &mut b);
    assert_eq!((b.delivered().len(), b.device.drops().wrong_source), (0, 1));
}

#[test]
fn a_prefix_given_to_another_peer_is_taken_from_the_first() {
    let (mut a, mut b) = pair();
    let c = Bench::new(3);
    a.know(&c, true);
    converse(&mut a, &mut b);
    a.set(&[&format!("public_key={}", c.key()), "allowed_ip=10.0.2.0/24"]);
    a.kept.sent.clear();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    assert!(a.kept.sent.iter().all(|(to, _)| *to == c.at));
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    converse(&mut b, &mut a);
    assert_eq!(a.device.drops().wrong_source, 1);
}

#[test]
fn a_removed_peer_is_a_stranger() {
    let (mut a, mut b) = pair();
    assert_eq!(carried(&mut a, &mut b), 5);
    b.set(&[&format!("public_key={}", a.key()), "remove=true"]);
    assert_eq!(carried(&mut a, &mut b), 0);
    assert_eq!(b.device.drops().unknown, 5);
    assert_eq!(b.device.owner("10.0.1.1".parse().unwrap()), None);
}

#[test]
fn a_removed_peer_that_is_added_again_comes_back() {
    let (mut a, mut b) = pair();
    b.set(&[&format!("public_key={}", a.key()), "remove=true"]);
    b.know(&a, true);
    converse(&mut a, &mut b);
    assert_eq!(carried(&mut a, &mut b), 5);
}

#[test]
fn a_preshared_key_has_to_be_the_same_on_both_sides() {
    let (mut a, mut b) = pair();
    let line = |key: u8| format!("preshared_key={}", format!("{key:02x}").repeat(32));
    a.set(&[&format!("public_key={}", b.key()), &line(1)]);
    converse(&mut a, &mut b);
    assert_eq!(carried(&mut a, &mut b), 0);
    b.set(&[&format!("public_key={}", a.key()), &line(1)]);
    converse(&mut b, &mut a);
    assert_eq!(carried(&mut a, &mut b), 10, "what waited comes, too");
}

#[test]
fn what_waits_outlives_a_change_of_the_preshared_key() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    let preshared = format!("preshared_key={}", "07".repeat(32));
    b.set(&[
        &format!("public_key={}", a.key()),
        &preshared,
        "allowed_ip=10.0.1.0/24",
    ]);
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    a.kept.sent.clear();
    a.set(&[&format!("public_key={}", b.key()), &preshared]);
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn setting_the_same_keys_again_disturbs_no_session() {
    let (mut a, mut b) = pair();
    let before = a.peer().last_handshake;
    a.set(&[
        &format!("private_key={}", "01".repeat(32)),
        &format!("public_key={}", b.key()),
        &format!("preshared_key={}", "00".repeat(32)),
    ]);
    assert!(a.kept.sent.is_empty());
    assert_eq!(carried(&mut a, &mut b), 5);
    assert_eq!(a.peer().last_handshake, before);
}

#[test]
fn a_new_private_key_is_used_at_once() {
    let (mut a, mut b) = pair();
    a.set(&[&format!("private_key={}", "09".repeat(32))]);
    b.know(&Bench::new(9), false);
    b.set(&[
        &format!("public_key={}", Bench::new(9).key()),
        "allowed_ip=10.0.1.0/24",
    ]);
    converse(&mut a, &mut b);
    assert_eq!(carried(&mut a, &mut b), 5);
}

#[test]
fn without_a_private_key_nothing_is_said_or_heard() {
    let (mut a, mut b) = pair();
    b.set(&[&format!("private_key={}", "00".repeat(32))]);
    assert_eq!(carried(&mut a, &mut b), 0);
    assert!(b.kept.sent.is_empty());
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    assert!(b.kept.sent.is_empty());
}

#[test]
fn peers_can_be_set_before_the_private_key() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    a.set(&[&format!("private_key={}", "00".repeat(32))]);
    b.know(&a, false);
    a.know(&b, true);
    assert!(a.kept.sent.is_empty());
    a.set(&[&format!("private_key={}", "01".repeat(32))]);
    converse(&mut a, &mut b);
    assert_eq!(carried(&mut a, &mut b), 5);
}

#[test]
fn update_only_makes_no_peer() {
    let mut a = Bench::new(1);
    let key = format!("public_key={}", Bench::new(2).key());
    a.set(&[&key, "update_only=true", "allowed_ip=10.0.2.0/24"]);
    assert_eq!(a.device.peers().count(), 0);
    a.set(&[&key]);
    a.set(&[&key, "update_only=true", "allowed_ip=10.0.2.0/24"]);
    assert!(a.get().contains("allowed_ip=10.0.2.0/24\n"));
}

#[test]
fn the_own_key_is_no_peer() {
    let mut a = Bench::new(1);
    let me = format!("public_key={}", a.key());
    a.set(&[&me, "allowed_ip=10.0.2.0/24"]);
    assert_eq!(a.device.peers().count(), 0);
    a.set(&[&format!("private_key={}", "07".repeat(32)), &me]);
    assert_eq!(a.device.peers().count(), 1);
    a.set(&[&format!("private_key={}", "01".repeat(32))]);
    assert_eq!(
        a.device.peers().count(),
        0,
        "a peer whose key becomes the own one goes"
    );
}

#[test]
fn a_failed_set_says_why_and_keeps_what_came_before() {
    let mut a = Bench::new(1);
    assert_eq!(a.try_set(&["fwmark=7", "fwmark=x", "fwmark=8"]), "errno=-22\n\n");
    assert_eq!(a.try_set(&["fwmark"]), "errno=-71\n\n");
    assert_eq!(a.kept.mark, 7);
}

#[test]
fn many_peers_keep_apart() {
    let mut hub = Bench::new(1);
    let mut spokes: Vec<Bench> = (2..60).map(Bench::new).collect();
    for spoke in &mut spokes {
        hub.know(spoke, false);
        spoke.know(&hub, true);
        converse(spoke, &mut hub);
    }
    for (number, spoke) in (2..).zip(&mut spokes) {
        hub.emit(&packet("10.0.1.1", &format!("10.0.{number}.1"), number));
        converse(&mut hub, spoke);
        assert_eq!(
            spoke.delivered(),
            [packet("10.0.1.1", &format!("10.0.{number}.1"), number)]
        );
    }
}
