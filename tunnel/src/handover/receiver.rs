//! The new process's side of a handover.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    handover::{
        format::{self, FormatError, Transfer, VERSION},
        protocol::{Channel, TAKEN, YOURS},
    },
    link::network,
};

/// How long the new process waits: the old one may be busy with another for its whole patience, and has much to send.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that asks while another takes over may have its connection closed; the new process answers it then.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Devices could not be taken over. They are where they were.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// There is a socket, but it cannot be spoken to.
    #[error("cannot ask the process at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The old process closed the connection without a word.
    #[error("the running process does not hand over (is it of a version that cannot?)")]
    Unheard,
    /// The old process closed the connection in the middle, or did not answer in time.
    #[error("the running process has not finished handing over")]
    Io(#[source] io::Error),
    /// What it sends is no hand-over.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Nothing here would be where its packets are.
    #[error("the running process is in another network namespace")]
    Network,
}

/// What the old process would hand over. It goes on with it if this is dropped.
#[derive(Debug)]
pub struct Offer<'a> {
    channel: Channel<'a>,
    /// Everything that it would hand over.
    pub transfer: Transfer<OwnedFd>,
}

impl<'a> Offer<'a> {
    /// Asks on a socket with the verb for it; `None` when no process serves it.
    pub fn ask(path: &Path, verb: &str, stop: BorrowedFd<'a>) -> Result<Option<Self>, ReceiveError> {
        for _ in 1..ATTEMPTS {
            match Self::ask_once(path, verb, stop) {
                Err(ReceiveError::Unheard) => thread::sleep(PAUSE),
                done => return done,
            }
        }
        Self::ask_once(path, verb, stop)
    }

    fn ask_once(path: &Path, verb: &str, stop: BorrowedFd<'a>) -> Result<Option<Self>, ReceiveError> {
        let fail = |source| ReceiveError::Connect {
            path: path.into(),
            source,
        };
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                tracing::info!(path = %path.display(), "no process to take over from");
                return Ok(None);
            }
            Err(error) => return Err(fail(error)),
        };
        let channel = Channel::new(stream, PATIENCE, Some(stop));
        channel
            .send(format!("{verb}{VERSION}\n").as_bytes(), &[])
            .map_err(|error| unheard(true, error))?;
        let transfer = receive(&channel)?;
        if transfer.network.is_some_and(|inode| network() != Some(inode)) {
            return Err(ReceiveError::Network);
        }
        Ok(Some(Self { channel, transfer }))
    }

    /// Says that everything is understood: once this returns, it is this process's.
    pub fn accept(self) -> Result<(), ReceiveError> {
        self.channel
            .send(format!("{TAKEN}\n").as_bytes(), &[])
            .map_err(ReceiveError::Io)?;
        match self.channel.receive_line().map_err(ReceiveError::Io)? {
            answer if answer == YOURS => Ok(()),
            answer => Err(FormatError::Version(answer).into()),
        }
    }
}

fn receive(channel: &Channel<'_>) -> Result<Transfer<OwnedFd>, ReceiveError> {
    let (mut bytes, mut descriptors) = (Secret::default(), VecDeque::new());
    let mut chunk = Zeroizing::new(vec![0; 64 * 1024]);
    let mut measured = None;
    loop {
        let received = channel
            .receive(&mut chunk, &mut descriptors)
            .map_err(|error| unheard(bytes.0.is_empty(), error))?;
        bytes.extend(&chunk[..received]);
        if measured.is_none() {
            measured = format::measure(&bytes.0)?;
        }
        let Some((head, whole)) = measured else { continue };
        if bytes.0.len() >= whole {
            let text =
                std::str::from_utf8(&bytes.0[head..]).map_err(|_| FormatError::Line("configuration"))?;
            return Ok(Transfer::parse(text, descriptors)?);
        }
    }
}

/// Bytes with keys in them: what they grow out of is wiped.
#[derive(Default)]
struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    fn extend(&mut self, more: &[u8]) {
        let needed = self.0.len() + more.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * needed));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(more);
    }
}

fn unheard(nothing: bool, error: io::Error) -> ReceiveError {
    let gone = [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
    ];
    if nothing && gone.contains(&error.kind()) {
        ReceiveError::Unheard
    } else {
        ReceiveError::Io(error)
    }
}
