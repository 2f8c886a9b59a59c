//! A leader that fails: its agent says nothing, and no publication names another one.

mod advice;
mod draining;

use std::{
    thread,
    time::{Duration, Instant},
};

use spanwire_testbed::{Family, Ping, lan, wait_until};

use crate::{
    wireguard::{Backend, backend},
    world::World,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Long beside what it takes, also on a machine that is busy with other tests.
pub(crate) const LATE: Duration = Duration::from_secs(3);

/// What pods may miss. With the kernel's WireGuard a source belongs to one leader: while one side takes another way already, or
/// still, and the other side does not, what comes by it is lost.
fn late() -> Duration {
    if backend() == Backend::Kernel {
        2 * LATE
    } else {
        LATE
    }
}

/// From where to where: pods beside standby leaders, which others carry, and those of the other side's active leader.
pub(crate) const WAYS: [(&str, &str); 2] = [("a2", "10.244.4.2"), ("b2", "10.244.2.2")];

/// Two locations with a standby leader each, in which all is well and has been for a while.
pub(crate) fn world() -> World {
    let mut world = World::with_standby_leaders();
    world.wait_for_pods();
    for (from, to) in [
        ("a1", "10.4.0.3"),
        ("a1", "10.4.0.4"),
        ("a2", "10.4.0.3"),
        ("a2", "10.4.0.4"),
    ] {
        wait_until("tunnels between all leaders", 20 * SECOND, || {
            let own = world.node(from).host.run("ip -o -4 address show dev spanwire0");
            let own = own
                .split_whitespace()
                .nth(3)
                .unwrap()
                .trim_end_matches("/32")
                .to_owned();
            let ping = format!("ping -c 1 -W 1 -I {own} {to}");
            world.node(from).host.try_run(&ping).status.success()
        });
    }
    // Only what has answered for a while is missed when it does not.
    thread::sleep(3 * SECOND);
    world
}

/// Does this while pods ping each other, who are not to miss much. At the end all is answered again.
pub(crate) fn missed(
    world: &mut World,
    what: &str,
    ways: &[(&'static str, &'static str)],
    fault: impl FnOnce(&mut World),
) {
    let gaps = gaps(world, what, ways, fault);
    for ((from, to), gap) in ways.iter().zip(gaps) {
        assert!(gap < late(), "{what}: {from} to {to} missed {gap:?}");
    }
}

/// Does this while pods ping each other, and returns how much of the time each missed. At the end all is answered again.
fn gaps(
    world: &mut World,
    what: &str,
    ways: &[(&'static str, &'static str)],
    fault: impl FnOnce(&mut World),
) -> Vec<Duration> {
    let begin = |(from, to): &(&'static str, &'static str)| (*from, *to, world.node(from).pod.start_ping(to));
    let pings: Vec<_> = ways.iter().map(begin).collect();
    let begun = Instant::now();
    thread::sleep(SECOND);
    fault(world);
    thread::sleep(2 * late());
    for (from, to) in ways {
        assert!(
            world.node(from).pod.pings(to),
            "{what}: {from} does not reach {to}"
        );
    }
    let gap = |(from, to, ping): (&str, &str, Ping)| {
        let (sent, returned) = ping.stop();
        let missed = sent - returned;
        // Where the machine is busy ping sends less often than it should.
        let gap = begun.elapsed() * missed / sent;
        eprintln!("{what}: {from} to {to} missed {missed} of {sent}, {gap:?}");
        gap
    };
    pings.into_iter().map(gap).collect()
}

/// Cuts what the leaders of two nodes send each other by the internet.
fn cut(world: &World, (one, other): (u8, u8)) {
    let [one, other] = [one, other].map(|number| lan(number, Family::V4));
    world.network.router.nft(&format!(
        "table inet cut {{
           chain forward {{
             type filter hook forward priority -10;
             ip saddr {one} ip daddr {other} drop
             ip saddr {other} ip daddr {one} drop
           }}
         }}"
    ));
}

#[test]
fn the_standby_leader_carries_when_the_active_one_loses_its_link_and_the_active_one_when_it_is_back() {
    let mut world = world();
    missed(&mut world, "a1 without its link", &WAYS, |world| {
        world.network.router.run("ip link set a1 down");
    });
    missed(&mut world, "a1 back", &WAYS, |world| {
        world.network.router.run("ip link set a1 up");
    });
    wait_until("the pods of a1", 20 * SECOND, || {
        world.node("b2").pod.pings("10.244.1.2")
    });
}

#[test]
fn two_leaders_that_cannot_reach_each_other_go_by_others() {
    let mut world = world();
    let ways = [WAYS[0], WAYS[1], ("a1", "10.244.3.2"), ("b1", "10.244.1.2")];
    missed(&mut world, "a1 cut off from b1", &ways, |world| {
        cut(world, (1, 3))
    });
    missed(&mut world, "the cut mended", &ways, |world| {
        world.network.router.run("nft delete table inet cut");
    });
}

#[test]
fn a_leader_that_is_cut_off_from_a_whole_location_relays_through_its_sibling() {
    let mut world = world();
    let ways = [WAYS[0], WAYS[1], ("a1", "10.244.3.2"), ("b1", "10.244.1.2")];
    missed(&mut world, "a1 cut off from b", &ways, |world| {
        world.network.router.nft(&format!(
            "table inet cut {{
               chain forward {{
                 type filter hook forward priority -10;
                 ip saddr {0} drop
                 ip daddr {0} drop
               }}
             }}",
            lan(1, Family::V4)
        ));
    });
    missed(&mut world, "the cut mended", &ways, |world| {
        world.network.router.run("nft delete table inet cut");
    });
}

/// Who sends there hears of it, as far as the kernel sends such errors: one host one in a second (`icmp_ratelimit`, icmp(7)). Leaders
/// with the kernel's WireGuard do not know: through the one beside them nothing ever answered.
#[test]
fn a_location_that_no_way_reaches_is_refused_and_reached_again_when_it_is_back() {
    let mut world = world();
    let refuses = |world: &mut World, from: &str| {
        let ping = world.node(from).pod.try_run("ping -c 1 -W 1 10.244.3.2");
        String::from_utf8_lossy(&ping.stdout).contains("Destination Host Unreachable")
    };
    let [b1, b2] = [3, 4].map(|number| lan(number, Family::V4));
    let begun = Instant::now();
    world.network.router.nft(&format!(
        "table inet cut {{
           chain forward {{
             type filter hook forward priority -10;
             ip saddr {{ {b1}, {b2} }} drop
             ip daddr {{ {b1}, {b2} }} drop
           }}
         }}"
    ));
    if backend() == Backend::Kernel {
        thread::sleep(LATE);
    } else {
        for from in ["a1", "a2"] {
            wait_until("an error for what is sent to b", 2 * LATE, || {
                refuses(&mut world, from)
            });
        }
        eprintln!("refused after {:?}", begun.elapsed());
    }
    let ways = [WAYS[0], WAYS[1], ("a1", "10.244.3.2")];
    if backend() == Backend::Kernel {
        // Each side has to find out by itself which way the other one takes.
        world.network.router.run("nft delete table inet cut");
        for (from, to) in ways {
            wait_until("all as before", 30 * SECOND, || world.node(from).pod.pings(to));
        }
        return;
    }
    missed(&mut world, "the cut mended", &ways, |world| {
        world.network.router.run("nft delete table inet cut");
    });
}

/// That pings of agents are not answered any more is no reason to refuse what others send. With the kernel's WireGuard it makes one
/// side take another way, and what comes by it is lost (docs/operations/failover.md).
#[test]
fn leaders_that_begin_to_drop_echo_requests_are_reached_all_the_same() {
    if backend() == Backend::Kernel {
        return;
    }
    let mut world = world();
    let ways = [WAYS[0], ("a1", "10.244.3.2")];
    missed(&mut world, "b answers agents no more", &ways, |world| {
        for leader in ["b1", "b2"] {
            world.node(leader).host.nft(
                "table inet filtered {
                   chain input {
                     type filter hook input priority 0;
                     meta l4proto icmp drop
                   }
                 }",
            );
        }
        wait_until("a1 to hear nothing of b", 2 * LATE, || {
            let log = world.node("a1").agent_log();
            log.contains("nothing answers from the location")
        });
    });
}

#[test]
fn a_leader_that_lives_and_does_not_forward_is_passed_by() {
    let mut world = world();
    missed(&mut world, "a1 forwards nothing", &WAYS, |world| {
        world.node("a1").host.nft(
            "table inet broken {
               chain out {
                 type filter hook postrouting priority 0;
                 iifname { \"flannel.1\", \"spanwire0\" } oifname { \"flannel.1\", \"spanwire0\" } drop
               }
             }",
        );
    });
    world.node("a1").host.run("nft delete table inet broken");
}

/// Its own pods go by the leader beside it meanwhile.
#[test]
fn a_leader_whose_tunnel_is_gone_is_passed_by_and_used_again_when_it_is_back() {
    let mut world = world();
    let ways = [WAYS[0], WAYS[1], ("a1", "10.244.4.2"), ("b2", "10.244.1.2")];
    missed(&mut world, "a1 without its tunnel", &ways, |world| {
        world.node("a1").kill_tunnel();
    });
    missed(&mut world, "the tunnel back", &ways, |world| {
        world.node("a1").start_tunnel();
    });
    let own = "ip route show table 51830 | grep -q '^10.244.4.0/24 dev spanwire0'";
    wait_until("a1's own tunnel in use", 20 * SECOND, || {
        world.node("a1").host.try_run(own).status.success()
    });
}

/// Such a process neither carries packets nor answers its agent, which does everything else all the same.
#[test]
fn a_leader_whose_tunnel_hangs_is_passed_by_and_its_own_pods_go_by_the_leader_beside_it() {
    if backend() == Backend::Kernel {
        return;
    }
    let mut world = world();
    let own = [("a1", "10.244.4.2"), ("b2", "10.244.1.2")];
    let index = |world: &mut World| {
        world
            .node("a1")
            .host
            .run("ip -o link show spanwire0 | cut -d: -f1")
    };
    let before = index(&mut world);
    missed(&mut world, "a1's tunnel hangs", &WAYS, |world| {
        world.node("a1").signal_tunnel("STOP");
        // Its agent waits 2 s for an answer first.
        for (from, to) in own {
            wait_until("the pods of a1 by a2", 3 * LATE, || {
                world.node(from).pod.pings(to)
            });
        }
    });
    let a1 = world.node("a1");
    a1.host.run("ip rule delete priority 2108");
    wait_until("the rule that was taken away", 20 * SECOND, || {
        a1.host.run("ip rule").contains("2108:")
    });
    wait_until("a condition that says why", 20 * SECOND, || {
        a1.agent_log().contains("its tunnel process is starting or hangs")
    });
    assert!(!a1.agent_log().contains("is taken by another program"));
    let ways = [WAYS[0], WAYS[1], own[0], own[1]];
    missed(&mut world, "a1's tunnel goes on", &ways, |world| {
        world.node("a1").signal_tunnel("CONT");
    });
    let own = "ip route show table 51830 | grep -q '^10.244.4.0/24 dev spanwire0'";
    wait_until("a1's own tunnel in use", 20 * SECOND, || {
        world.node("a1").host.try_run(own).status.success()
    });
    assert_eq!(index(&mut world), before, "its device was made again");
}

/// When it goes on it answers what its queues have kept, pings too. What was missed meanwhile says nothing of the path: with more loss
/// the next time would be noticed later.
#[test]
fn a_leader_whose_tunnel_hung_for_a_moment_is_not_taken_for_one_that_loses_packets() {
    if backend() == Backend::Kernel {
        return;
    }
    let mut world = world();
    for time in ["first", "second"] {
        missed(
            &mut world,
            &format!("a1's tunnel hangs, the {time} time"),
            &WAYS,
            |world| {
                world.node("a1").signal_tunnel("STOP");
                thread::sleep(3 * SECOND);
                world.node("a1").signal_tunnel("CONT");
            },
        );
        let links = world.node("b1").ask("/debug/links");
        let loss = loss_of(&links, "leader a1 of a:");
        eprintln!("after the {time} time b1 takes the loss of a1 for {loss} %");
        assert!(loss < 8.0, "{loss} %: {links}");
    }
}

/// The loss of something that is watched, in percent.
fn loss_of(links: &str, what: &str) -> f64 {
    let line = links.lines().find(|line| line.starts_with(what));
    let loss = line.and_then(|line| line.split("loss ").nth(1)?.split(' ').next()?.parse().ok());
    loss.unwrap_or_else(|| panic!("{what}: {links}"))
}
