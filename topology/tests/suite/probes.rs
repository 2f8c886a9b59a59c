//! What nodes watch.

use spanwire_topology::{Behind, Far, Probes, Reachability, plan, scenario::World};

/// Two active leaders of four nodes in paris, a leader and a standby one of two in rome, berlin not established with paris.
const MESH: &str = "overlay 10.4.0.0/16
    location paris active=2 standby=1
    node a1 region=paris addresses=192.168.1.1 pods=10.244.1.0/24 key=1 up=rome leader=true
    node a2 region=paris addresses=192.168.1.2 pods=10.244.2.0/24 key=2 up=rome leader=true
    node a3 region=paris addresses=192.168.1.3 pods=10.244.3.0/24 key=3
    node a4 region=paris addresses=192.168.1.4 pods=10.244.4.0/24 key=4 leader=false
    node a5 region=paris addresses=192.168.1.5 pods=10.244.5.0/24 key=5 leader=false
    node b1 region=rome addresses=192.168.2.1 pods=10.244.6.0/24 key=6 up=paris leader=true
    node b2 region=rome addresses=192.168.2.2 pods=10.244.7.0/24 key=7 up=paris
    node c1 region=berlin addresses=192.168.3.1 pods=10.244.8.0/24 key=8
    decide";

fn probes(of: &str) -> Probes {
    let mut world = World::default();
    MESH.lines().for_each(|line| drop(world.line(line).unwrap()));
    plan(&world.mesh, &of.parse().unwrap(), &Reachability::default()).probes
}

fn far(far: &[Far]) -> Vec<String> {
    far.iter()
        .map(|far| format!("{}/{}", far.location, far.node))
        .collect()
}

fn behind(behind: &[Behind]) -> Vec<String> {
    let members = |behind: &Behind| {
        behind
            .members
            .iter()
            .map(|(node, _)| format!(" {node}"))
            .collect()
    };
    let line = |behind: &Behind| {
        let members: String = members(behind);
        format!("{}/{}:{members}", behind.location, behind.leader)
    };
    behind.iter().map(line).collect()
}

#[test]
fn a_leader_watches_all_remote_leaders_its_siblings_and_members_behind_the_leaders_in_use() {
    let probes = probes("b1");
    assert_eq!(
        far(&probes.far),
        ["berlin/c1", "paris/a1", "paris/a2", "paris/a3"]
    );
    assert_eq!(probes.far[1].overlay.len(), 1);
    assert_eq!(probes.hops.len(), 1);
    assert_eq!(probes.hops[0].node.as_str(), "b2");
    assert_eq!(*probes.hops[0].addresses, ["192.168.2.2".parse().unwrap()].into());
    assert_eq!(far(&probes.through), ["paris/a1", "paris/a2"]);
    // Each of a4 and a5 behind the one that carries it; who carries none but a standby leader is asked for that.
    let mut world = World::default();
    MESH.lines().for_each(|line| drop(world.line(line).unwrap()));
    let paris = &world.mesh.locations[&"paris".parse().unwrap()];
    let carries = |leader: &str| {
        let carried = |node: &&str| {
            spanwire_topology::carrier(paris, &node.parse().unwrap()).is_some_and(|by| by.as_str() == leader)
        };
        let plain: Vec<&str> = ["a4", "a5"].into_iter().filter(carried).collect();
        let standby = ["a3"].into_iter().filter(carried).collect();
        if plain.is_empty() { standby } else { plain }
    };
    for asked in &probes.behind {
        let mut members: Vec<&str> = asked.members.iter().map(|(node, _)| node.as_str()).collect();
        members.sort_unstable();
        assert_eq!(members, carries(asked.leader.as_str()), "{}", asked.leader);
    }
    let asked: usize = probes.behind.iter().map(|asked| asked.members.len()).sum();
    assert!(asked >= 2, "{:?}", behind(&probes.behind));
}

#[test]
fn behind_a_leader_without_followers_the_standby_leaders_are_asked() {
    assert_eq!(behind(&probes("a1").behind), ["rome/b1: b2"]);
}

#[test]
fn a_follower_watches_its_leaders_and_what_is_behind_them() {
    let probes = probes("a4");
    assert!(probes.far.is_empty() && probes.behind.is_empty());
    let hops: Vec<&str> = probes.hops.iter().map(|near| near.node.as_str()).collect();
    assert_eq!(hops, ["a1", "a2", "a3"]);
    assert_eq!(far(&probes.through), ["rome/b1", "rome/b2"]);
}

#[test]
fn where_there_is_no_other_leader_nothing_is_asked_through_it() {
    let probes = probes("c1");
    assert!(probes.hops.is_empty() && probes.through.is_empty() && probes.behind.is_empty());
    assert_eq!(probes.far.len(), 5);
}

#[test]
fn where_every_node_leads_itself_nothing_is_watched_neither_there_nor_of_there() {
    let mut world = World::default();
    let nodes = MESH.replace("active=2 standby=1", "mode=nodes");
    nodes.lines().for_each(|line| drop(world.line(line).unwrap()));
    let probes = |of: &str| plan(&world.mesh, &of.parse().unwrap(), &Reachability::default()).probes;
    assert_eq!(probes("a1"), Probes::default());
    let seen = probes("b2");
    assert_eq!(far(&seen.far), ["berlin/c1"]);
    assert!(seen.behind.is_empty());
    assert_eq!(
        far(&seen.through),
        ["paris/a1", "paris/a2"],
        "its leader is used towards them"
    );
}
