//! The first look at a datagram from the network: whose it is, and whether this device has time for it.
//!
//! Handshake messages cost Diffie–Hellman operations: above a rate, a sender must return a cookie that proves it receives at
//! the address and port it writes from. boringtun's rate limiter makes and verifies the cookies; when they are wanted, and
//! how much who returns one gets, is decided here, for it counts everything alike, also the answers to what this device
//! sent. It binds cookies to addresses alone; the port is brought in by handing it, instead of the address, a keyed hash
//! of both.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use boringtun::{
    noise::{Packet, Tunn, TunnResult, handshake::parse_handshake_anon, rate_limiter::RateLimiter},
    x25519,
};

use crate::key::{PrivateKey, PublicKey, is_low_order};

/// What is worked on in a second without a cookie: 500 handshakes, or twice as many initiations of unknown peers. A handshake
/// costs about 0.2 ms, so that this takes a tenth of a core, and hundreds of peers that come back at once all get in.
const WORK_PER_SECOND: u32 = 500 * HANDSHAKE;
/// A whole handshake: five Diffie–Hellman operations.
const HANDSHAKE: u32 = 2;
/// Finding out that an initiation is of no peer: one such operation.
const LOOK: u32 = 1;

/// Beyond that rate, handshake messages a second of one IPv4 address or IPv6 network of 64 bits that returned its cookie:
/// as many as the kernel allows.
const PROVEN_PER_SECOND: u32 = 20;

/// How many such addresses are counted in a second; what comes from others has to try again.
const PROVEN_ADDRESSES: usize = 1024;

const SECOND: Duration = Duration::from_secs(1);

/// Where a datagram belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A handshake initiation that claims to be from this peer.
    From(PublicKey),
    /// A message for the session or handshake with this index.
    For(u32),
    /// Too many handshakes: send this cookie reply instead.
    Cookie(&'a [u8]),
    /// Too many handshakes, and more than enough from where this came, cookie or not.
    TooMany,
    /// No WireGuard message, or not for this device.
    Unknown,
}

/// Returns the receiver index of a message, if the message has one and costs no Diffie–Hellman operation before its sender
/// is known.
pub fn receiver(datagram: &[u8]) -> Option<u32> {
    match Tunn::parse_incoming_packet(datagram).ok()? {
        Packet::PacketData(data) => Some(data.receiver_idx),
        Packet::PacketCookieReply(reply) => Some(reply.receiver_idx),
        Packet::HandshakeInit(_) | Packet::HandshakeResponse(_) => None,
    }
}

/// Returns the ephemeral public key in a handshake message.
pub(crate) fn ephemeral(datagram: &[u8]) -> Option<&[u8; 32]> {
    let at = match datagram.first()? {
        1 => 8,
        2 => 12,
        _ => return None,
    };
    datagram.get(at..)?.first_chunk()
}

/// Returns which initiation a handshake response answers, by its index.
pub(crate) fn answered(datagram: &[u8]) -> Option<u32> {
    match Tunn::parse_incoming_packet(datagram).ok()? {
        Packet::HandshakeResponse(response) => Some(response.receiver_idx),
        Packet::HandshakeInit(_) | Packet::PacketCookieReply(_) | Packet::PacketData(_) => None,
    }
}

/// Admits handshakes under one identity.
pub struct Admission {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Wants no cookies, and takes the first look.
    open: RateLimiter,
    /// Wants a cookie with everything.
    guarded: RateLimiter,
    hashers: [RandomState; 2],
    quota: Quota,
}

/// What was asked for in the current second, and what was done for it.
struct Quota {
    per_second: u32,
    since: Instant,
    /// What all messages cost, or would have cost at least, had they not been answered with a cookie.
    asked: u32,
    /// Until when cookies are wanted: a second after that was asked for too much last, as by the kernel and wireguard-go.
    /// So a flood that goes on gets nothing done at all.
    loaded_until: Option<Instant>,
    /// What was admitted beyond `per_second`, by address.
    proven: BTreeMap<IpAddr, u32>,
}

impl Quota {
    /// Returns whether more is asked for than there is time for, or was within a second.
    fn is_loaded(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            self.since = now;
            self.asked = 0;
            self.proven.clear();
        }
        if self.asked >= self.per_second {
            self.loaded_until = Some(now + SECOND);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }

    fn ask(&mut self, cost: u32) {
        self.asked = self.asked.saturating_add(cost);
    }

    /// Returns whether there is time nevertheless for a message from this address.
    fn admit(&mut self, source: IpAddr) -> bool {
        let network = network(source);
        if self.proven.len() >= PROVEN_ADDRESSES && !self.proven.contains_key(&network) {
            return false;
        }
        let count = self.proven.entry(network).or_default();
        *count += 1;
        *count <= PROVEN_PER_SECOND
    }
}

/// Returns an IPv4 address as it is, of an IPv6 address the network that one customer has.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

impl Admission {
    /// Makes one for the identity with this private key.
    pub fn new(private: &PrivateKey) -> Self {
        Self::limited(private, WORK_PER_SECOND)
    }

    fn limited(private: &PrivateKey, per_second: u32) -> Self {
        let public = private.public().to_x25519();
        Self {
            private: private.to_x25519(),
            public,
            open: RateLimiter::new(&public, u64::MAX),
            guarded: RateLimiter::new(&public, 0),
            hashers: [RandomState::new(), RandomState::new()],
            quota: Quota {
                per_second,
                since: Instant::now(),
                asked: 0,
                loaded_until: None,
                proven: BTreeMap::new(),
            },
        }
    }

    /// Looks at a handshake response that one of this device's own initiations waits for. It is no load: its number is
    /// bounded by what this device has sent.
    pub fn admit_awaited(&self, datagram: &[u8]) -> Verdict<'static> {
        match self.open.verify_packet(None, datagram, &mut []) {
            Ok(Packet::HandshakeResponse(response)) => Verdict::For(response.receiver_idx),
            _ => Verdict::Unknown,
        }
    }

    /// Looks at a datagram that has no [`receiver`]; `scratch` takes a cookie reply, and `is_peer` says who has a peer's key.
    pub fn admit<'a>(
        &mut self,
        now: Instant,
        source: SocketAddr,
        datagram: &[u8],
        is_peer: impl Fn(PublicKey) -> bool,
        scratch: &'a mut [u8],
    ) -> Verdict<'a> {
        let loaded = self.quota.is_loaded(now);
        let limiter = if loaded { &self.guarded } else { &self.open };
        let verified = limiter.verify_packet(Some(self.origin(source)), datagram, scratch);
        if loaded && verified.is_ok() && !self.quota.admit(source.ip()) {
            self.quota.ask(LOOK);
            return Verdict::TooMany;
        }
        let (verdict, cost) = match verified {
            // What follows would be a secret known to everybody, and the answer would tell that.
            Ok(Packet::HandshakeInit(_)) if ephemeral(datagram).is_none_or(is_low_order) => {
                (Verdict::Unknown, 0)
            }
            Ok(Packet::HandshakeInit(initiation)) => {
                match parse_handshake_anon(&self.private, &self.public, &initiation) {
                    Ok(half) => {
                        let key = PublicKey(half.peer_static_public);
                        (Verdict::From(key), if is_peer(key) { HANDSHAKE } else { LOOK })
                    }
                    Err(_) => (Verdict::Unknown, LOOK),
                }
            }
            Ok(Packet::HandshakeResponse(response)) => (Verdict::For(response.receiver_idx), HANDSHAKE),
            Err(TunnResult::WriteToNetwork(cookie)) => (Verdict::Cookie(cookie), LOOK),
            _ => (Verdict::Unknown, 0),
        };
        self.quota.ask(cost);
        verdict
    }

    /// Returns what stands for an address and port in a cookie.
    fn origin(&self, source: SocketAddr) -> IpAddr {
        let [high, low] = self
            .hashers
            .each_ref()
            .map(|hasher| u128::from(hasher.hash_one(source)));
        Ipv6Addr::from(high << 64 | low).into()
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn initiation(to: &PrivateKey, from: &PrivateKey) -> Vec<u8> {
        let mut tunn = Tunn::new(from.to_x25519(), to.public().to_x25519(), None, None, 3, None);
        let mut buffer = [0; 148];
        let TunnResult::WriteToNetwork(datagram) = tunn.format_handshake_initiation(&mut buffer, false)
        else {
            panic!("a fresh tunnel initiates");
        };
        datagram.to_vec()
    }

    #[test]
    fn an_initiation_names_its_sender_and_a_flood_is_answered_with_cookies() {
        let (me, other) = (PrivateKey::from([1; 32]), PrivateKey::from([2; 32]));
        let mut admission = Admission::limited(&me, 2 * HANDSHAKE);
        let now = Instant::now();
        let source: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let datagram = initiation(&me, &other);
        let cookies: Vec<bool> = (0..4)
            .map(
                |_| match admission.admit(now, source, &datagram, |_| true, &mut [0; 200]) {
                    Verdict::From(key) => {
                        assert_eq!(key, other.public());
                        false
                    }
                    Verdict::Cookie(reply) => reply.len() == 64,
                    entry @ (Verdict::For(_) | Verdict::TooMany | Verdict::Unknown) => panic!("{entry:?}"),
                },
            )
            .collect();
        assert_eq!(cookies, [false, false, true, true]);
    }

    #[test]
    fn a_cookie_is_bound_to_address_and_port() {
        let admission = Admission::new(&PrivateKey::from([1; 32]));
        let origin = |text: &str| admission.origin(text.parse().unwrap());
        assert_eq!(origin("192.0.2.1:1000"), origin("192.0.2.1:1000"));
        assert_ne!(origin("192.0.2.1:1000"), origin("192.0.2.1:1001"));
        assert_ne!(origin("192.0.2.1:1000"), origin("192.0.2.2:1000"));
        assert_ne!(origin("[2001:db8::1]:1000"), origin("[2001:db8::1]:1001"));
    }

    #[test]
    fn what_is_for_another_identity_is_for_nobody() {
        let (me, other) = (PrivateKey::from([1; 32]), PrivateKey::from([2; 32]));
        let datagram = initiation(&other, &me);
        let (now, source) = (Instant::now(), "192.0.2.1:1000".parse().unwrap());
        assert_eq!(
            Admission::new(&me).admit(now, source, &datagram, |_| true, &mut [0; 200]),
            Verdict::Unknown
        );
        assert_eq!(
            Admission::new(&me).admit(now, source, b"hello", |_| true, &mut [0; 200]),
            Verdict::Unknown
        );
    }

    #[test]
    fn under_load_every_address_has_its_share_and_no_more() {
        let mut quota = Admission::limited(&PrivateKey::from([1; 32]), 3).quota;
        let start = quota.since;
        let mut admitted = |now, source: &str| {
            let source = source.parse().unwrap();
            let mut admit = || {
                let admitted = !quota.is_loaded(now) || quota.admit(source);
                quota.ask(LOOK);
                admitted
            };
            (0..100).filter(|_| admit()).count()
        };
        assert_eq!(admitted(start, "192.0.2.1"), 3 + 20);
        assert_eq!(admitted(start, "::ffff:192.0.2.1"), 0, "it is the same");
        assert_eq!(admitted(start, "192.0.2.2"), 20);
        assert_eq!(admitted(start, "2001:db8::1"), 20);
        assert_eq!(admitted(start, "2001:db8::2"), 0, "one customer has both");
        assert_eq!(admitted(start, "2001:db8:0:1::2"), 20);
        // A second later there is still load, for more was asked for than the quota.
        assert_eq!(admitted(start + SECOND - MOMENT, "192.0.2.3"), 20);
        assert_eq!(admitted(start + SECOND, "192.0.2.1"), 20);
    }

    #[test]
    fn load_ends_a_second_after_more_was_asked_for_than_there_is_time_for() {
        let mut quota = Admission::limited(&PrivateKey::from([1; 32]), 10).quota;
        let start = quota.since;
        let mut ask = |at: Duration, count: u32| {
            (0..count)
                .filter(|_| {
                    let loaded = quota.is_loaded(start + at);
                    quota.ask(LOOK);
                    loaded
                })
                .count()
        };
        assert_eq!(ask(Duration::ZERO, 9), 0);
        assert_eq!(ask(SECOND / 2, 1), 0);
        assert_eq!(ask(SECOND * 9 / 10, 5), 5, "ten were asked for");
        // Another second has begun, in which few ask.
        assert_eq!(ask(SECOND, 3), 3);
        assert_eq!(ask(SECOND * 19 / 10 - MOMENT, 3), 3);
        assert_eq!(ask(SECOND * 19 / 10, 3), 0, "a second after there were too many");
        // A flood goes on: it is under load in each second from the first message on.
        assert_eq!(ask(SECOND * 3, 20), 10);
        for second in 4..9 {
            assert_eq!(ask(SECOND * second - MOMENT, 10), 10, "in second {second}");
            assert_eq!(ask(SECOND * second, 20), 20, "in second {second}");
        }
    }

    #[test]
    fn addresses_are_counted_up_to_a_bound() {
        let mut quota = Admission::limited(&PrivateKey::from([1; 32]), 0).quota;
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let admitted = (0..100_000)
            .filter(|number| quota.admit(address(*number)))
            .count();
        assert_eq!(
            (admitted, quota.proven.len()),
            (PROVEN_ADDRESSES, PROVEN_ADDRESSES)
        );
        assert!(quota.admit(address(7)), "who is counted has its share");
    }
}
