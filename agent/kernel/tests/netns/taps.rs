//! Packets that are looked at on a device.

use std::{process::Child, thread, time::Duration};

use spanwire_kernel::Tap;
use spanwire_testbed::{Namespace, command, isolated, wait_until};

use crate::lab::{link, run};

type Instruction = (u16, u8, u8, u32);

const ALL: [Instruction; 1] = [(0x06, 0, 0, 64)];

/// ICMP of IPv4 alone, by the header of IP wherever it is.
const ICMP: [Instruction; 4] = [
    (0x30, 0, 0, 0xfff0_0009),
    (0x15, 0, 1, 1),
    (0x06, 0, 0, 64),
    (0x06, 0, 0, 0),
];

/// This machine with `near`, and another one with `far`.
fn neighbour() -> Namespace {
    let far = Namespace::new();
    run(&format!(
        "ip link add near type veth peer name far netns {}
         ip address add 192.0.2.1/24 dev near
         ip link set near up",
        far.pid()
    ));
    far.run(
        "ip address add 192.0.2.2/24 dev far
         ip link set far up",
    );
    far
}

/// A process that ends with the test, however it ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn ping(count: u32, more: &str) {
    run(&format!("ping -q -c {count} -i 0.002 -W 2 {more} 192.0.2.2"));
}

/// Takes what is there: how many leave, how many come, and the last of their bytes.
fn taken(tap: &mut Tap) -> (usize, usize, Vec<u8>) {
    let (mut out, mut come, mut last) = (0, 0, Vec::new());
    let mut buffer = [0; 256];
    while let Some((length, outgoing)) = tap.take(&mut buffer).unwrap() {
        *(if outgoing { &mut out } else { &mut come }) += 1;
        last = buffer[..length].to_vec();
    }
    (out, come, last)
}

#[test]
fn what_leaves_and_what_comes_is_seen_as_far_as_the_filter_lets_it_through() {
    isolated(|| {
        let _far = neighbour();
        ping(1, "");
        let mut all = Tap::open(&link("near"), &ALL).unwrap();
        let mut icmp = Tap::open(&link("near"), &ICMP).unwrap();
        let mut loopback = Tap::open(&link("lo"), &ALL).unwrap();
        ping(5, "-s 500");
        let (out, come, last) = taken(&mut icmp);
        assert_eq!((out, come, icmp.is_ethernet()), (5, 5, true));
        assert_eq!((last.len(), &last[12..15]), (64, &[8, 0, 0x45][..]), "{last:?}");
        run("echo x | socat -u - UDP:192.0.2.2:9");
        assert!(taken(&mut all).0 > 5, "and the datagram");
        assert_eq!(taken(&mut icmp).0, 0);
        assert_eq!(taken(&mut loopback).0, 0, "another device");
        assert_eq!((all.missed().unwrap(), icmp.missed().unwrap()), (0, 0));
    });
}

#[test]
fn what_there_is_no_room_for_is_known() {
    isolated(|| {
        let _far = neighbour();
        ping(1, "");
        let mut tap = Tap::open(&link("near"), &ICMP).unwrap();
        run("ping -q -f -c 5000 -W 2 192.0.2.2");
        tap.stop().unwrap();
        ping(3, "");
        let missed = tap.missed().unwrap();
        assert!(missed >= 10_000, "none is taken yet: {missed}");
        let (out, come, _) = taken(&mut tap);
        let still = tap.missed().unwrap();
        assert_eq!(u64::try_from(out + come).unwrap() + still, missed);
        assert!(out > 100 && still > 0, "the buffer is bounded: {out} {still}");
    });
}

#[test]
fn a_device_without_ethernet_shows_packets_from_their_ip_header_on() {
    isolated(|| {
        let _socat = Ended(
            command("socat")
                .args([
                    "-u",
                    "TUN:198.51.100.1/24,up,iff-no-pi,tun-name=wrap",
                    "OPEN:/dev/null",
                ])
                .spawn()
                .unwrap(),
        );
        let is_up = || run("ip -brief link show up").contains("wrap");
        wait_until("the device", Duration::from_secs(5), is_up);
        let mut tap = Tap::open(&link("wrap"), &ICMP).unwrap();
        run("ping -q -c 1 -W 1 198.51.100.2 || true");
        let (out, come, last) = taken(&mut tap);
        assert_eq!((out, come, tap.is_ethernet()), (1, 0, false));
        assert_eq!((last[0], last[9]), (0x45, 1), "{last:?}");
    });
}

#[test]
fn a_device_that_is_not_there_or_goes_is_an_error() {
    isolated(|| {
        let error = Tap::open(&link("none"), &ALL).unwrap_err();
        assert_eq!(error.to_string(), "the packets of none cannot be looked at");
        let _far = neighbour();
        let mut tap = Tap::open(&link("near"), &ALL).unwrap();
        run("ip link delete near");
        thread::sleep(Duration::from_millis(50));
        let gone = || loop {
            match tap.take(&mut [0; 64]) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        };
        assert!({ gone }());
    });
}
