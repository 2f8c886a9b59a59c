//! Another process takes over running devices: an upgrade that loses no interface, port, address, route or setting.
//!
//! What cannot move are the sessions: boringtun exports no keys. The new process starts a handshake with every peer at
//! once, and until the answer packets wait or are lost and sent again by whoever sent them.
//!
//! The new process asks on the socket of the old one, `hand-over=1` for the device of a UAPI socket, `hand-over 1` for all
//! devices of a control socket. The number is the version of this:
//!
//! ```text
//! old: reads no packet any more, and sends     hand-over=1, descriptors, configuration ([`parcel`])
//! new: has understood everything               taken
//! old: has no way back any more                yours
//! new: goes on
//! ```
//!
//! At every moment exactly one of the two carries packets, or none for a moment, and they wait in the kernel. Until `yours`
//! is sent, anything but the right answer in time makes the old process go on, and makes the new one end: the devices are
//! never with both, and with nobody only if the new process dies after it has taken them. Whoever asks in the middle waits
//! in the socket, or is hung up on and asks again, and is heard by the new process.
//!
//! A process that cannot hand over says `error REASON`, as the control socket always does.

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
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
    hand_over::parcel::{Parcel, VERSION},
    interface::{End, Interface, InterfaceError},
    sys,
};

pub mod parcel;
pub mod take;

/// What the new process says when it has understood everything.
const TAKEN: &str = "taken";
/// What the old one says to that.
const YOURS: &str = "yours";
/// How long the old process waits for the new one, and no packet moves. A WireGuard session that hears nothing for longer
/// (10 s and 5 s) begins anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of the devices of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They have ended.
    Ended,
    /// Another process has them.
    HandedOver,
}

/// Devices could not be handed over; they are still here.
#[derive(Debug, Error)]
pub enum GiveError {
    /// The other process speaks another version.
    #[error("the other process asks for version {0:?}, this one knows {VERSION}")]
    Version(String),
    /// The other process hung up, or did not answer in time.
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
    /// Says why not.
    pub fn refuse(self, why: &str) {
        let channel = Channel::new(self.stream, PATIENCE, None);
        // Whoever has hung up does not want to know.
        let _ = channel.send(format!("error {why}\n").as_bytes(), &[]);
    }

    /// Hands everything over; nothing in the parcel may be used meanwhile.
    pub fn give(self, parcel: &Parcel<BorrowedFd<'_>>) -> Result<(), GiveError> {
        if self.version != VERSION {
            let error = GiveError::Version(self.version.clone());
            self.refuse(&format!("this process hands over by version {VERSION} only"));
            return Err(error);
        }
        let channel = Channel::new(self.stream, PATIENCE, None);
        for (text, descriptors) in parcel.render() {
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

/// Carries the packets of one device until it ends or another process has it.
pub fn carry(mut interface: Interface, stop: BorrowedFd<'_>) -> Result<Outcome, InterfaceError> {
    loop {
        match interface.run(stop)? {
            End::Asked(request) => {
                let given = request.give(&Parcel::new(None, vec![interface.handed()]));
                if is_given(given) {
                    interface.release();
                    return Ok(Outcome::HandedOver);
                }
            }
            End::SocketGone => {
                interface.remove();
                return Ok(Outcome::Ended);
            }
            End::Stopped | End::InterfaceGone => return Ok(Outcome::Ended),
        }
    }
}

/// Says what became of it.
pub(crate) fn is_given(given: Result<(), GiveError>) -> bool {
    match given {
        Ok(()) => {
            tracing::info!("another process has taken over");
            true
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "not handed over, going on"
            );
            false
        }
    }
}

/// A connection on which nothing is waited for longer than until a deadline, or until this process is to end.
#[derive(Debug)]
struct Channel<'a> {
    stream: UnixStream,
    deadline: Instant,
    stop: Option<BorrowedFd<'a>>,
}

impl<'a> Channel<'a> {
    fn new(stream: UnixStream, patience: Duration, stop: Option<BorrowedFd<'a>>) -> Self {
        Self {
            stream,
            deadline: Instant::now() + patience,
            stop,
        }
    }

    /// Sends all of it; the descriptors go with the first byte.
    fn send(&self, mut bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
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
    fn receive(&self, buffer: &mut [u8], descriptors: &mut impl Extend<OwnedFd>) -> io::Result<usize> {
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
    fn receive_line(&self) -> io::Result<String> {
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
        use std::os::fd::AsFd;
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
