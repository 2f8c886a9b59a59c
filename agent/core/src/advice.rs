//! What leaders of different locations say to each other: which leaders of the other location they use, and that their own tunnels are
//! about to end.
//!
//! [`Advisor`] decides what is said to whom and when, and what of what is heard counts. It is given the time, random numbers and the
//! node's key, and has neither a socket nor a clock.
//!
//! # What counts
//!
//! A message is sealed with a key that the two nodes alone can have: from the private key of the one and the published key of the
//! other. It has the sender's *session*, drawn at random, a counter, and repeats the session and the counter of a message that the
//! sender has got from the receiver. What it says counts where
//!
//! * it repeats a message that the receiver sent in its present session, and not long ago: so it is itself not old,
//! * nothing of another session of the sender has counted in this session of the receiver, and
//! * its counter is higher than all that have counted.
//!
//! So what is recorded and sent once more changes nothing, nor does what is held back for long. The first message of a node that
//! has just started repeats nothing that counts. It is answered with one of the same length, a few times a second at most, and the next one counts.
//! Where a message comes from another session than those before it the sender has started again, and the receiver draws a new
//! session of its own: what it got before repeats the old one.
//!
//! Who is silent for some intervals is forgotten, as if it had said nothing.

mod advisor;
mod exchange;
mod message;
mod partners;
mod seal;

pub use advisor::{Advisor, Said};
pub use message::LENGTH;
pub use partners::{Partner, Partners};
pub use seal::OwnKey;

use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{Advice, LocationName, NodeName};

/// The UDP port on which leaders hear each other, through the tunnels alone.
pub const PORT: u16 = 9479;

/// What counts of what is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heeded {
    /// What each leader says of those that it uses.
    pub advice: BTreeMap<(LocationName, NodeName), Advice>,
    /// The leaders whose tunnels are about to end.
    pub draining: BTreeSet<(LocationName, NodeName)>,
}

#[cfg(test)]
mod tests;
