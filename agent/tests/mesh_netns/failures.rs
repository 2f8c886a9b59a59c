//! A step that always fails: what the others achieve stands, and nothing is done over and over because of it.

use std::{fs, os::unix::fs::symlink, thread, time::Duration};

use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const SECOND: Duration = Duration::from_secs(1);

/// Makes the kernel setting that every leader needs one that can be read and not written: that of another file.
fn refuse_forwarding(world: &mut World, name: &str) {
    let folder = world.folder.path().join("settings");
    fs::create_dir_all(folder.join("net/ipv4")).unwrap();
    symlink("/proc/sys/net/ipv6", folder.join("net/ipv6")).unwrap();
    symlink("/proc/sys/net/ipv4/conf", folder.join("net/ipv4/conf")).unwrap();
    symlink("/proc/uptime", folder.join("net/ipv4/ip_forward")).unwrap();
    let flag = format!("--proc-sys={}", folder.display());
    world.node(name).flags = vec![flag.leak() as &str].leak();
}

/// How often the agent has deleted a peer in order to create it again.
fn renewals(node: &Node) -> usize {
    node.agent_log().matches("peer delete").count()
}

#[test]
fn a_step_that_always_fails_does_not_keep_silent_peers_from_being_left_alone() {
    let mut world = World::new(true);
    refuse_forwarding(&mut world, "a1");
    let mesh = world.mesh_file();
    // It gets no answer: the other leader has no agent, so its tunnel has no device.
    world.node("a1").start_agent(&mesh);
    let a1 = world.node("a1");
    wait_until("the failure", 10 * SECOND, || {
        a1.agent_log().contains("net/ipv4/ip_forward")
    });
    wait_until("a renewal", 10 * SECOND, || renewals(a1) > 0);
    thread::sleep(6 * SECOND);
    assert!(renewals(a1) <= 3, "{}", a1.agent_log());
}

#[test]
fn a_step_that_always_fails_does_not_make_the_agent_fight_a_peer_that_roams() {
    let mut world = World::new(true);
    refuse_forwarding(&mut world, "a1");
    let mesh = world.mesh_file();
    world.node("a1").start_agent(&mesh);
    world.node("b1").start_agent(&mesh);
    let far = world.node("b1").key();
    let a1 = world.node("a1");
    let given = |port: &str| format!("peer set {far} dev spanwire0 endpoint 10.2.0.3:{port}");
    wait_until("the session", 10 * SECOND, || {
        a1.ask("/metrics")
            .contains("spanwire_agent_link_up{location=\"b\"} 1")
    });
    let answers = world.node("b1").host.start_ping("10.4.0.1");
    let a1 = world.node("a1");
    let moved = fs::read_to_string(&mesh)
        .unwrap()
        .replace("10.2.0.3:51820", "10.2.0.3:51821");
    let fresh = mesh.with_extension("fresh");
    fs::write(&fresh, moved).unwrap();
    fs::rename(fresh, &mesh).unwrap();
    wait_until("the other endpoint", 10 * SECOND, || {
        a1.agent_log().contains(&given("51821"))
    });
    // It sends from where it is. The change is insisted on for three seconds, and then no more.
    let times = || a1.agent_log().matches(&given("51821")).count();
    thread::sleep(5 * SECOND);
    let before = times();
    thread::sleep(10 * SECOND);
    assert_eq!(times(), before, "{}", a1.agent_log());
    let (sent, _) = answers.stop();
    assert!(sent > 0, "the other leader has been sending");
}
