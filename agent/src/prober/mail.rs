//! The sockets for what leaders say to each other.

use std::{
    future::pending,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use spanwire_core::{
    advice::{LENGTH, PORT},
    liveness::Assignment,
};
use spanwire_kernel::Datagrams;

/// After each batch nothing is taken for so long, so a flood delays nothing else by more than the batches.
const PAUSE: Duration = Duration::from_millis(10);

/// The sockets of a leader, where it has any.
#[derive(Default)]
pub(super) struct Mail {
    sockets: Option<Datagrams>,
    failure: Option<String>,
    /// Nothing is taken before.
    paused: Option<Instant>,
}

impl Mail {
    /// Opens the sockets that this assignment needs, where they are not open.
    pub(super) fn follow(&mut self, assignment: &Assignment) {
        let own = &assignment.overlay;
        let partners = &assignment.partners;
        let Some(link) = partners.link.as_ref().filter(|_| !partners.leaders.is_empty()) else {
            *self = Self::default();
            return;
        };
        if self
            .sockets
            .as_ref()
            .is_some_and(|sockets| sockets.are_of(link, own))
        {
            return;
        }
        // First those that are there are closed: they may have the same addresses.
        self.sockets = None;
        // One byte more shows what is too long.
        let opened = Datagrams::open(link, own, PORT, LENGTH + 1);
        let failure = opened.as_ref().err().map(ToString::to_string);
        if self.failure != failure {
            // The device, or its address, may be about to be made.
            tracing::debug!(
                cause = failure,
                port = PORT,
                "whether leaders of other locations can be heard has changed"
            );
        }
        self.failure = failure;
        self.sockets = opened.ok();
    }

    /// Why nothing can be heard.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whatever keeps it from being sent keeps it from being heard.
    pub(super) fn send(&self, to: IpAddr, datagram: &[u8]) {
        let Some(sockets) = &self.sockets else { return };
        if let Err(error) = sockets.send(to, datagram) {
            tracing::trace!(%error, %to, "advice cannot be sent");
        }
    }

    /// Waits for messages; without sockets, and in a pause, for ever.
    pub(super) async fn receive(&self) -> io::Result<Vec<(IpAddr, Vec<u8>)>> {
        match &self.sockets {
            Some(sockets) if self.paused.is_none() => sockets.receive().await,
            Some(_) | None => pending().await,
        }
    }

    /// Has the next messages wait for a moment.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused = Some(now + PAUSE);
    }

    /// Notes that a socket has failed. It is opened again when next looked for.
    pub(super) fn fail(&mut self, error: &io::Error) {
        self.failure = Some(error.to_string());
        self.sockets = None;
    }

    /// Takes the present time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.paused.take_if(|until| *until <= now);
    }

    /// Returns when to call [`Self::handle_timeout`] again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.paused
    }
}
