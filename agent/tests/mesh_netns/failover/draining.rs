//! A leader whose tunnel process is asked to end.

use std::time::Duration;

use spanwire_testbed::wait_until;

use super::{SECOND, WAYS, gaps, world};
use crate::wireguard::{Backend, backend};

/// What pods may miss. A leader that does not answer any more is missed by all for longer than this.
const SHORT: Duration = Duration::from_millis(250);

#[test]
fn before_the_tunnel_process_of_a_leader_ends_everyone_has_turned_to_the_one_beside_it() {
    if backend() == Backend::Kernel {
        return;
    }
    let mut world = world();
    let ways = [WAYS[0], WAYS[1], ("a1", "10.244.4.2"), ("b2", "10.244.1.2")];
    let gaps = gaps(&mut world, "a1's tunnel process is stopped", &ways, |world| {
        world.node("a1").stop_tunnel();
    });
    for (way, gap) in ways.iter().zip(gaps) {
        assert!(gap < SHORT, "{way:?} missed {gap:?}");
    }
    let log = world.node("b1").agent_log();
    assert!(log.contains("says that its tunnels are about to end"), "{log}");
    world.node("a1").start_tunnel();
    let own = "ip route show table 51830 | grep -q '^10.244.4.0/24 dev spanwire0'";
    wait_until("a1's own tunnel in use", 20 * SECOND, || {
        world.node("a1").host.try_run(own).status.success()
    });
    // What comes through it is asked again.
    let asked = "ip route show table 51831 | grep -q '^blackhole 10.4.0.3'";
    assert!(!world.node("a1").host.try_run(asked).status.success());
}
