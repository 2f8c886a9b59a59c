//! Several devices in one process, made and removed on demand: what runs on every node of a cluster.
//!
//! The control socket takes lines and answers each with `ok` or `error REASON`:
//!
//! ```text
//! up NAME      there shall be a device with this name (and is one already, perhaps)
//! down NAME    there shall be none
//! list         the names of all devices, one a line, before the `ok`
//! hand-over 1  another process wants all devices and this socket; the answer is described in [`crate::hand_over`]
//! ```
//!
//! A device lives as long as the process, whoever asked for it and whether it still listens. Each has a thread of its
//! own, so that one that fails takes no other along.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use thiserror::Error;

use crate::{
    hand_over::{
        Outcome, Request, is_given,
        parcel::{Parcel, Socket},
        take::{Offer, TakeError},
    },
    interface::{End, Interface, InterfaceError, Options},
    tun,
    uapi::{
        Reply,
        server::{Lines, ListenError, Listener, Over},
    },
};

/// The agent holds one connection; people may look in beside it.
const MAX_CLIENTS: usize = 16;

/// The control socket cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The running process's devices cannot be taken over.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The loop cannot wait.
    #[error("cannot poll")]
    Poll(#[source] io::Error),
}

/// A device cannot be started.
#[derive(Debug, Error)]
enum UpError {
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    #[error("cannot start its thread")]
    Thread(#[source] io::Error),
}

/// A device in its thread. It ends when `stop` is closed, and is given back if it did not end by itself.
#[derive(Debug)]
struct Running {
    stop: OwnedFd,
    thread: JoinHandle<Option<Interface>>,
}

/// All devices of this process.
#[derive(Debug)]
struct Fleet {
    socket_folder: PathBuf,
    options: Options,
    running: BTreeMap<String, Running>,
}

/// Serves the control socket until `stop` is readable, then ends all devices; or until another process has them. With
/// `take_over`, begins with those of the process that serves it now, if there is one.
pub fn serve(
    control: &Path,
    socket_folder: &Path,
    options: Options,
    take_over: bool,
    stop: BorrowedFd<'_>,
) -> Result<Outcome, ServeError> {
    let mut fleet = Fleet {
        socket_folder: socket_folder.into(),
        options,
        running: BTreeMap::new(),
    };
    let offer = if take_over {
        Offer::ask(control, "hand-over ", stop)?
    } else {
        None
    };
    let mut listener = match offer {
        Some(offer) => fleet.inherit(control, offer)?,
        None => Listener::bind(control)?,
    };
    tracing::info!(control = %control.display(), "waiting to be asked for devices");
    let mut clients: Vec<Lines> = Vec::new();
    loop {
        let mut fds = vec![
            PollFd::new(stop, PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(
            clients
                .iter()
                .map(|client| PollFd::new(client.as_fd(), client.interest())),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(ServeError::Poll(error.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        if ready[0] {
            return Ok(Outcome::Ended);
        }
        let now = Instant::now();
        let mut heard = ready[2..].iter();
        let mut request = None;
        clients.retain_mut(|client| {
            if !heard.next().copied().unwrap_or(false) {
                return true;
            }
            match client.handle_ready(now, |line| fleet.handle_line(line)) {
                Ok(()) => return true,
                Err(Over::Closed) => {}
                Err(Over::HandOver(asked)) => request = Some(asked),
            }
            false
        });
        if let Some(request) = request
            && fleet.hand_over(request, &listener)
        {
            listener.own(false);
            return Ok(Outcome::HandedOver);
        }
        if ready[1]
            && let Some(stream) = listener.accept()
        {
            if clients.len() >= MAX_CLIENTS {
                clients.remove(0);
            }
            clients.push(Lines::new(stream, now));
        }
    }
}

impl Fleet {
    fn handle_line(&mut self, line: &str) -> Reply {
        self.bury();
        let answer = match line.split_once(' ') {
            Some(("up", name)) => match self.up(name) {
                Ok(()) => "ok\n".into(),
                Err(error) => {
                    tracing::error!(
                        name,
                        error = &error as &dyn std::error::Error,
                        "cannot start a device"
                    );
                    format!("error {}\n", chain(&error))
                }
            },
            Some(("down", name)) => {
                self.down(name);
                "ok\n".into()
            }
            Some(("hand-over", version)) => return Reply::HandOver(version.into()),
            None if line == "list" => {
                let mut names = String::new();
                for name in self.running.keys() {
                    writeln!(names, "{name}").expect("writing into a string cannot fail");
                }
                names + "ok\n"
            }
            _ => "error the commands are: up NAME, down NAME, list\n".into(),
        };
        Reply::Answer(answer)
    }

    fn up(&mut self, name: &str) -> Result<(), UpError> {
        if self.running.contains_key(name) {
            return Ok(());
        }
        let interface = Interface::create(name, &self.socket_folder, self.options)?;
        self.start(name, interface).map_err(UpError::Thread)?;
        tracing::info!(name, "device is there");
        Ok(())
    }

    fn start(&mut self, name: &str, mut interface: Interface) -> io::Result<()> {
        let (stop, stopped) = UnixStream::pair()?;
        let label = name.to_owned();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _span = tracing::info_span!("device", name = label).entered();
            loop {
                match interface.run(stopped.as_fd()) {
                    Ok(End::Stopped) => return Some(interface),
                    Ok(End::Asked(request)) => {
                        request.refuse("this device is one of several: take over by their control socket");
                        continue;
                    }
                    Ok(End::SocketGone) => interface.remove(),
                    Ok(End::InterfaceGone) => {}
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "device failed");
                    }
                }
                return None;
            }
        })?;
        self.running.insert(
            name.into(),
            Running {
                stop: stop.into(),
                thread,
            },
        );
        Ok(())
    }

    fn down(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            if let Some(interface) = running.end() {
                interface.remove();
            }
            tracing::info!(name, "device removed");
        } else if let Err(error) = tun::remove_kept(name) {
            tracing::debug!(name, %error, "no interface to remove");
        }
    }

    /// Goes on with the devices of another process; the control socket is its own, too.
    fn inherit(&mut self, control: &Path, mut offer: Offer<'_>) -> Result<Listener, ServeError> {
        let Socket { file, socket } = offer.parcel.control.take().ok_or(TakeError::Other)?;
        let mut listener = Listener::adopt(socket, file, control)?;
        let taken = offer.take(&self.socket_folder, self.options)?;
        listener.own(true);
        for (name, interface) in taken {
            let started = interface
                .map_err(UpError::Interface)
                .and_then(|interface| self.start(&name, interface).map_err(UpError::Thread));
            if let Err(error) = started {
                tracing::error!(
                    name,
                    error = &error as &dyn std::error::Error,
                    "cannot go on with a device"
                );
            }
        }
        Ok(listener)
    }

    /// Stops all devices and hands them over, or starts them again.
    fn hand_over(&mut self, request: Request, listener: &Listener) -> bool {
        self.bury();
        let interfaces: Vec<_> = std::mem::take(&mut self.running)
            .into_iter()
            .filter_map(|(name, running)| Some((name, running.end()?)))
            .collect();
        let control = Socket {
            file: listener.file(),
            socket: listener.as_fd(),
        };
        let devices = interfaces
            .iter()
            .map(|(_, interface)| interface.handed())
            .collect();
        let given = is_given(request.give(&Parcel::new(Some(control), devices)));
        for (name, interface) in interfaces {
            if given {
                interface.release();
            } else if let Err(error) = self.start(&name, interface) {
                tracing::error!(name, %error, "cannot start a device again");
            }
        }
        given
    }

    /// Forgets devices that ended by themselves.
    fn bury(&mut self) {
        self.running.retain(|_, running| !running.thread.is_finished());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.end();
        }
    }
}

impl Running {
    fn end(self) -> Option<Interface> {
        drop(self.stop);
        // A panic in it has been printed where it happened.
        self.thread.join().ok().flatten()
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").expect("writing into a string cannot fail");
        source = cause.source();
    }
    text.replace('\n', " ")
}
