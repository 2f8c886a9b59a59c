//! A listening unix socket with a file of its own: of the UAPI, or of the control protocol.

use std::{
    fs, io,
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

/// A socket cannot be created.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Its folder cannot be created.
    #[error("cannot create the folder {path}")]
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
    /// A dead socket cannot be removed, or a new one not created.
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
    /// Until when a file that is gone is created again, for it took the place of a dead one.
    forgiving_until: Option<Instant>,
    /// Until when no client is accepted, for there is no descriptor left for one.
    resting_until: Option<Instant>,
}

/// `wg` removes a socket at which no process answers. Between its two looks this process may have put a new one in the place
/// of the dead one, and `wg` removes that instead. It is created again within this time.
const FORGIVING: Duration = Duration::from_secs(5);

/// How long a process without a free descriptor does without clients.
const REST: Duration = Duration::from_secs(1);

/// Device and inode of a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u64, pub u64);

impl Listener {
    /// Creates the socket, and its folder if need be. A dead one left by a killed process is replaced.
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
            resting_until: None,
        })
    }

    /// Goes on with a socket of another process, which still owns its file; or creates one when that file is not here.
    pub fn adopt(socket: OwnedFd, file: FileId, path: &Path) -> Result<Self, ListenError> {
        if !file_id(path).is_ok_and(|here| here == file) {
            return Self::bind(path);
        }
        Ok(Self {
            socket: socket.into(),
            path: path.into(),
            file,
            owned: false,
            forgiving_until: None,
            resting_until: None,
        })
    }

    /// Takes a listening socket that the process that started this one has made in this place.
    pub fn inherit(socket: OwnedFd, path: &Path) -> Result<Self, ListenError> {
        let socket = UnixListener::from(socket);
        let fail = |source| ListenError::Bind {
            path: path.into(),
            source,
        };
        let own = socket.local_addr().map_err(fail)?;
        let file = file_id(path).map_err(fail)?;
        // There may be several ways to a folder: /var/run is /run.
        let is_here = |own: &Path| file_id(own).is_ok_and(|own| own == file);
        if !own.as_pathname().is_some_and(is_here) {
            let wrong = format!("WG_UAPI_FD listens on {own:?}");
            return Err(fail(io::Error::other(wrong)));
        }
        Ok(Self {
            socket,
            path: path.into(),
            file,
            owned: true,
            forgiving_until: None,
            resting_until: None,
        })
    }

    /// Sets whether the file is removed when this one goes.
    pub fn own(&mut self, owned: bool) {
        self.owned = owned;
    }

    /// Returns its file.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Looks after the socket's file: `false` when it was removed or replaced to end this one. A file that went with
    /// the dead one whose place it took is created again; clients of the lost one go on.
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
                tracing::info!(path = %self.path.display(), "the new socket was removed with the dead one, created again");
                (self.socket, self.file) = (socket, file);
                true
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot create the socket again");
                false
            }
        }
    }

    /// Returns whether the socket's file is still this one.
    fn is_present(&self) -> bool {
        file_id(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Returns the next client, if one waits. Where none can be accepted, the next try has to wait ([`Self::interest`]).
    pub fn accept(&mut self) -> Option<UnixStream> {
        match self.socket.accept() {
            Ok((stream, _)) => stream.set_nonblocking(true).ok().map(|()| stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a client cannot be accepted");
                self.resting_until = Some(Instant::now() + REST);
                None
            }
        }
    }

    /// Returns what to poll for: nothing after a client could not be accepted, who still waits.
    pub fn interest(&self, now: Instant) -> PollFlags {
        if self.rests_until(now).is_some() {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        }
    }

    /// Returns until when it is not to be polled.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.resting_until.filter(|until| now < *until)
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
    let file = file_id(&unfinished)?;
    fs::rename(&unfinished, path)?;
    Ok((socket, file))
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|meta| FileId(meta.dev(), meta.ino()))
}
