//! What is left of keys in memory that is used again.

use std::{
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

use spanwire_tunnel::{
    handover::{
        format::{Socket, Transfer, TransferredDevice},
        receiver::Offer,
    },
    listener::FileId,
    uapi::{
        Reply,
        server::{Lines, Over},
    },
};
use tempfile::TempDir;

use crate::sim;

const KEY: &[u8] = b"4a5b6c7d8e9f0a1b2c3d4e5f60718293";

/// Many times the key, in more pieces than are received at once.
fn configuration() -> String {
    let key = std::str::from_utf8(KEY).unwrap();
    format!("preshared_key={key}\n").repeat(20_000)
}

#[test]
fn what_is_not_wiped_is_found() {
    sim::seek(KEY);
    drop(configuration());
    assert!(sim::found() > 0);
}

/// Hands two devices over; returns in how many pieces of freed memory the key was.
fn hand_over(stream: UnixStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let file = std::io::stdin();
    let device = || TransferredDevice {
        name: "wg0".into(),
        uapi: Socket {
            file: FileId(1, 2),
            socket: file.as_fd(),
        },
        tun: file.as_fd(),
        udp: [None, None],
        configuration: configuration().into(),
    };
    let transfer = Transfer::new(None, vec![device(), device()]);
    sim::seek(KEY);
    let now = Instant::now();
    let mut lines = Lines::new(stream, now);
    let request = loop {
        match lines.handle_ready(now, Duration::MAX, |_| Reply::HandOver("1".into())) {
            Ok(()) => thread::yield_now(),
            Err(Over::HandOver(request)) => break request,
            Err(Over::Closed) => panic!("the other side is gone"),
        }
    };
    assert!(request.hand_over(&transfer));
    drop(transfer);
    sim::found()
}

#[test]
fn a_hand_over_leaves_no_keys_in_memory() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let old = thread::spawn(move || hand_over(listener.accept().unwrap().0));
    let (stop, _other) = UnixStream::pair().unwrap();
    let length = configuration().len();
    sim::seek(KEY);
    let mut offer = Offer::ask(&path, "hand-over=", stop.as_fd()).unwrap().unwrap();
    let devices = std::mem::take(&mut offer.transfer.devices);
    let lengths: Vec<_> = devices.iter().map(|device| device.configuration.len()).collect();
    assert_eq!(lengths, [length; 2]);
    offer.accept().unwrap();
    drop(devices);
    assert_eq!((sim::found(), old.join().unwrap()), (0, 0));
}
