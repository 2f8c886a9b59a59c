//! What `connect` makes on this machine, and that nothing of it is left.

use std::{collections::BTreeSet, os::unix::net::UnixListener, time::Duration};

use spanwire_host::Owned;
use spanwire_testbed::wait_until;

use crate::world::{POD, SOON, World, by_kernel, pings, run, world};

/// What Spanwire has made here, as `ip` shows it.
fn traces() -> String {
    run("ip -o link show | grep spanwire-peer || true
         ip rule | grep -v -e 'lookup local' -e 'lookup main' -e 'lookup default' || true
         ip -6 rule | grep -v -e 'lookup local' -e 'lookup main' || true
         ip route show table 51832 2>/dev/null || true
         ip -6 route show table 51832 2>/dev/null || true")
}

#[test]
fn packets_go_by_the_leader_that_is_named_and_another_one_takes_over_and_nothing_is_left() {
    world(async |world: &World| {
        let [first, second] = &world.leaders[..] else {
            panic!("two leaders")
        };
        run("ip route add 10.244.0.0/16 via 172.30.1.2");
        let mesh = ["10.244.1.0/24", "10.244.9.0/24", "fd10::/64"];
        let mut machine = world.open().await;
        machine
            .set(world.wanted(first, &mesh), &BTreeSet::new())
            .await
            .unwrap();
        wait_until("the pod answers by the first leader", SOON, || pings(POD));
        assert!(first.received() > 0 && second.received() == 0);
        assert!(run("ip route get 10.244.1.1").contains("dev spanwire-peer table 51832 src 10.199.0.1"));
        let unreached = run("ip route get fd10::1 2>&1 || true");
        assert!(unreached.contains("No route to host"), "{unreached}");

        let moved = world.wanted(second, &mesh);
        machine.set(moved.clone(), &BTreeSet::new()).await.unwrap();
        wait_until("the pod answers by the second leader", SOON, || pings(POD));
        assert!(second.received() > 0);
        let before = first.received();
        assert!(
            pings(POD) && first.received() == before,
            "the first one is not used any more"
        );
        let counters = machine.counters().await.unwrap();
        assert_eq!(counters.len(), 1);
        assert!(
            counters[0].0 == second.key && counters[0].1.handshake.is_some() && counters[0].1.received > 0
        );

        // Revoked: the other end alone decides.
        second.forget(&world.pair.public);
        assert!(!pings(POD));

        machine.close().await.unwrap();
        assert_eq!(traces(), "");
        let other = run("ip route show 10.244.0.0/16");
        assert!(
            other.contains("via 172.30.1.2"),
            "the route of another program is gone: {other}"
        );
    });
}

#[test]
fn a_leader_that_learns_of_this_machine_too_late_is_asked_again_at_once() {
    world(async |world: &World| {
        let leader = &world.leaders[0];
        leader.forget(&world.pair.public);
        let wanted = world.wanted(leader, &["10.244.1.0/24"]);
        let mut machine = world.open().await;
        machine.set(wanted.clone(), &BTreeSet::new()).await.unwrap();
        assert!(!pings(POD));
        leader.know(&world.pair.public);
        machine.begin_again(&wanted, leader.key).await.unwrap();
        // WireGuard itself would repeat its initiation after 5 s.
        let took = wait_until("the pod answers", SOON, || pings(POD));
        assert!(took < Duration::from_millis(1500), "{took:?}");
        machine.close().await.unwrap();
    });
}

#[test]
fn a_killed_one_leaves_nothing_open_and_the_next_start_removes_what_it_left() {
    world(async |world: &World| {
        let leader = &world.leaders[0];
        // Without the mesh the address has another way.
        run("ip route add 10.244.0.0/16 via 172.30.1.2");
        let mut machine = world.open().await;
        machine
            .set(world.wanted(leader, &["10.244.1.0/24"]), &BTreeSet::new())
            .await
            .unwrap();
        wait_until("the pod answers", SOON, || pings(POD));
        // As the kernel does it when the process is killed: descriptors are closed, and the child gets its signal.
        drop(machine);
        if by_kernel() {
            let before = leader.received();
            assert!(pings(POD), "the kernel's WireGuard goes on");
            assert!(leader.received() > before, "it goes in the open");
            leader.forget(&world.pair.public);
            assert!(!pings(POD), "it is revoked at the other end");
            leader.know(&world.pair.public);
        } else {
            wait_until("the device goes with its process", SOON, || {
                !run("ip -o link show").contains("spanwire-peer")
            });
            assert!(!pings(POD), "it goes in the open");
        }
        let left = traces();
        assert!(left.contains("unreachable 10.244.1.0/24"), "{left}");

        let mut next = world.open().await;
        assert!(next.clean().await.unwrap(), "it found nothing");
        assert_eq!(traces(), "");
        assert!(!next.clean().await.unwrap());
        assert!(pings(POD), "without the mesh it has the way that it had before");
        next.close().await.unwrap();
    });
}

#[test]
fn a_leader_whose_own_address_is_in_the_mesh_is_reached_past_it_and_asked_for_by_it() {
    world(async |world: &World| {
        let leader = &world.leaders[0];
        // The strictest setting there is: an answer has to come from where a packet to its sender would go.
        run("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $file; done");
        let inside = format!("{}/32", leader.address);
        let mut machine = world.open().await;
        let wanted = world.wanted(leader, &["10.244.1.0/24", &inside]);
        machine.set(wanted, &BTreeSet::new()).await.unwrap();
        wait_until("the pod answers", SOON, || pings(POD));
        let before = leader.received();
        assert!(pings(&leader.address));
        assert!(
            leader.received() >= before + 100,
            "its address is reached in the open"
        );
        machine.close().await.unwrap();
        assert_eq!(traces(), "");
    });
}

#[test]
fn the_process_of_a_killed_run_that_is_still_ending_is_waited_for() {
    world(async |world: &World| {
        world.open().await.close().await.unwrap();
        let folders = std::fs::read_dir(world.folder.path()).unwrap();
        let mut folders = folders.map(|entry| entry.unwrap().path());
        let folder = folders.find(|path| path.join("lock").exists()).unwrap();
        let control = folder.join("control.sock");
        let _gone = std::fs::remove_file(&control);
        let ending = UnixListener::bind(&control).unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            drop(ending);
        });
        let mut machine = world.open().await;
        let wanted = world.wanted(&world.leaders[0], &["10.244.1.0/24"]);
        machine.set(wanted, &BTreeSet::new()).await.unwrap();
        wait_until("the pod answers", SOON, || pings(POD));
        machine.close().await.unwrap();
    });
}

#[test]
fn a_device_that_another_program_removes_and_a_process_that_ends_come_again() {
    world(async |world: &World| {
        let leader = &world.leaders[0];
        let wanted = world.wanted(leader, &["10.244.1.0/24"]);
        let mut machine = world.open().await;
        machine.set(wanted.clone(), &BTreeSet::new()).await.unwrap();
        wait_until("the pod answers", SOON, || pings(POD));
        assert!(!machine.revive().await.unwrap());
        run(&format!("ip link delete {}", Owned::of_peer().link));
        // The device's thread ends a moment after the device.
        for _ in 0..50 {
            if machine.set(wanted.clone(), &BTreeSet::new()).await.is_ok() && pings(POD) {
                break;
            }
        }
        assert!(pings(POD));
        if by_kernel() {
            // There is no process.
            machine.close().await.unwrap();
            assert_eq!(traces(), "");
            return;
        }

        let control = run("grep -lz end-with /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 || true");
        let folder = world.folder.path().display().to_string();
        let ours = control.lines().filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&folder)
        });
        let ours: Vec<&str> = ours.collect();
        run(&format!("kill -9 {}", ours.join(" ")));
        wait_until("the device goes", SOON, || {
            !run("ip -o link show").contains("spanwire-peer")
        });
        // The kernel takes the device away a moment before the process is known to have ended.
        let mut revived = false;
        for _ in 0..200 {
            revived = revived || machine.revive().await.unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(revived);
        machine.set(wanted, &BTreeSet::new()).await.unwrap();
        wait_until("the pod answers again", SOON, || pings(POD));
        machine.close().await.unwrap();
    });
}

#[test]
fn a_node_of_a_mesh_is_refused_and_so_is_a_second_one() {
    world(async |world: &World| {
        let first = world.open().await;
        let open = async || {
            let opened = world.try_open().await;
            format!("{:#}", opened.err().unwrap())
        };
        let said = open().await;
        assert!(said.contains("runs on this machine already"), "{said}");
        drop(first);
        run("ip link add spanwire0 type veth peer name other; ip link set spanwire0 up");
        let said = open().await;
        assert!(said.contains("is a node of a mesh"), "{said}");
    });
}
