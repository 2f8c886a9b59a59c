//! How a device comes and goes.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Child, Stdio},
};

use nix::sys::signal::Signal;

use crate::world::{Engine, OURS, Side, World, ends, other, terminate, wait_for};

fn alone() -> World {
    World::new(Engine::Ours, Engine::Ours)
}

fn has_link(side: &Side) -> bool {
    side.try_run(&["ip", "link", "show", "dev", &side.device])
        .status
        .success()
}

fn process(side: &mut Side) -> &mut Child {
    side.process.as_mut().expect("it was started")
}

#[test]
fn a_signal_ends_it_and_takes_device_and_socket_along() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut world = alone();
        assert!(has_link(&world.a) && world.a.socket().exists());
        assert!(
            terminate(process(&mut world.a), signal),
            "it ends badly after {signal}"
        );
        assert!(
            !has_link(&world.a) && !world.a.socket().exists(),
            "{signal} leaves something"
        );
    }
}

#[test]
fn a_removed_socket_ends_it() {
    let mut world = alone();
    fs::remove_file(world.a.socket()).unwrap();
    assert!(ends(process(&mut world.a)));
    assert!(!has_link(&world.a));
}

#[test]
fn a_removed_device_ends_it() {
    let mut world = alone();
    world.a.run(&["ip", "link", "del", &world.a.device]);
    assert!(ends(process(&mut world.a)));
    assert!(!world.a.socket().exists());
}

#[test]
fn a_killed_one_leaves_nothing_that_stops_the_next() {
    let mut world = alone();
    world.a.crash();
    assert!(
        world.a.socket().exists(),
        "a killed process cannot have removed its socket"
    );
    wait_for("the kernel to remove the device", || !has_link(&world.a));
    world.a.start();
    world.a.dress();
}

#[test]
fn a_socket_that_wg_removes_in_place_of_the_dead_one_is_made_again() {
    let mut world = alone();
    world.a.crash();
    let inode = |side: &Side| fs::symlink_metadata(side.socket()).map(|meta| meta.ino()).ok();
    let dead = inode(&world.a);
    world.a.spawn();
    wait_for("the dead socket to be replaced", || inode(&world.a) != dead);
    // What `wg` does that found no process at the dead socket a moment before the new one took its place.
    fs::remove_file(world.a.socket()).unwrap();
    wait_for("the socket to be there again", || world.a.socket().exists());
    assert!(
        world
            .a
            .run(&["wg", "show", &world.a.device])
            .contains("interface")
    );
    // The mistake is forgiven for a while and no longer.
    wait_for("a removed socket to end it", || {
        let _ = fs::remove_file(world.a.socket());
        process(&mut world.a).try_wait().unwrap().is_some()
    });
}

#[test]
fn a_second_one_of_the_same_name_is_refused_and_the_first_goes_on() {
    let world = World::joined(Engine::Ours, other(), false);
    assert!(world.a.pings(world.b.inner[0], 1));
    let second = world.a.try_run(&[OURS, &world.a.device]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("cannot make the interface"),
        "{said}"
    );
    assert!(world.a.socket().exists() && world.a.pings(world.b.inner[0], 1));
}

#[test]
fn a_name_no_interface_can_have_is_refused() {
    let world = alone();
    for name in ["", "sixteen-letters-", "a/b", "wg%s", "wg%", "wg%d%d", "a b"] {
        let refused = world.a.try_run(&[OURS, name]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("no interface can be called"),
            "{name}: {said}"
        );
    }
}

#[test]
fn the_socket_is_for_root_alone() {
    let world = alone();
    let mode = fs::metadata(world.a.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn down_closes_the_port_and_up_opens_it_again() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    assert!(a.pings(b.inner[0], 1));
    let listens = || a.run(&["ss", "-uln"]).contains(":51820");
    assert!(listens());
    a.run(&["ip", "link", "set", &a.device, "down"]);
    wait_for("the port to close", || !listens());
    a.run(&["ip", "link", "set", &a.device, "up"]);
    wait_for("the port to open", listens);
    wait_for("packets to flow again", || b.reaches(a.inner[0]));
}

#[test]
fn a_port_in_use_is_refused_and_the_old_one_kept() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let holder = a
        .namespace
        .inside(|| std::net::UdpSocket::bind("0.0.0.0:4000").unwrap());
    let refused = a.try_run(&["wg", "set", &a.device, "listen-port", "4000"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("Address already in use"),
        "{said}"
    );
    assert!(a.pings(b.inner[0], 2));
    assert_eq!(a.run(&["wg", "show", &a.device, "listen-port"]).trim(), "51820");
    drop(holder);
    a.wg(&["listen-port", "0"]);
    assert_ne!(a.run(&["wg", "show", &a.device, "listen-port"]).trim(), "51820");
    assert!(a.pings(b.inner[0], 2));
}

#[test]
fn a_port_in_use_is_refused_while_the_interface_is_down_and_while_nothing_listens() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let hold = |port: u16| {
        a.namespace
            .inside(move || std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap())
    };
    let set = |port: &str| {
        let set = a.try_run(&["wg", "set", &a.device, "listen-port", port]);
        (
            set.status.success(),
            String::from_utf8_lossy(&set.stderr).into_owned(),
        )
    };
    let refused = |port: &str| {
        let (done, said) = set(port);
        assert!(!done && said.contains("Address already in use"), "{said}");
    };
    a.run(&["ip", "link", "set", &a.device, "down"]);
    wait_for("the port to close", || !a.run(&["ss", "-uln"]).contains(":51820"));
    let holders = [hold(4000), hold(51820)];
    refused("4000");
    assert_eq!(a.run(&["wg", "show", &a.device, "listen-port"]).trim(), "51820");
    // What was its port is taken when it comes up.
    a.run(&["ip", "link", "set", &a.device, "up"]);
    let complaints = || fs::read_to_string(a.log.path()).unwrap().matches("ERROR").count();
    wait_for("the device to complain", || complaints() > 0);
    refused("51820");
    refused("4000");
    drop(holders);
    assert_eq!(set("4001"), (true, String::new()));
    assert!(a.pings(b.inner[0], 2), "it listens at once");
    // That its port was taken is logged as an error, and is none of this test.
    let log = fs::read_to_string(a.log.path()).unwrap();
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
    fs::write(a.log.path(), "").unwrap();
}

#[test]
fn a_mark_is_on_what_is_sent_until_it_is_taken_off() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    for rule in [
        "add table t",
        "add chain t o { type filter hook output priority 0; }",
    ] {
        a.run(&[&["nft"], rule.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }
    a.run(&["nft", "add rule t o udp dport 51820 meta mark 0x2000 counter"]);
    let marked = || {
        let chain = a.run(&["nft", "list", "chain", "t", "o"]);
        let count = chain
            .split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        count
            .and_then(|count| count.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("no counter in {chain}"))
    };
    // One by one: what is sent in one call is counted once.
    let ping = || (0..3).all(|_| a.pings(b.inner[0], 1));
    assert!(ping());
    assert_eq!(marked(), 0);
    a.wg(&["fwmark", "0x2000"]);
    assert!(ping());
    let before = marked();
    assert!(before >= 3);
    a.wg(&["listen-port", "4001"]);
    assert!(ping());
    assert!(marked() >= before + 3, "a new socket forgets the mark");
    a.wg(&["fwmark", "off"]);
    let before = marked();
    assert!(ping());
    assert_eq!(marked(), before);
}

#[test]
fn it_stays_small_under_load() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    crate::traffic::transfer(&world.a, &world.b, world.b.inner[0], 50);
    for side in [&world.a, &world.b] {
        let kilobytes = side.peak();
        assert!(kilobytes < 16 * 1024, "{kilobytes} kB at peak");
    }
}

#[test]
fn it_says_nothing_on_stdout() {
    let mut world = alone();
    let name = format!("{}x", world.a.device);
    let mut child = world
        .a
        .command(&[OURS, "-f", &name])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    wait_for("the device", || {
        world.a.try_run(&["wg", "show", &name]).status.success()
    });
    assert!(terminate(&mut child, Signal::SIGTERM));
    assert!(child.wait_with_output().unwrap().stdout.is_empty());
    world.a.crash();
}
