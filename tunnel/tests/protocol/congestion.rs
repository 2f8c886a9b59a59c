//! Congestion marks through a device (RFC 6040); the table itself is tested in `ecn.rs`.

use std::time::Duration;

use spanwire_tunnel::offload::checksum;

use crate::{
    bench::{converse, packet, pair},
    sim,
};

const ECT_0: u8 = 2;
const CONGESTED: u8 = 3;

#[test]
fn a_mark_goes_outside_and_one_made_on_the_way_comes_inside() {
    let (mut a, mut b) = pair();
    let mut marked = packet("10.0.1.1", "10.0.2.1", 20);
    marked[1] = ECT_0;
    checksum::set_ipv4(&mut marked[..20]);
    a.emit(&marked);
    assert_eq!(a.kept.tos, ECT_0);
    let (_, mut datagram) = a.kept.sent.remove(0);
    b.device
        .handle_datagram(b.now, a.at, CONGESTED, &mut datagram, &mut b.kept);
    marked[1] = CONGESTED;
    checksum::set_ipv4(&mut marked[..20]);
    assert_eq!(b.delivered(), [marked]);
}

#[test]
fn a_mark_goes_outside_after_any_silence() {
    sim::freeze();
    let (mut a, mut b) = pair();
    let mut marked = packet("10.0.1.1", "10.0.2.1", 20);
    marked[1] = ECT_0;
    for milliseconds in [1, 249, 250, 3000, 60_000, 50_000] {
        a.wait(Duration::from_millis(milliseconds));
        b.wait(Duration::ZERO);
        a.kept.sent.clear();
        a.emit(&marked);
        assert_eq!(a.kept.tos, ECT_0, "after {milliseconds} ms");
        converse(&mut a, &mut b);
    }
}

#[test]
fn a_marked_packet_of_a_sender_that_knows_no_marks_is_dropped() {
    let (mut a, mut b) = pair();
    let mut plain = packet("10.0.1.1", "10.0.2.1", 20);
    plain[1] = 0;
    a.emit(&plain);
    assert_eq!(a.kept.tos, 0);
    let (_, mut datagram) = a.kept.sent.remove(0);
    b.device
        .handle_datagram(b.now, a.at, CONGESTED, &mut datagram, &mut b.kept);
    assert!(b.delivered().is_empty());
    assert_eq!(b.device.drops().congested, 1);
}

#[test]
fn the_dscp_shows_outside_only_where_it_may() {
    let (mut a, _) = pair();
    let mut packet = packet("10.0.1.1", "10.0.2.1", 20);
    packet[1] = 0xb8 | ECT_0;
    a.emit(&packet);
    assert_eq!(a.kept.tos, ECT_0);
    a.device.set_copy_dscp(true);
    a.emit(&packet);
    assert_eq!(a.kept.tos, 0xb8 | ECT_0);
}
