//! Several devices in one process, made and removed on demand: what runs on every node of a cluster.
//!
//! The control socket takes lines and answers each with `ok` or `error REASON`:
//!
//! ```text
//! up NAME      there shall be a device with this name (and is one already, perhaps)
//! down NAME    there shall be none
//! list         the names of all devices, one a line, before the `ok`
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
    interface::{Interface, InterfaceError, Options},
    uapi::{
        Reply,
        server::{Lines, ListenError, Listener},
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

/// A device in its thread. It ends when `stop` is closed.
#[derive(Debug)]
struct Running {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

/// All devices of this process.
#[derive(Debug)]
struct Fleet {
    socket_folder: PathBuf,
    options: Options,
    running: BTreeMap<String, Running>,
}

/// Serves the control socket until `stop` is readable, then removes all devices.
pub fn serve(
    control: &Path,
    socket_folder: &Path,
    options: Options,
    stop: BorrowedFd<'_>,
) -> Result<(), ServeError> {
    let listener = Listener::bind(control)?;
    tracing::info!(control = %control.display(), "waiting to be asked for devices");
    let mut fleet = Fleet {
        socket_folder: socket_folder.into(),
        options,
        running: BTreeMap::new(),
    };
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
            return Ok(());
        }
        let now = Instant::now();
        let mut heard = ready[2..].iter();
        clients.retain_mut(|client| {
            !heard.next().copied().unwrap_or(false)
                || client.handle_ready(now, |line| fleet.handle_line(line)).is_ok()
        });
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
        let (stop, stopped) = UnixStream::pair().map_err(UpError::Thread)?;
        let label = name.to_owned();
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _span = tracing::info_span!("device", name = label).entered();
                if let Err(error) = interface.run(stopped.as_fd()) {
                    tracing::error!(error = &error as &dyn std::error::Error, "device failed");
                }
            })
            .map_err(UpError::Thread)?;
        self.running.insert(
            name.into(),
            Running {
                stop: stop.into(),
                thread,
            },
        );
        tracing::info!(name, "device is there");
        Ok(())
    }

    fn down(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.end();
            tracing::info!(name, "device removed");
        }
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
    fn end(self) {
        drop(self.stop);
        // A panic in it has been printed where it happened.
        let _ = self.thread.join();
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
