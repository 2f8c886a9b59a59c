//! A step that always fails: what the others achieve stands, and nothing is done over and over because of it.

use std::{fs, os::unix::fs::symlink, path::PathBuf, thread, time::Duration};

use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const SECOND: Duration = Duration::from_secs(1);

/// Makes the kernel setting that every leader needs one that can be read and not written: that of another file.
fn refuse_forwarding(world: &mut World, name: &str) {
    let folder = with_settings(world, name);
    symlink("/proc/uptime", folder.join("net/ipv4/ip_forward")).unwrap();
}

/// Gives a node's agent a folder of settings in which that of forwarding is missing.
fn with_settings(world: &mut World, name: &str) -> PathBuf {
    let folder = world.folder.path().join("settings");
    fs::create_dir_all(folder.join("net/ipv4")).unwrap();
    symlink("/proc/sys/net/ipv6", folder.join("net/ipv6")).unwrap();
    symlink("/proc/sys/net/ipv4/conf", folder.join("net/ipv4/conf")).unwrap();
    let flag = format!("--proc-sys={}", folder.display());
    world.node(name).flags = vec![flag.leak() as &str].leak();
    folder
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

/// What a disk that broke, a crash at the wrong moment, or an agent of another version leave behind.
#[test]
fn damaged_and_leftover_state_disables_no_agent() {
    let mut world = World::new(true);
    let mesh = world.mesh_file();
    let keys = ["a1", "a2"].map(|name| world.node(name).key());
    for node in &mut world.nodes {
        node.start_agent(&mesh);
    }
    world.wait_for_pods();
    for (name, key) in ["a1", "a2"].into_iter().zip(keys) {
        let node = world.node(name);
        wait_until("checkpoint", 5 * SECOND, || {
            node.state().join("ledger.json").exists()
        });
        node.kill_agent();
        for file in ["found-sysctls.json", "ledger.json", "nft-table.json", "key"] {
            fs::write(node.state().join(file), "{\"version\":").unwrap();
        }
        node.start_agent(&mesh);
        wait_until("ready", 10 * SECOND, || node.ask("/readyz").contains("200 OK"));
        if name == "a1" {
            assert_eq!(node.key(), key, "that of the device is put back");
        } else {
            wait_until("the reason", 5 * SECOND, || {
                node.agent_log().contains("without a key this node cannot lead")
            });
        }
    }
    world.wait_for_pods();
}

/// The state directory takes nothing: as a full disk, and whatever the permissions are.
#[test]
fn an_agent_that_can_write_nothing_does_all_it_can_and_says_so() {
    let mut world = World::new(true);
    let mesh = world.mesh_file();
    for name in ["a1", "a2", "b1", "b2"] {
        let node = world.node(name);
        // No file can be made where a directory has its name.
        for file in ["ledger.new", "found-sysctls.new", "nft-table.new"] {
            fs::create_dir(node.state().join(file)).unwrap();
        }
        node.start_agent(&mesh);
    }
    world.wait_for_pods();
    let node = world.node("a1");
    let said = "after a boot this node would begin with what was decided before";
    wait_until("the reason", 10 * SECOND, || node.agent_log().contains(said));
    assert!(
        node.ask("/metrics").contains("spanwire_agent_ready 0"),
        "{}",
        node.ask("/metrics")
    );
    fs::remove_dir(node.state().join("ledger.new")).unwrap();
    wait_until("the checkpoint", 30 * SECOND, || {
        node.state().join("ledger.json").exists()
    });
    wait_until("the end of it", 5 * SECOND, || {
        node.agent_log().contains("nothing is left undone any more")
    });
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

#[test]
fn a_setting_that_can_be_neither_read_nor_written_keeps_no_packet_from_flowing() {
    let mut world = World::new(true);
    let folder = with_settings(&mut world, "a1");
    fs::create_dir(folder.join("net/ipv4/ip_forward")).unwrap();
    let mesh = world.mesh_file();
    world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
    world.wait_for_pods();
    let log = world.node("a1").agent_log();
    assert!(log.contains("net/ipv4/ip_forward"), "{log}");
}

#[test]
fn a_route_that_is_refused_is_unreachable_and_not_the_cnis_and_comes_when_it_can() {
    let mut world = World::new(true);
    // A neighbour that is an address of the machine is none (fib_check_nh).
    world.node("a2").host.run("ip address add 10.244.1.0/32 dev lo");
    let mesh = world.mesh_file();
    world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
    let follower = world.node("a2");
    wait_until("the report", 10 * SECOND, || {
        follower
            .agent_log()
            .contains("route set 10.244.4.0/24 via 10.244.1.0")
            && follower.agent_log().contains("the kernel refused it")
    });
    let refused = follower.host.try_run("ping -c 1 -W 1 10.244.4.2");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("No route to host"),
        "{refused:?}"
    );
    follower.host.run("ip address del 10.244.1.0/32 dev lo");
    world.wait_for_pods();
}
