//! Messages on the wire. All have the same length, so that no answer is longer than what it answers.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | what it is, and the version |
//! | 8..40 | the public key of the sender |
//! | 40..56 | its session |
//! | 56..64 | its counter |
//! | 64..80 | sealed: the session of the receiver that it repeats, 0 where it knows none |
//! | 80..88 | the counter that it repeats |
//! | 88 | for how many seconds it counts |
//! | 89 | 1: the sender's WireGuard knows groups of peers; 2: its tunnels are about to end; other bits are to be ignored |
//! | 90 | how many leaders follow, at most four |
//! | 91..96 | to be ignored |
//! | 96..128 | the leaders of the receiver's location that the sender uses, each by 8 bytes of a hash of its name |
//! | 128..144 | the tag |

use ring::digest::{SHA256, digest};
use spanwire_topology::{NodeName, PublicKey};

use super::seal::{Pair, TAG};

const MAGIC: [u8; 8] = *b"spanadv\x01";
const HEADER: usize = 64;
const BODY: usize = 64;
const NAMES: usize = 32;
const GROUPS: u8 = 1;
const DRAINING: u8 = 2;

/// How long a message is, in bytes.
pub const LENGTH: usize = HEADER + BODY + TAG;

/// A message on the wire.
pub(super) type Datagram = [u8; LENGTH];

/// How many leaders a message names.
pub(super) const MOST_NAMES: usize = (BODY - NAMES) / size_of::<u64>();

/// A message by its sender's session and counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) session: u128,
    pub(super) counter: u64,
}

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The message of the receiver that it repeats.
    pub(super) echo: Stamp,
    pub(super) seconds: u8,
    pub(super) groups: bool,
    pub(super) draining: bool,
    /// The leaders in use, the most important first.
    pub(super) uses: Vec<u64>,
}

/// Returns by what a leader is named.
pub(super) fn hash(node: &NodeName) -> u64 {
    let hash = digest(&SHA256, node.as_str().as_bytes());
    number(hash.as_ref(), 0)
}

/// Returns who has sent a message, as it says itself; `None` where it is none.
pub(super) fn sender(datagram: &[u8]) -> Option<PublicKey> {
    let is_message = datagram.len() == LENGTH && datagram.starts_with(&MAGIC);
    let key: [u8; 32] = datagram.get(8..40)?.try_into().ok()?;
    is_message.then(|| PublicKey::new(key))
}

/// Returns a message as it goes on the wire; `None` where it cannot be sealed.
pub(super) fn seal(pair: &Pair, sender: PublicKey, stamp: Stamp, content: &Content) -> Option<Datagram> {
    let mut datagram = [0; LENGTH];
    datagram[..8].copy_from_slice(&MAGIC);
    datagram[8..40].copy_from_slice(sender.as_bytes());
    put(&mut datagram, 40, stamp);
    put(&mut datagram, 64, content.echo);
    datagram[88] = content.seconds;
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    datagram[89] = bit(content.groups, GROUPS) | bit(content.draining, DRAINING);
    datagram[90] = content.uses.len().min(MOST_NAMES) as u8;
    let (header, rest) = datagram.split_at_mut(HEADER);
    let (body, tag) = rest.split_at_mut(BODY);
    for (place, name) in body[NAMES..]
        .chunks_exact_mut(size_of::<u64>())
        .zip(&content.uses)
    {
        place.copy_from_slice(&name.to_be_bytes());
    }
    tag.copy_from_slice(&pair.seal(stamp.session, stamp.counter, header, body)?);
    Some(datagram)
}

/// Returns what a message says that comes from who it says; `None` where it does not.
pub(super) fn open(pair: &Pair, datagram: &Datagram) -> Option<(Stamp, Content)> {
    let mut datagram = *datagram;
    let stamp = stamp(&datagram, 40);
    let (header, sealed) = datagram.split_at_mut(HEADER);
    let body = pair.open(stamp.session, stamp.counter, header, sealed)?;
    let names = body[NAMES..].chunks_exact(size_of::<u64>());
    let names = names.take(usize::from(body[90 - HEADER]));
    let content = Content {
        echo: self::stamp(body, 0),
        seconds: body[88 - HEADER],
        groups: body[89 - HEADER] & GROUPS != 0,
        draining: body[89 - HEADER] & DRAINING != 0,
        uses: names.map(|name| number(name, 0)).collect(),
    };
    Some((stamp, content))
}

fn put(bytes: &mut [u8], at: usize, stamp: Stamp) {
    bytes[at..at + 16].copy_from_slice(&stamp.session.to_be_bytes());
    bytes[at + 16..at + 24].copy_from_slice(&stamp.counter.to_be_bytes());
}

fn stamp(bytes: &[u8], at: usize) -> Stamp {
    let mut session = [0; 16];
    session.copy_from_slice(&bytes[at..at + 16]);
    Stamp {
        session: u128::from_be_bytes(session),
        counter: number(bytes, at + 16),
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}
