//! Interfaces that stay when their process ends.

use std::fs;

use nix::sys::signal::Signal;

use crate::{
    handover::{decorate, has_link, link_facts, spawn, upgrade},
    traffic::transfer,
    world::{Engine, OURS, World, ends, terminate, wait_for},
};

#[test]
fn a_kept_interface_waits_for_the_next_process_however_the_first_one_ends() {
    let mut world = World::joined(Engine::Ours, Engine::Ours, false);
    let World { a, b } = &mut world;
    decorate(a);
    upgrade(a, &["--keep"]);
    let facts = link_facts(a);
    let ends = [
        (Signal::SIGTERM, &["--keep"][..]),
        (Signal::SIGKILL, &["--keep", "--no-offload"]),
        (Signal::SIGINT, &["--keep", "--take-over"]),
        (Signal::SIGKILL, &[]),
    ];
    for (signal, options) in ends {
        terminate(a.process.as_mut().unwrap(), signal);
        assert!(has_link(a), "{signal} removes it");
        assert_eq!(a.socket().exists(), signal == Signal::SIGKILL);
        assert!(!a.reaches(b.inner[0]), "packets go on without a tunnel");
        let open = a.run(&["ip", "route", "get", &b.inner[0].to_string()]);
        assert!(open.contains(&a.device), "packets leave in the open: {open}");
        a.process = Some(spawn(a, options));
        wait_for("the next process", || {
            a.try_run(&["wg", "show", &a.device]).status.success()
        });
        assert_eq!(link_facts(a), facts);
        a.wg_with_stdin(&["listen-port", "51820", "private-key", "/dev/stdin"], &a.private);
        a.know(b, Some(b.outer[0]));
        assert!(a.pings(b.inner[0], 3));
        transfer(a, b, b.inner[0], 2);
        transfer(b, a, a.inner[0], 2);
    }
    // The last one had no `--keep`.
    assert!(terminate(a.process.as_mut().unwrap(), Signal::SIGTERM));
    assert!(!has_link(a));
}

#[test]
fn a_kept_interface_goes_with_its_socket() {
    let mut world = World::new(Engine::Ours, Engine::Ours);
    let a = &mut world.a;
    upgrade(a, &["--keep"]);
    fs::remove_file(a.socket()).unwrap();
    assert!(ends(a.process.as_mut().unwrap()));
    assert!(!has_link(a));
}

#[test]
fn a_kept_interface_serves_more_or_fewer_threads_than_it_was_made_for() {
    let mut world = World::joined(Engine::Ours, Engine::Ours, false);
    let World { a, b } = &mut world;
    for (made, next) in [("1", "3"), ("3", "1")] {
        a.crash();
        a.run(&["ip", "tuntap", "del", "dev", &a.device, "mode", "tun"]);
        for threads in [made, next] {
            a.crash();
            a.process = Some(spawn(a, &["--keep", "--threads", threads]));
            wait_for("the device", || {
                a.try_run(&["wg", "show", &a.device]).status.success()
            });
            if threads == made {
                a.dress();
            } else {
                a.wg_with_stdin(&["listen-port", "51820", "private-key", "/dev/stdin"], &a.private);
            }
            a.know(b, Some(b.outer[0]));
            wait_for("the tunnel", || a.reaches(b.inner[0]));
            transfer(a, b, b.inner[0], 2);
            transfer(b, a, a.inner[1], 2);
        }
        let log = std::fs::read_to_string(a.log.path()).unwrap();
        assert!(log.contains("going on with the interface that was kept"), "{log}");
        // A socket that replaced a dead one is made again for some seconds.
        wait_for("the interface to go with the socket", || {
            a.run(&["rm", "-f", a.socket().to_str().unwrap()]);
            !a.try_run(&["ip", "link", "show", "dev", &a.device])
                .status
                .success()
        });
    }
}

#[test]
fn interfaces_of_others_and_held_ones_are_not_taken() {
    let mut world = World::joined(Engine::Ours, Engine::Ours, false);
    let World { a, b } = &mut world;
    upgrade(a, &["--keep"]);
    let second = a.try_run(&[OURS, "--socket-dir", "/tmp", &a.device]);
    let words = String::from_utf8(second.stderr).unwrap();
    assert!(
        !second.status.success() && words.contains("is the name taken"),
        "{words}"
    );
    assert!(a.pings(b.inner[0], 3));

    let foreign = format!("{}f", a.device);
    a.run(&["ip", "tuntap", "add", "dev", &foreign, "mode", "tun"]);
    let refused = a.try_run(&[OURS, &foreign]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && words.contains("is the name taken"),
        "{words}"
    );
    assert!(a.run(&["ip", "link", "show", "dev", &foreign]).contains(&foreign));
}
