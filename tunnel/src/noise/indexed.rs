//! boringtun's `Tunn` behind indices that are drawn at random.
//!
//! boringtun counts its own up, from one that it is given at the start. The hash of the handshake does not cover an index, so
//! another one is sent in its place: in each initiation and response, whose MACs are made again (`macs.rs`), and what
//! comes back with it is given to boringtun with the one that it knows.

use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult, errors::WireGuardError};

use crate::{
    index::{Index, IndexSource},
    key::PublicKey,
    noise::{COOKIE, DATA, INITIATION, RESPONSE, index, macs::Macs},
};

/// boringtun keeps eight sessions, each where the lowest bits of its index say.
const SESSIONS: usize = 8;

/// Where the sender's index is in a message, and the receiver's of all but a response.
const FIRST: usize = 4;
/// Where the receiver's index is in a response.
const SECOND: usize = 8;

/// What is sent for one of boringtun's indices.
pub(super) struct Alias {
    index: Index,
    /// The one that boringtun gave.
    pub(super) inner: u32,
}

pub(super) struct IndexedTunn {
    tunn: Tunn,
    source: IndexSource,
    sessions: [Option<Alias>; SESSIONS],
    /// The newest initiation and the one before, which boringtun takes answers to.
    pub(super) calls: [Option<Alias>; 2],
    to_peer: Macs,
    to_self: Macs,
}

impl IndexedTunn {
    /// Puts indices from that source before this `Tunn`, which has sent nothing yet.
    pub(super) fn new(tunn: Tunn, source: IndexSource, me: PublicKey, peer: PublicKey) -> Self {
        Self {
            tunn,
            source,
            sessions: Default::default(),
            calls: Default::default(),
            to_peer: Macs::new(peer),
            to_self: Macs::new(me),
        }
    }

    /// Returns an initiation; with `force` also when there is one under way.
    pub(super) fn initiate<'a>(
        &mut self,
        now: Instant,
        force: bool,
        scratch: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let result = self.tunn.format_handshake_initiation(scratch, force);
        let TunnResult::WriteToNetwork(initiation) = result else {
            return None;
        };
        self.called(now, initiation);
        Some(initiation)
    }

    fn called(&mut self, now: Instant, initiation: &mut [u8]) {
        let alias = self.replace_sender(now, initiation);
        self.calls.rotate_right(1);
        self.calls[0] = alias;
    }

    /// Puts a new index in the place of the sender's, and returns both.
    fn replace_sender(&mut self, now: Instant, handshake: &mut [u8]) -> Option<Alias> {
        let inner = index(handshake)?;
        let index = self.source.draw();
        put(handshake, FIRST, index.value());
        self.to_peer.sign(now, index.value(), handshake);
        Some(Alias { index, inner })
    }

    /// Encrypts a packet, if there is a session.
    pub(super) fn encapsulate<'a>(&mut self, packet: &[u8], room: &'a mut [u8]) -> TunnResult<'a> {
        self.tunn.encapsulate(packet, room)
    }

    /// Reads a datagram, in which boringtun's index takes the place of the receiver's.
    pub(super) fn decapsulate<'a>(
        &mut self,
        now: Instant,
        datagram: &mut [u8],
        scratch: &'a mut [u8],
    ) -> TunnResult<'a> {
        match datagram.first() {
            Some(&DATA) => {
                let Some(alias) = find(&self.sessions, word(datagram, FIRST)) else {
                    return TunnResult::Err(WireGuardError::WrongIndex);
                };
                put(datagram, FIRST, alias.inner);
                self.tunn.decapsulate(None, datagram, scratch)
            }
            Some(&RESPONSE) => self.take_response(datagram, scratch),
            Some(&COOKIE) => match self.to_peer.take_cookie(now, datagram) {
                Ok(()) => TunnResult::Done,
                Err(error) => TunnResult::Err(error),
            },
            _ => {
                let result = self.tunn.decapsulate(None, datagram, scratch);
                if let TunnResult::WriteToNetwork(response) = result {
                    if let Some(alias) = self.replace_sender(now, response) {
                        self.begin_session(alias);
                    }
                    return TunnResult::WriteToNetwork(response);
                }
                result
            }
        }
    }

    fn take_response<'a>(&mut self, response: &mut [u8], scratch: &'a mut [u8]) -> TunnResult<'a> {
        let Some(alias) = find(&self.calls, word(response, SECOND)) else {
            return TunnResult::Err(WireGuardError::WrongIndex);
        };
        let inner = alias.inner;
        put(response, SECOND, inner);
        self.to_self.sign_first(response);
        let result = self.tunn.decapsulate(None, response, scratch);
        if matches!(result, TunnResult::WriteToNetwork(_)) {
            let answered = |call: &mut Alias| call.inner == inner;
            let alias = self.calls.iter_mut().find_map(|call| call.take_if(answered));
            alias.into_iter().for_each(|alias| self.begin_session(alias));
        }
        result
    }

    fn begin_session(&mut self, alias: Alias) {
        let place = alias.inner as usize % SESSIONS;
        self.sessions[place] = Some(alias);
    }

    /// Lets boringtun repeat a handshake and drop keys.
    pub(super) fn update_timers<'a>(&mut self, now: Instant, scratch: &'a mut [u8]) -> TunnResult<'a> {
        let mut result = self.tunn.update_timers(scratch);
        if let TunnResult::WriteToNetwork(datagram) = &mut result
            && datagram.first() == Some(&INITIATION)
        {
            self.called(now, datagram);
        }
        if matches!(result, TunnResult::Err(WireGuardError::ConnectionExpired)) {
            (self.sessions, self.calls) = Default::default();
        }
        result
    }

    /// Returns how old the session is that is sent by.
    pub(super) fn time_since_last_handshake(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }
}

fn find(aliases: &[Option<Alias>], index: Option<u32>) -> Option<&Alias> {
    let index = index?;
    aliases
        .iter()
        .flatten()
        .find(|alias| alias.index.value() == index)
}

fn word(message: &[u8], at: usize) -> Option<u32> {
    index(message.get(at - FIRST..)?)
}

fn put(message: &mut [u8], at: usize, index: u32) {
    if let Some(place) = message.get_mut(at..at + 4) {
        place.copy_from_slice(&index.to_le_bytes());
    }
}
