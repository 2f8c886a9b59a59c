//! The new process's side of a hand-over.

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

use crate::{
    hand_over::{
        Channel, TAKEN, YOURS,
        parcel::{self, FormatError, Parcel, VERSION},
    },
    interface::{
        Interface, InterfaceError, Options,
        heir::{Heir, HeirError},
    },
    link::network,
};

/// How long the new process waits: the old one may be busy with another for its whole patience, and has much to send.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whoever asks while another takes over may be hung up on, and is heard by the new process.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Devices could not be taken over. They are where they were.
#[derive(Debug, Error)]
pub enum TakeError {
    /// There is a socket, but it cannot be spoken to.
    #[error("cannot ask the process at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The old process hung up without a word.
    #[error("the running process does not hand over (is it of a version that cannot?)")]
    Unheard,
    /// The old process hung up in the middle, or did not answer in time.
    #[error("the running process has not finished handing over")]
    Io(#[source] io::Error),
    /// What it sends is no hand-over.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Nothing here would be where its packets are.
    #[error("the running process is in another network namespace")]
    Network,
    /// It handed over something else than was asked for.
    #[error("the running process hands over something else than what was asked for")]
    Other,
    /// A device is not what it should be.
    #[error("cannot go on with the device {name}")]
    Heir {
        /// The device.
        name: String,
        /// Why.
        source: HeirError,
    },
}

/// What the old process would hand over. It goes on with it if this is dropped.
#[derive(Debug)]
pub struct Offer<'a> {
    channel: Channel<'a>,
    /// Everything.
    pub parcel: Parcel<OwnedFd>,
}

impl<'a> Offer<'a> {
    /// Asks on a socket with the verb for it; `None` when nobody is there.
    pub fn ask(path: &Path, verb: &str, stop: BorrowedFd<'a>) -> Result<Option<Self>, TakeError> {
        for _ in 1..ATTEMPTS {
            match Self::ask_once(path, verb, stop) {
                Err(TakeError::Unheard) => thread::sleep(PAUSE),
                done => return done,
            }
        }
        Self::ask_once(path, verb, stop)
    }

    fn ask_once(path: &Path, verb: &str, stop: BorrowedFd<'a>) -> Result<Option<Self>, TakeError> {
        let fail = |source| TakeError::Connect {
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
                tracing::info!(path = %path.display(), "there is nobody to take over from");
                return Ok(None);
            }
            Err(error) => return Err(fail(error)),
        };
        let channel = Channel::new(stream, PATIENCE, Some(stop));
        channel
            .send(format!("{verb}{VERSION}\n").as_bytes(), &[])
            .map_err(|error| unheard(true, error))?;
        let parcel = receive(&channel)?;
        if parcel.network.is_some_and(|inode| network() != Some(inode)) {
            return Err(TakeError::Network);
        }
        Ok(Some(Self { channel, parcel }))
    }

    /// Everything is understood: from here on it is this process's.
    fn accept(channel: &Channel<'_>) -> Result<(), TakeError> {
        channel
            .send(format!("{TAKEN}\n").as_bytes(), &[])
            .map_err(TakeError::Io)?;
        match channel.receive_line().map_err(TakeError::Io)? {
            answer if answer == YOURS => Ok(()),
            answer => Err(FormatError::Version(answer).into()),
        }
    }

    /// Takes everything: the control socket, if there is one, and the devices by name.
    pub fn take(self, socket_folder: &Path, options: Options) -> Result<Taken, TakeError> {
        let Self { channel, parcel } = self;
        let mut heirs = Vec::new();
        for handed in parcel.devices {
            let name = handed.name.clone();
            match Heir::prepare(handed, socket_folder, options) {
                Ok(heir) => heirs.push((name, heir)),
                Err(source) => return Err(TakeError::Heir { name, source }),
            }
        }
        Self::accept(&channel)?;
        let interfaces = heirs.into_iter().map(|(name, heir)| (name, heir.inherit()));
        Ok(interfaces.collect())
    }
}

/// Devices by name. One that fails after all takes no other along.
pub type Taken = Vec<(String, Result<Interface, InterfaceError>)>;

/// Takes over the device that this UAPI socket belongs to; `None` when nobody is there.
pub fn one(
    name: &str,
    socket_folder: &Path,
    options: Options,
    stop: BorrowedFd<'_>,
) -> Result<Option<Result<Interface, InterfaceError>>, TakeError> {
    let path = socket_folder.join(format!("{name}.sock"));
    let Some(offer) = Offer::ask(&path, "hand-over=", stop)? else {
        return Ok(None);
    };
    if !matches!(&offer.parcel.devices[..], [device] if device.name == name) {
        return Err(TakeError::Other);
    }
    let taken = offer.take(socket_folder, options)?;
    Ok(taken.into_iter().next().map(|(_, interface)| interface))
}

fn receive(channel: &Channel<'_>) -> Result<Parcel<OwnedFd>, TakeError> {
    let (mut bytes, mut descriptors) = (Vec::new(), VecDeque::new());
    let mut chunk = vec![0; 64 * 1024];
    let mut measured = None;
    loop {
        let received = channel
            .receive(&mut chunk, &mut descriptors)
            .map_err(|error| unheard(bytes.is_empty(), error))?;
        bytes.extend_from_slice(&chunk[..received]);
        if measured.is_none() {
            measured = parcel::measure(&bytes)?;
        }
        let Some((head, whole)) = measured else { continue };
        if bytes.len() >= whole {
            let text = std::str::from_utf8(&bytes[head..]).map_err(|_| FormatError::Line("configuration"))?;
            return Ok(Parcel::parse(text, descriptors)?);
        }
    }
}

fn unheard(nothing: bool, error: io::Error) -> TakeError {
    let gone = [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
    ];
    if nothing && gone.contains(&error.kind()) {
        TakeError::Unheard
    } else {
        TakeError::Io(error)
    }
}
