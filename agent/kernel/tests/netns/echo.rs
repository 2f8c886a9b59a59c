use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use spanwire_kernel::{Echo, Neighbours};
use spanwire_testbed::Namespace;

use crate::lab::{link, p};

/// A machine, its neighbour, and one behind that, to which nothing is routed on the first.
fn three() -> [Namespace; 3] {
    let three = [(); 3].map(|()| Namespace::new());
    let [me, neighbour, behind] = &three;
    me.run(&format!(
        "ip link add eth0 type veth peer name eth0 netns {}
         ip address add 192.168.1.1/24 dev eth0
         ip address add 192.168.9.9/32 dev lo
         ip address add fd00:1::1/64 dev eth0 nodad
         ip address add fd00:9::9/128 dev lo nodad
         sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
         ip link set eth0 up",
        neighbour.pid()
    ));
    neighbour.run(&format!(
        "ip link add eth1 type veth peer name eth0 netns {}
         ip address add 192.168.1.2/24 dev eth0
         ip address add 192.168.2.1/24 dev eth1
         ip address add fd00:1::2/64 dev eth0 nodad
         ip address add fd00:2::1/64 dev eth1 nodad
         ip link set eth0 up
         ip link set eth1 up
         ip route add 192.168.9.9 via 192.168.1.1
         ip route add fd00:9::9 via fd00:1::1
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        behind.pid()
    ));
    behind.run(
        "ip address add 192.168.2.2/24 dev eth0
         ip address add fd00:2::2/64 dev eth0 nodad
         ip link set eth0 up
         ip route add 192.168.9.9 via 192.168.2.1
         ip route add fd00:9::9 via fd00:2::1",
    );
    three
}

/// Does something in the runtime that sockets need.
fn there<T: Send + 'static>(namespace: &Namespace, task: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    namespace.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(task())
    })
}

/// Returns the answers, once there are so many, or there will be no more.
async fn answers(echo: &Echo, count: usize) -> BTreeSet<(IpAddr, u64)> {
    let mut answers = BTreeSet::new();
    let receive = async {
        while answers.len() < count {
            answers.extend(echo.receive().await.unwrap());
        }
    };
    let _ended = tokio::time::timeout(Duration::from_secs(5), receive).await;
    answers
}

#[test]
fn an_answer_repeats_the_number_and_goes_to_the_source_that_was_given() {
    let [me, neighbour, _behind] = three();
    // Only what is asked from the given source is answered.
    neighbour.nft(
        "table inet only { chain any { type filter hook input priority 0;
           ip saddr 192.168.1.1 icmp type echo-request drop; ip6 saddr fd00:1::1 icmpv6 type echo-request drop; }
         }",
    );
    let got = there(&me, async || {
        let mut echo = Echo::open(0x1234).unwrap();
        for (to, from, number) in [
            ("192.168.1.2", Some("192.168.9.9"), 1),
            ("192.168.1.2", None, 2),
            ("fd00:1::2", Some("fd00:9::9"), 3),
            ("fd00:1::2", None, 4),
        ] {
            match from {
                Some(from) => echo.send(p(to), p(from), number).unwrap(),
                None => echo.send_by(&link("eth0"), p(to), number).unwrap(),
            }
        }
        let stranger = echo.send(p("192.168.1.2"), p("192.0.2.1"), 5);
        assert!(stranger.is_err(), "not its address");
        answers(&echo, 3).await
    });
    assert_eq!(got, [(p("192.168.1.2"), 1), (p("fd00:1::2"), 3)].into());
}

#[test]
fn a_neighbour_hands_on_what_no_route_leads_to() {
    let [me, _neighbour, _behind] = three();
    there(&me, async || {
        let (mut echo, mut neighbours) = (Echo::open(7).unwrap(), Neighbours::open().unwrap());
        let routed = echo.send(p("192.168.2.2"), p("192.168.9.9"), 1);
        assert!(routed.is_err(), "there is no route");
        for (number, near, far, own) in [
            (10, "192.168.1.2", "192.168.2.2", "192.168.9.9"),
            (20, "fd00:1::2", "fd00:2::2", "fd00:9::9"),
        ] {
            let eth0 = link("eth0");
            assert_eq!(neighbours.find(&eth0, p(near)).await.unwrap(), None);
            echo.send_by(&eth0, p(near), number).unwrap();
            assert_eq!(answers(&echo, 1).await, [(p(near), number)].into());
            let neighbour = neighbours.find(&eth0, p(near)).await.unwrap().unwrap();
            echo.send_through(&neighbour, p(far), p(own), number + 1).unwrap();
            assert_eq!(answers(&echo, 1).await, [(p(far), number + 1)].into());
        }
        let nowhere = neighbours.find(&link("eth7"), p("192.168.1.2")).await;
        assert_eq!(nowhere.unwrap(), None);
    });
}

#[test]
fn what_is_sent_by_a_device_takes_no_other_way() {
    let [me, _neighbour, _behind] = three();
    me.run(
        "ip link add gone0 type veth peer name gone1
         ip address add 192.168.3.1/24 dev gone0
         ip link set gone0 up
         ip link set gone1 up
         ip route add default via 192.168.1.2",
    );
    there(&me, async || {
        let mut echo = Echo::open(7).unwrap();
        let to = p("192.168.2.2");
        echo.send(to, p("192.168.9.9"), 1).unwrap();
        assert_eq!(answers(&echo, 1).await, [(to, 1)].into());
        // No machine answers there, and nothing goes by the default route.
        let _ = echo.send_by(&link("gone0"), to, 2);
        let waited = tokio::time::timeout(Duration::from_millis(500), echo.receive()).await;
        assert!(waited.is_err(), "{waited:?}");
        assert!(echo.send_by(&link("eth7"), to, 3).is_err(), "no such device");
    });
}

#[test]
fn the_answers_of_others_wake_no_process() {
    let [me, _neighbour, _behind] = three();
    let other = me.start_ping("192.168.1.2");
    let (got, woken) = there(&me, async || {
        let (echo, mut other) = (Echo::open(7).unwrap(), Echo::open(8).unwrap());
        other.send_by(&link("eth0"), p("192.168.1.2"), 1).unwrap();
        other.send_by(&link("eth0"), p("fd00:1::2"), 2).unwrap();
        let woken = tokio::time::timeout(Duration::from_millis(500), echo.receive())
            .await
            .is_ok();
        (answers(&other, 2).await, woken)
    });
    let (sent, received) = other.stop();
    assert!(sent > 1 && received > 1, "the ping of another program works");
    assert!(!woken);
    assert_eq!(got.len(), 2);
}
