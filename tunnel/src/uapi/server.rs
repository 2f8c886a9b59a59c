//! The clients of a socket, cut into lines and never waited for; and the UAPI of one device.

use std::{
    io,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::poll::PollFlags;
use zeroize::Zeroizing;

use crate::{
    device::Device,
    handover::protocol::Request,
    listener::Listener,
    uapi::{Ports, Reply, Session},
};

/// `wg` opens one connection at a time; a few may hang.
pub(crate) const MAX_CLIENTS: usize = 16;
/// The longest line is far below.
const MAX_LINE: usize = 4096;
/// How much of a request is read at once.
const CHUNK: usize = 64 * 1024;
/// For how long a request is worked on before packets have their turn again.
const TURN: Duration = Duration::from_millis(5);
/// So many lines of a request are one step all the same: of an ordinary change, which may take a network from one peer and
/// give it to another, packets see all or nothing, however busy the machine is.
const STEP: usize = 256;

/// A client's bytes, cut into lines, and the answer it has not read yet.
#[derive(Debug)]
pub struct Lines {
    stream: UnixStream,
    /// Both may have private keys in them.
    incoming: Zeroizing<Vec<u8>>,
    outgoing: Zeroizing<Vec<u8>>,
    /// How much of `outgoing` is sent.
    sent: usize,
    last_heard: Instant,
    has_more: bool,
}

/// A connection is over.
#[derive(Debug)]
pub enum Over {
    /// The client is gone, or it is no client of this protocol.
    Closed,
    /// It has become the request of another process to take over.
    HandOver(Request),
}

impl Lines {
    /// Makes the state of a fresh connection.
    pub fn new(stream: UnixStream, now: Instant) -> Self {
        Self {
            stream,
            incoming: Zeroizing::default(),
            outgoing: Zeroizing::default(),
            sent: 0,
            last_heard: now,
            has_more: false,
        }
    }

    /// Returns whether lines wait that were read already.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Returns what to poll for: a client reads its answer before its next line is read.
    pub fn interest(&self) -> PollFlags {
        if self.outgoing.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        }
    }

    /// Reads what is there, gives every whole line to `handle`, and sends its answers.
    ///
    /// Lines behind an answer wait until it is sent.
    /// After `most` and one [`STEP`] the rest waits for the next call, see [`Self::has_more`].
    pub fn handle_ready(
        &mut self,
        now: Instant,
        most: Duration,
        mut handle: impl FnMut(&str) -> Reply,
    ) -> Result<(), Over> {
        self.last_heard = now;
        let mut ended = false;
        if self.outgoing.is_empty() && !self.has_more {
            ended = self.fill()?;
        }
        self.flush()?;
        let (mut start, begin, mut work) = (0, Instant::now(), 0);
        self.has_more = false;
        while self.outgoing.is_empty() {
            // Of who has ended nothing more is asked for.
            if !ended && work >= STEP && begin.elapsed() >= most {
                self.has_more = true;
                break;
            }
            let Some(end) = self.incoming[start..].iter().position(|byte| *byte == b'\n') else {
                break;
            };
            let line = String::from_utf8_lossy(&self.incoming[start..start + end]);
            start += end + 1;
            match handle(&line) {
                Reply::More => work += 1,
                Reply::Answer(text) => {
                    work += 1;
                    self.outgoing = Zeroizing::new(text.into_bytes());
                    self.flush()?;
                }
                Reply::HangUp => return Err(Over::Closed),
                Reply::HandOver(version) => {
                    let stream = self.stream.try_clone().map_err(|_| Over::Closed)?;
                    return Err(Over::HandOver(Request { stream, version }));
                }
            }
        }
        self.incoming.drain(..start);
        let endless = self.incoming.len() > MAX_LINE && !self.has_more;
        if ended || (self.outgoing.is_empty() && endless) {
            Err(Over::Closed)
        } else {
            Ok(())
        }
    }

    /// Reads what is there; returns whether the other side has ended.
    fn fill(&mut self) -> Result<bool, Over> {
        let before = self.incoming.len();
        if self.incoming.capacity() == 0 {
            // Once, for what a vector grows out of is not wiped.
            self.incoming.reserve_exact(MAX_LINE + CHUNK);
        }
        self.incoming.resize(before + CHUNK, 0);
        let read = self.stream.read(&mut self.incoming[before..]);
        self.incoming
            .truncate(before + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(read) => Ok(read == 0),
            Err(error) if is_transient(&error) => Ok(false),
            Err(_) => Err(Over::Closed),
        }
    }

    fn flush(&mut self) -> Result<(), Over> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(Over::Closed),
                Ok(written) => self.sent += written,
                Err(error) if is_transient(&error) => return Ok(()),
                Err(_) => return Err(Over::Closed),
            }
        }
        self.outgoing = Zeroizing::default();
        self.sent = 0;
        Ok(())
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The UAPI of one device.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    clients: Vec<(Lines, Session)>,
}

impl Server {
    /// Serves on this socket.
    pub fn new(listener: Listener) -> Self {
        Self {
            listener,
            clients: Vec::new(),
        }
    }

    /// Returns the listener.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Returns the clients, with what to poll them for.
    pub fn clients(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.clients
            .iter()
            .map(|(lines, _)| (lines.as_fd(), lines.interest()))
    }

    /// Returns which clients' requests are not worked on to the end, in the order of [`Self::clients`].
    pub fn unfinished(&self) -> impl Iterator<Item = bool> {
        self.clients.iter().map(|(lines, _)| lines.has_more())
    }

    /// Accepts a client. When too many are there, the one unheard for longest has to go.
    pub fn handle_connection(&mut self, now: Instant, device: &mut [&mut Device], ports: &mut impl Ports) {
        let Some(stream) = self.listener.accept() else {
            return;
        };
        if self.clients.len() >= MAX_CLIENTS {
            let oldest = (0..self.clients.len()).min_by_key(|at| self.clients[*at].0.last_heard);
            if let Some(oldest) = oldest {
                self.clients.swap_remove(oldest).1.handle_end(now, device, ports);
            }
        }
        self.clients.push((Lines::new(stream, now), Session::default()));
    }

    /// Returns the listener, to be given up or owned.
    pub fn listener_mut(&mut self) -> &mut Listener {
        &mut self.listener
    }

    /// Serves clients that have sent something, or can be answered; `ready` is in the order of [`Self::clients`]. Perhaps one of
    /// them wants to take over.
    pub fn handle_ready(
        &mut self,
        now: Instant,
        ready: &[bool],
        device: &mut [&mut Device],
        ports: &mut impl Ports,
    ) -> Option<Request> {
        let mut ready = ready.iter();
        let mut request = None;
        self.clients.retain_mut(|(lines, session)| {
            if !ready.next().copied().unwrap_or(false) {
                return true;
            }
            let open = lines.handle_ready(now, TURN, |line| session.handle_line(now, line, device, ports));
            match open {
                Ok(()) => return true,
                Err(Over::Closed) => {}
                Err(Over::HandOver(asked)) => request = Some(asked),
            }
            session.handle_end(now, device, ports);
            false
        });
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_change_is_one_step_and_thousands_of_lines_are_many() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let mut lines = Lines::new(ours, now);
        theirs.write_all("line\n".repeat(1000).as_bytes()).unwrap();
        // However little time it has.
        let mut step = || {
            let mut count = 0;
            let done = lines.handle_ready(now, Duration::ZERO, |_| {
                count += 1;
                Reply::More
            });
            assert!(done.is_ok());
            (count, lines.has_more())
        };
        assert_eq!([(); 3].map(|()| step()), [(256, true); 3]);
        assert_eq!(step(), (232, false));
    }
}
