//! Handshakes in numbers, while an honest peer works.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use boringtun::noise::{Tunn, TunnResult};
use spanwire_tunnel::key::{PrivateKey, PublicKey};

use crate::{
    traffic::{Until, transfer_for},
    world::{Engine, Side, World, wait_for},
};

/// So many of each kind a second: three times what is worked on.
const PER_SECOND: u128 = 1500;
/// What is sent in one go, when this machine was busy elsewhere.
const VOLLEY: u128 = 150;

#[test]
fn streams_go_on_under_a_flood_of_handshakes_and_a_peer_that_restarts_gets_in() {
    let World { a, b } = &World::joined(Engine::WireguardGo, Engine::Ours, false);
    assert!(a.pings(b.inner[0], 2));
    let done = AtomicBool::new(false);
    let time = Duration::from_secs(8);
    thread::scope(|scope| {
        let until = Until(&done);
        let flood = scope.spawn(|| flood(a, b, &done));
        let streams = [
            scope.spawn(|| transfer_for(time, a, b, b.inner[0], 20)),
            scope.spawn(|| transfer_for(time, b, a, a.inner[1], 20)),
        ];
        thread::sleep(Duration::from_secs(1));
        // It forgets its session, and has to prove its address for another one.
        a.wg(&["peer", &b.public, "remove"]);
        a.know(b, Some(b.outer[0]));
        wait_for("a handshake through the flood", || a.last_handshake() > 0);
        let came: Vec<_> = streams.into_iter().map(thread::ScopedJoinHandle::join).collect();
        drop(until);
        let cookies = flood.join().unwrap();
        for stream in came {
            stream.unwrap();
        }
        assert!(cookies > 0, "the flood is no load");
    });
}

/// Sends initiations of a stranger, and what only looks like some, until `done`; returns how many cookies came back.
fn flood(from: &Side, to: &Side, done: &AtomicBool) -> usize {
    let at = SocketAddr::new(to.outer[0], 51820);
    let socket = from.namespace.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_nonblocking(true).unwrap();
    let key: [u8; 32] = STANDARD.decode(&to.public).unwrap().try_into().unwrap();
    let stranger = PrivateKey::from([99; 32]).to_x25519();
    let mut tunn = Tunn::new(stranger, PublicKey(key).to_x25519(), None, None, 7, None);
    let mut initiation = [0; 148];
    let made = tunn.format_handshake_initiation(&mut initiation, true);
    assert!(matches!(made, TunnResult::WriteToNetwork(_)));
    let (mut random, mut cookies, mut answer) = (initiation, 0, [0; 256]);
    let (start, mut sent) = (Instant::now(), 0);
    while !done.load(Ordering::Relaxed) {
        let due = start.elapsed().as_millis() * PER_SECOND / 1000;
        for number in sent.max(due.saturating_sub(VOLLEY))..due {
            // A full queue is no loss.
            let _ = socket.send_to(&initiation, at);
            random[8..24].copy_from_slice(&number.to_be_bytes());
            let _ = socket.send_to(&random, at);
        }
        sent = due;
        while let Ok((length, _)) = socket.recv_from(&mut answer) {
            assert_eq!((length, answer[0]), (64, 3), "a stranger is answered");
            cookies += 1;
        }
        thread::sleep(Duration::from_millis(10));
    }
    cookies
}
