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
/// While a client is in the middle of a `set`, or is answered step by step, others wait, so that they see all or nothing of it; but
/// not for one that is silent for so long.
const PATIENCE: Duration = Duration::from_secs(1);

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
    /// When a line was worked on last.
    last_line: Instant,
    has_more: bool,
    waits: bool,
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
            last_line: now,
            has_more: false,
            waits: false,
        }
    }

    /// Returns whether lines wait that were read already.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Returns whether a line waits that was not to be worked on yet.
    pub fn waits(&self) -> bool {
        self.waits
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
        if self.outgoing.is_empty() && !self.has_more && !self.waits {
            ended = self.fill()?;
        }
        self.flush()?;
        let (mut start, begin, mut work) = (0, Instant::now(), 0);
        (self.has_more, self.waits) = (false, false);
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
            let reply = handle(&line);
            if reply == Reply::Wait {
                self.waits = true;
                break;
            }
            self.last_line = now;
            if reply == Reply::Again {
                if ended {
                    continue;
                }
                self.has_more = true;
                break;
            }
            start += end + 1;
            match reply {
                Reply::More | Reply::Wait | Reply::Again => work += 1,
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
        let endless = self.incoming.len() > MAX_LINE && !self.has_more && !self.waits;
        // Who has ended and waits is gone when its lines have been worked on.
        if (ended && !self.waits) || (self.outgoing.is_empty() && endless) {
            Err(Over::Closed)
        } else {
            Ok(())
        }
    }

    /// Sends an answer that the client has been waiting for.
    pub fn answer(&mut self, text: &str) -> Result<(), Over> {
        self.outgoing.extend_from_slice(text.as_bytes());
        self.flush()
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
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    lines: Lines,
    session: Session,
}

impl Client {
    /// Returns until when others wait for this one to end what it has begun.
    fn keeps_until(&self) -> Option<Instant> {
        let until = self.lines.last_line + PATIENCE;
        self.session.is_under_way().then_some(until)
    }
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

    /// Returns what to poll clients for; those that wait for others are not among them.
    pub fn clients(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|client| &client.lines).enumerate();
        clients
            .filter(|(_, lines)| !lines.waits())
            .map(|(number, lines)| (number, lines.as_fd(), lines.interest()))
    }

    /// Returns which clients' requests can be worked on.
    pub fn unfinished(&self, now: Instant) -> impl Iterator<Item = bool> {
        self.clients
            .iter()
            .enumerate()
            .map(move |(number, Client { lines, .. })| {
                lines.has_more() || (lines.waits() && !self.has_to_wait(now, number))
            })
    }

    /// Returns when one can be worked on that waits, if nothing comes before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.clients.iter().any(|client| client.lines.waits());
        let kept = self.clients.iter().filter_map(Client::keeps_until);
        kept.filter(|_| waits).min()
    }

    /// Returns whether another client is in the middle of a request.
    fn has_to_wait(&self, now: Instant, number: usize) -> bool {
        let others = (0..).zip(&self.clients).filter(|(other, _)| *other != number);
        others
            .filter_map(|(_, client)| client.keeps_until())
            .any(|until| now < until)
    }

    /// Accepts a client. When too many are there, the one unheard for longest has to go.
    pub fn handle_connection(&mut self, now: Instant, device: &mut [&mut Device], ports: &mut impl Ports) {
        let Some(stream) = self.listener.accept() else {
            return;
        };
        if self.clients.len() >= MAX_CLIENTS {
            let oldest = (0..self.clients.len()).min_by_key(|at| self.clients[*at].lines.last_heard);
            if let Some(oldest) = oldest {
                let mut client = self.clients.swap_remove(oldest);
                client.session.handle_end(now, device, ports);
            }
        }
        self.clients.push(Client {
            lines: Lines::new(stream, now),
            session: Session::default(),
        });
    }

    /// Returns the listener, to be given up or owned.
    pub fn listener_mut(&mut self) -> &mut Listener {
        &mut self.listener
    }

    /// Serves clients that have sent something, or can be answered, or have waited for others. Perhaps one of them wants to take
    /// over.
    pub fn handle_ready(
        &mut self,
        now: Instant,
        ready: &[bool; MAX_CLIENTS],
        device: &mut [&mut Device],
        ports: &mut impl Ports,
    ) -> Option<Request> {
        let mut request = None;
        // A get comes first: it keeps others waiting for a moment at most.
        let asks = |client: &Client| client.lines.waits() && client.lines.incoming.starts_with(b"get=");
        let (first, then): (Vec<_>, Vec<_>) = (0..self.clients.len())
            .filter(|number| ready[*number])
            .partition(|number| asks(&self.clients[*number]));
        let mut over = [false; MAX_CLIENTS];
        for number in first.into_iter().chain(then) {
            let has_to_wait = self.has_to_wait(now, number);
            let Client { lines, session } = &mut self.clients[number];
            let open = lines.handle_ready(now, TURN, |line| {
                if has_to_wait && session.is_idle() {
                    return Reply::Wait;
                }
                session.handle_line(now, line, device, ports)
            });
            match open {
                Ok(()) => continue,
                Err(Over::Closed) => {}
                Err(Over::HandOver(asked)) => request = Some(asked),
            }
            session.handle_end(now, device, ports);
            over[number] = true;
        }
        let mut over = over.into_iter();
        self.clients.retain(|_| !over.next().unwrap_or(false));
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
