//! TCP between namespaces, every byte checked.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::world::Side;

/// A stream of bytes that repeats only after 2^64 words (xorshift).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

const CHUNK: usize = 64 * 1024;
const PORT: u16 = 5001;
const PATIENCE: Duration = Duration::from_secs(40);

/// Sends `megabytes` from one side to an address of the other; fails when a byte is lost or changed.
pub(crate) fn transfer(from: &Side, to: &Side, address: IpAddr, megabytes: u32) {
    transfer_for(Duration::ZERO, from, to, address, megabytes);
}

/// Does the same, evenly spread over a time.
pub(crate) fn transfer_for(time: Duration, from: &Side, to: &Side, address: IpAddr, megabytes: u32) {
    let chunks = megabytes * 1_000_000 / CHUNK as u32 + 1;
    let address = SocketAddr::new(address, PORT);
    let listener = to.namespace.inside(move || listen(address));
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut got, mut want, mut noise) = (vec![0; CHUNK], vec![0; CHUNK], Noise(1));
        for chunk in 0..chunks {
            stream
                .read_exact(&mut got)
                .unwrap_or_else(|error| panic!("chunk {chunk} of {chunks}: {error}"));
            noise.fill(&mut want);
            assert!(got == want, "chunk {chunk} of {chunks} came changed");
        }
        stream.write_all(b"k").unwrap();
    });
    from.namespace.inside(move || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut buffer, mut noise) = (vec![0; CHUNK], Noise(1));
        let start = Instant::now();
        for chunk in 0..chunks {
            thread::sleep((time * chunk / chunks).saturating_sub(start.elapsed()));
            noise.fill(&mut buffer);
            stream.write_all(&buffer).unwrap();
        }
        stream.read_exact(&mut [0]).unwrap();
    });
    receiver.join().unwrap();
}

/// Binds a listener. That of the stream before may live a little longer: in a process that another thread of this test is
/// just starting, until that becomes another program.
fn listen(address: SocketAddr) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Sets a flag when it goes, also when a test fails: threads that wait for it end.
pub(crate) struct Until<'a>(pub(crate) &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
