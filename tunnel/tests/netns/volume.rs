//! How much goes through, and what is counted of it.

use std::process::Stdio;

use crate::world::{Engine, Side, World, other, wait_for};

#[test]
fn the_counters_say_what_went_over_the_wire() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    assert!(a.pings(b.inner[0], 10));
    let counters = |side: &Side| {
        let dump = side.peer_dump();
        [5, 6].map(|field| dump[field].parse::<u64>().unwrap())
    };
    // Handshakes of 148 and 92 bytes, packets of 84 in 128, and perhaps a keepalive of 32 to confirm the session.
    let ([a_received, a_sent], [b_received, b_sent]) = (counters(a), counters(b));
    assert_eq!((a_received, b_sent), (1372, 1372));
    assert_eq!(a_sent, b_received);
    assert!([1428, 1460].contains(&a_sent), "{a_sent}");
    assert!(a.last_handshake() > 0 && b.last_handshake() > 0);
}

/// MTU of the tunnel as in the kernel's test: the largest that a page of 32 KiB holds, with the usual rest.
#[test]
fn many_streams_and_floods_of_datagrams_arrive_in_a_tunnel_with_a_huge_mtu() {
    let world = World::joined(Engine::Ours, other(), true);
    let World { a, b } = &world;
    for side in [a, b] {
        side.run(&["ip", "link", "set", "eth0", "mtu", "65535"]);
        side.run(&["ip", "link", "set", &side.device, "mtu", "34736"]);
    }
    for (family, how) in [(0, ["-P", "50"]), (1, ["-u", "-b0"])] {
        let to = b.inner[family].to_string();
        let mut server = b
            .command(&["iperf3", "-s", "-1", "-B", &to])
            .stdout(Stdio::null())
            .spawn();
        wait_for("iperf3 to listen", || b.run(&["ss", "-tln"]).contains(":5201"));
        let said = a.run(&[&["iperf3", "-t", "1", "-J", "-c", &to][..], &how].concat());
        assert!(server.wait().unwrap().success());
        let bytes = said
            .split("\"sum_received\"")
            .nth(1)
            .or_else(|| said.split("\"sum\"").last());
        let bytes = bytes.and_then(|sum| sum.split("\"bytes\":").nth(1));
        let bytes = bytes.and_then(|rest| rest.split(',').next()?.trim().parse::<u64>().ok());
        assert!(bytes.is_some_and(|bytes| bytes > 1_000_000), "{bytes:?}: {said}");
    }
}

#[test]
fn what_could_not_be_sent_is_not_counted() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    let sent = || a.peer_dump()[6].parse::<u64>().unwrap();
    let wire = |change: &str| {
        for address in a.outer {
            let net = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
            a.run(&["ip", "addr", change, &net, "dev", "eth0"]);
        }
    };
    wire("del");
    b.know(a, None);
    a.know(b, Some(b.outer[0]));
    assert!(!a.reaches(b.inner[0]), "there is no route");
    assert_eq!(sent(), 0, "an initiation that could not leave");
    wire("add");
    wait_for("the tunnel", || a.reaches(b.inner[0]));
    wire("del");
    let before = sent();
    let to = b.inner[0].to_string();
    a.try_run(&[
        "ping", "-q", "-c", "20", "-i", "0.01", "-W", "0.3", "-s", "1000", &to,
    ]);
    assert_eq!(sent(), before, "packets that could not leave");
    wire("add");
    wait_for("the tunnel", || a.reaches(b.inner[0]));
    assert!(sent() > before);
}
