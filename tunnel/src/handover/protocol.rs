//! The two sides' connection, and the old process's part of the conversation ([`super`]).

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
};
use thiserror::Error;

use crate::{
    handover::format::{Transfer, VERSION},
    sys,
};

/// What the new process says when it has understood everything.
pub(super) const TAKEN: &str = "taken";
/// What the old one says to that.
pub(super) const YOURS: &str = "yours";
/// How long the old process waits for the new one, and no packet moves. A WireGuard session without an answer for longer
/// (10 s and 5 s) starts a new handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// Devices could not be handed over; they are still here.
#[derive(Debug, Error)]
enum GiveError {
    /// The other process speaks another version.
    #[error("the other process asks for version {0:?}, this one knows {VERSION}")]
    Version(String),
    /// The other process closed the connection, or did not answer in time.
    #[error("the other process is gone or silent")]
    Io(#[source] io::Error),
    /// The other process does not accept.
    #[error("the other process says {0:?}")]
    Answer(String),
}

/// Another process wants to take over.
#[derive(Debug)]
pub struct Request {
    /// Does not block.
    pub(crate) stream: UnixStream,
    pub(crate) version: String,
}

impl Request {
    /// Answers why not.
    pub fn refuse(self, why: &str) {
        let channel = Channel::new(self.stream, PATIENCE, None);
        // A process that has closed the connection needs no reason.
        let _ = channel.send(format!("error {why}\n").as_bytes(), &[]);
    }

    /// Hands everything over, and logs what became of it. Nothing of it may be used meanwhile, nor
    /// afterwards if this returns `true`.
    pub fn hand_over(self, transfer: &Transfer<BorrowedFd<'_>>) -> bool {
        match self.give(transfer) {
            Ok(()) => {
                tracing::info!("another process has taken over");
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "handover failed, going on"
                );
                false
            }
        }
    }

    fn give(self, transfer: &Transfer<BorrowedFd<'_>>) -> Result<(), GiveError> {
        if self.version != VERSION {
            let error = GiveError::Version(self.version.clone());
            self.refuse(&format!("this process hands over by version {VERSION} only"));
            return Err(error);
        }
        let channel = Channel::new(self.stream, PATIENCE, None);
        for (text, descriptors) in transfer.render() {
            channel
                .send(text.as_bytes(), &descriptors)
                .map_err(GiveError::Io)?;
        }
        let answer = channel.receive_line().map_err(GiveError::Io)?;
        if answer != TAKEN {
            return Err(GiveError::Answer(answer));
        }
        channel
            .send(format!("{YOURS}\n").as_bytes(), &[])
            .map_err(GiveError::Io)
    }
}

/// A connection on which nothing is waited for longer than until a deadline, or until this process is to end.
#[derive(Debug)]
pub(super) struct Channel<'a> {
    stream: UnixStream,
    deadline: Instant,
    stop: Option<BorrowedFd<'a>>,
}

impl<'a> Channel<'a> {
    pub(super) fn new(stream: UnixStream, patience: Duration, stop: Option<BorrowedFd<'a>>) -> Self {
        Self {
            stream,
            deadline: Instant::now() + patience,
            stop,
        }
    }

    /// Sends all of it; the descriptors go with the first byte.
    pub(super) fn send(&self, mut bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let mut control = if numbers.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while !bytes.is_empty() {
            let parts = [io::IoSlice::new(bytes)];
            match sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, flags, None) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    control = &[];
                }
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives what is there, and waits for something; an error at the end.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<OwnedFd>,
    ) -> io::Result<usize> {
        loop {
            match sys::receive_descriptors(&self.stream, buffer, descriptors) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(received) => return Ok(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives a short line and nothing behind it.
    pub(super) fn receive_line(&self) -> io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.len() < 64 {
            self.receive(&mut byte, &mut Vec::new())?;
            if byte == *b"\n" {
                break;
            }
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let stop = self.stop.unwrap_or(self.stream.as_fd());
        let (for_stop, for_stream) = (self.stop.map_or(PollFlags::empty(), |_| PollFlags::POLLIN), flags);
        let mut fds = [
            PollFd::new(self.stream.as_fd(), for_stream),
            PollFd::new(stop, for_stop),
        ];
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, left) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) if self.stop.is_some() && fds[1].any().unwrap_or(true) => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
