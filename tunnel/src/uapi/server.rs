//! The UAPI's socket: a listener and its clients, never waited for.

use std::{
    fs, io,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::poll::PollFlags;
use thiserror::Error;

use crate::{
    device::Device,
    hand_over::Request,
    uapi::{Ports, Reply, Session},
};

/// `wg` opens one connection at a time; a few may hang.
pub(crate) const MAX_CLIENTS: usize = 16;
/// The longest line is far below.
const MAX_LINE: usize = 4096;
/// How much of a request is read before packets have their turn again.
const CHUNK: usize = 64 * 1024;

/// A socket cannot be made.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Its folder cannot be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process answers there.
    #[error("another process serves {path}")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A dead socket cannot be removed, or a new one not made.
    #[error("cannot listen on {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening unix socket for root alone, which removes its file when it goes.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// So that a file that another process put in the place is left alone.
    file: FileId,
    /// Whether the file goes with this one.
    owned: bool,
    /// Until when a file that is gone is made again, for it took the place of a dead one.
    forgiving_until: Option<Instant>,
}

/// `wg` removes a socket at which nobody answers. Between its two looks this process may have put a new one in the place
/// of the dead one, and `wg` removes that instead. It is made again within this time.
const FORGIVING: Duration = Duration::from_secs(5);

/// Device and inode of a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u64, pub u64);

impl Listener {
    /// Makes the socket, and its folder if need be. A dead one left by a killed process is replaced.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let fail = |source| ListenError::Bind {
            path: path.into(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| ListenError::Folder {
                    path: folder.into(),
                    source,
                })?;
        }
        let replaces = match UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::InUse { path: path.into() }),
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        let (socket, file) = listen(path).map_err(fail)?;
        Ok(Self {
            socket,
            path: path.into(),
            file,
            owned: true,
            forgiving_until: replaces.then(|| Instant::now() + FORGIVING),
        })
    }

    /// Goes on with a socket of another process, which still owns its file; or makes one when that file is not here.
    pub fn adopt(socket: OwnedFd, file: FileId, path: &Path) -> Result<Self, ListenError> {
        if !identity(path).is_ok_and(|here| here == file) {
            return Self::bind(path);
        }
        Ok(Self {
            socket: socket.into(),
            path: path.into(),
            file,
            owned: false,
            forgiving_until: None,
        })
    }

    /// Whether the file is removed when this one goes.
    pub fn own(&mut self, owned: bool) {
        self.owned = owned;
    }

    /// Its file.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Looks after the socket's file: `false` when somebody removed or replaced it to end this one. A file that went with
    /// the dead one whose place it took is made again; whoever connected to the lost one goes on.
    pub fn inspect(&mut self, now: Instant) -> bool {
        if self.is_present() {
            return true;
        }
        let lost = !self.path.exists() && self.forgiving_until.is_some_and(|until| now < until);
        if !lost {
            return false;
        }
        match listen(&self.path) {
            Ok((socket, file)) => {
                tracing::info!(path = %self.path.display(), "the new socket went with the dead one; made it again");
                (self.socket, self.file) = (socket, file);
                true
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot make the socket again");
                false
            }
        }
    }

    /// Whether the socket's file is still this one.
    fn is_present(&self) -> bool {
        identity(&self.path).is_ok_and(|file| file == self.file)
    }

    /// The next client, if one waits.
    pub fn accept(&self) -> Option<UnixStream> {
        let (stream, _) = self.socket.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.owned && self.is_present() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens there, whatever file is in the place.
fn listen(path: &Path) -> io::Result<(UnixListener, FileId)> {
    // wg removes a socket that does not answer, as this one does not between its two system calls. So it gets its name
    // when it listens and is for root alone.
    let unfinished = path.with_extension("unfinished");
    let _ = fs::remove_file(&unfinished);
    let socket = UnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    let file = identity(&unfinished)?;
    fs::rename(&unfinished, path)?;
    Ok((socket, file))
}

fn identity(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|meta| FileId(meta.dev(), meta.ino()))
}

/// A client's bytes, cut into lines, and the answer it has not read yet.
#[derive(Debug)]
pub struct Lines {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` is sent.
    sent: usize,
    last_heard: Instant,
}

/// A connection is over.
#[derive(Debug)]
pub enum Over {
    /// There is nobody any more, or nobody to talk to.
    Closed,
    /// It has become the request of another process to take over.
    HandOver(Request),
}

impl Lines {
    /// A fresh connection.
    pub fn new(stream: UnixStream, now: Instant) -> Self {
        Self {
            stream,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            last_heard: now,
        }
    }

    /// What to poll for: a client reads its answer before it is heard again.
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
    pub fn handle_ready(&mut self, now: Instant, mut handle: impl FnMut(&str) -> Reply) -> Result<(), Over> {
        self.last_heard = now;
        let mut ended = false;
        if self.outgoing.is_empty() {
            ended = self.fill()?;
        }
        self.flush()?;
        let mut start = 0;
        while self.outgoing.is_empty() {
            let Some(end) = self.incoming[start..].iter().position(|byte| *byte == b'\n') else {
                break;
            };
            let line = String::from_utf8_lossy(&self.incoming[start..start + end]);
            start += end + 1;
            match handle(&line) {
                Reply::More => {}
                Reply::Answer(text) => {
                    self.outgoing = text.into_bytes();
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
        if ended || (self.outgoing.is_empty() && self.incoming.len() > MAX_LINE) {
            Err(Over::Closed)
        } else {
            Ok(())
        }
    }

    /// Whether the other side has ended.
    fn fill(&mut self) -> Result<bool, Over> {
        let before = self.incoming.len();
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
        self.outgoing = Vec::new();
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

    /// The listener.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The clients, with what to poll them for.
    pub fn clients(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.clients
            .iter()
            .map(|(lines, _)| (lines.as_fd(), lines.interest()))
    }

    /// A client knocks. When too many are there, the one unheard for longest has to go.
    pub fn handle_knock(&mut self, now: Instant, device: &mut [&mut Device], ports: &mut impl Ports) {
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

    /// The listener, to be given up or owned.
    pub fn listener_mut(&mut self) -> &mut Listener {
        &mut self.listener
    }

    /// Clients have something to say, or can be answered; `ready` is in the order of [`Self::clients`]. Perhaps one of
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
            let open = lines.handle_ready(now, |line| session.handle_line(now, line, device, ports));
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
