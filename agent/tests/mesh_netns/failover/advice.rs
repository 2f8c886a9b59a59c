//! What leaders say to each other, through real tunnels.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use spanwire_testbed::{Namespace, wait_until};

use super::{SECOND, world};
use crate::{
    wireguard::{Backend, backend},
    world::World,
};

/// With the kernel's WireGuard a leader may be taken for one that forwards nothing for some time, and be left alone.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which leaders of its location one of another location says to use, as that node has heard.
fn hears(world: &mut World, node: &str, of: &str) -> Option<String> {
    let text = world.node(node).ask("/debug/links");
    let of = format!("advice of {of} of ");
    let line = text.lines().find(|line| line.starts_with(&of))?;
    let (_, said) = line.split_once(": uses ")?;
    Some(said.split(';').next()?.to_owned())
}

fn wait_to_hear(world: &mut World, node: &str, of: &str, uses: &str) {
    wait_until(&format!("{node} to hear from {of}"), PATIENCE, || {
        hears(world, node, of).as_deref() == Some(uses)
    });
}

const LEADERS: [(&str, &str, &str); 4] = [
    ("a1", "b1", "a1"),
    ("a2", "b2", "a1"),
    ("b1", "a2", "b1"),
    ("b2", "a1", "b1"),
];

#[test]
fn leaders_hear_which_of_them_others_use_also_after_one_fails_and_after_a_start_of_an_agent() {
    let mut world = world();
    for (node, of, uses) in LEADERS {
        wait_to_hear(&mut world, node, of, uses);
    }
    let counts = !world
        .node("a1")
        .ask("/debug/links")
        .contains("which changes nothing");
    assert_eq!(counts, backend() == Backend::Kernel, "what it is for");
    world.network.router.run("ip link set a1 down");
    wait_to_hear(&mut world, "a2", "b1", "a2");
    wait_until("a1 to forget what it heard", 20 * SECOND, || {
        hears(&mut world, "a1", "b1").is_none()
    });
    world.network.router.run("ip link set a1 up");
    wait_to_hear(&mut world, "a1", "b1", "a1");
    world.node("b1").kill_agent();
    let mesh = world.folder.path().join("with-standby-leaders.json");
    world.node("b1").start_agent(&mesh);
    for (node, of, uses) in LEADERS {
        wait_to_hear(&mut world, node, of, uses);
    }
}

#[test]
fn what_is_sent_to_the_port_by_others_is_not_heard_and_keeps_nothing_from_being_heard() {
    let mut world = world();
    wait_to_hear(&mut world, "a1", "b1", "a1");
    let port = "10.4.0.1:9479";
    let sender = |host: &Namespace| {
        let socket = host.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect(port).unwrap();
        socket
    };
    // From a pod of the same node: no socket takes what comes by another device.
    let own = sender(&world.node("a1").pod);
    own.set_read_timeout(Some(SECOND)).unwrap();
    own.send(&[0; 144]).unwrap();
    let refused = own.recv(&mut [0]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // By the tunnel, for longer than what was heard before counts.
    let pod = sender(&world.node("b1").pod);
    let begun = Instant::now();
    while begun.elapsed() < 6 * SECOND {
        for _ in 0..5 {
            let _full = pod.send(&[0; 144]);
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(hears(&mut world, "a1", "b1").as_deref(), Some("a1"));
}
