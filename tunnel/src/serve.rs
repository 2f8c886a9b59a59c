//! Several devices in one process, made and removed on demand: what runs on every node of a cluster.
//!
//! The control socket takes lines and answers each with `ok` or `error REASON`:
//!
//! ```text
//! up NAME      there shall be a device with this name (and is one already, perhaps)
//! down NAME    there shall be none
//! list         the names of all devices, one a line, before the `ok`
//! await-end    the `ok` comes when this process is asked to end
//! hand-over 1  another process wants all devices and this socket; the answer is described in [`crate::handover`]
//! ```
//!
//! Asked to end, by SIGTERM or SIGINT, the process ends its devices at once, unless a client waits to hear of that: then it goes on for
//! [`NOTICE`], in which others can turn to another way, or another process take the devices over.
//!
//! A device lives as long as the process, whichever client asked for it and whether that is still connected. Each has a thread of its
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
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use thiserror::Error;

use crate::{
    handover::{
        Exit,
        format::{Socket, Transfer},
        protocol::Request,
        receiver::Offer,
    },
    listener::{ListenError, Listener},
    notify,
    runtime::{
        End, Options, Runtime, RuntimeError,
        adopt::{self, AdoptError},
    },
    tun,
    uapi::{
        Reply,
        server::{Lines, Over},
    },
};

/// The agent holds one connection; people may connect beside it.
const MAX_CLIENTS: usize = 16;

/// How long devices go on when a client has heard that they are about to end. Others notice within half a second that nothing
/// answers any more, and have the rest to act upon it; it is well below the grace period of the chart's pods.
pub const NOTICE: Duration = Duration::from_secs(2);

/// The control socket cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The running process's devices cannot be taken over.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The loop cannot wait.
    #[error("cannot poll")]
    Poll(#[source] io::Error),
}

/// A device cannot be started.
#[derive(Debug, Error)]
enum UpError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot spawn its thread")]
    Thread(#[source] io::Error),
}

/// A device in its thread. It ends when `stop` is closed, and is given back if it did not end by itself.
#[derive(Debug)]
struct Running {
    stop: OwnedFd,
    thread: JoinHandle<Option<Runtime>>,
}

/// A connection to the control socket.
#[derive(Debug)]
struct Client {
    lines: Lines,
    /// It waits to hear that this process is about to end.
    awaits_end: bool,
}

/// What there is something to do for.
#[derive(Debug)]
struct Ready {
    stop: bool,
    listener: bool,
    /// Each client.
    clients: Vec<bool>,
}

/// All devices of this process.
#[derive(Debug)]
struct Devices {
    socket_folder: PathBuf,
    options: Options,
    running: BTreeMap<String, Running>,
}

/// Serves the control socket until `stop` is readable, and for [`NOTICE`] more where a client waits to hear of that, then ends all
/// devices; or until another process has them. With
/// `take_over`, begins with those of the process that serves it now, if there is one.
pub fn serve(
    control: &Path,
    socket_folder: &Path,
    options: Options,
    take_over: bool,
    stop: BorrowedFd<'_>,
) -> Result<Exit, ServeError> {
    let mut devices = Devices {
        socket_folder: socket_folder.into(),
        options,
        running: BTreeMap::new(),
    };
    let adopted = if take_over {
        devices.take_over(control, stop)?
    } else {
        None
    };
    let mut listener = match adopted {
        Some(listener) => listener,
        None => Listener::bind(control)?,
    };
    tracing::info!(control = %control.display(), "serving the control socket");
    notify::ready();
    let mut clients: Vec<Client> = Vec::new();
    let mut ends_at = None;
    loop {
        let ready = wait(stop, ends_at, &listener, &clients).map_err(ServeError::Poll)?;
        let now = Instant::now();
        if ready.stop && devices.carry() && notify_end(&mut clients) {
            tracing::info!("asked to end: going on for a moment, until others have turned to another way");
            ends_at = Some(now + NOTICE);
        }
        if ends_at.map_or(ready.stop, |at| at <= now) {
            return Ok(Exit::Ended);
        }
        if let Some(request) = devices.handle_clients(now, &ready.clients, &mut clients)
            && devices.hand_over(request, &listener)
        {
            listener.own(false);
            return Ok(Exit::HandedOver);
        }
        if ends_at.is_some() {
            notify_end(&mut clients);
        }
        if ready.listener
            && let Some(stream) = listener.accept()
        {
            if clients.len() >= MAX_CLIENTS {
                clients.remove(0);
            }
            clients.push(Client {
                lines: Lines::new(stream, now),
                awaits_end: false,
            });
        }
    }
}

/// Answers the clients that wait to hear that this process is about to end. Returns whether there are any.
fn notify_end(clients: &mut [Client]) -> bool {
    let mut any = false;
    for client in clients {
        // One that is gone is noticed when it is read from.
        any |= std::mem::take(&mut client.awaits_end) && client.lines.answer("ok\n").is_ok();
    }
    any
}

/// Waits for something to do, or for the end that is due; once there is one, `stop` has been heard.
fn wait(
    stop: BorrowedFd<'_>,
    ends_at: Option<Instant>,
    listener: &Listener,
    clients: &[Client],
) -> io::Result<Ready> {
    let now = Instant::now();
    let mut fds = vec![PollFd::new(listener.as_fd(), listener.interest(now))];
    fds.extend(clients.iter().map(|client| {
        let lines = &client.lines;
        PollFd::new(lines.as_fd(), lines.interest())
    }));
    if ends_at.is_none() {
        fds.push(PollFd::new(stop, PollFlags::POLLIN));
    }
    let until = listener.rests_until(now).into_iter().chain(ends_at).min();
    let patience = until.map_or(PollTimeout::NONE, |until| {
        let left = until.saturating_duration_since(now).as_micros();
        PollTimeout::try_from(left.div_ceil(1000)).unwrap_or(PollTimeout::ZERO)
    });
    match poll(&mut fds, patience) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
    Ok(Ready {
        listener: ready.next().unwrap_or(false),
        clients: ready.by_ref().take(clients.len()).collect(),
        stop: ready.next().unwrap_or(false),
    })
}

impl Devices {
    /// Returns whether there is any device.
    fn carry(&mut self) -> bool {
        self.remove_finished();
        !self.running.is_empty()
    }

    /// Answers clients that are ready, and forgets those whose connection is over. One of them may want to take over.
    fn handle_clients(&mut self, now: Instant, ready: &[bool], clients: &mut Vec<Client>) -> Option<Request> {
        let mut ready = ready.iter();
        let mut request = None;
        clients.retain_mut(|client| {
            if !ready.next().copied().unwrap_or(false) {
                return true;
            }
            let Client { lines, awaits_end } = client;
            let handled = lines.handle_ready(now, Duration::MAX, |line| {
                if line == "await-end" {
                    *awaits_end = true;
                    return Reply::More;
                }
                self.handle_line(line)
            });
            match handled {
                Ok(()) => return true,
                Err(Over::Closed) => {}
                Err(Over::HandOver(asked)) => request = Some(asked),
            }
            false
        });
        request
    }

    fn handle_line(&mut self, line: &str) -> Reply {
        self.remove_finished();
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
            _ => "error the commands are: up NAME, down NAME, list, await-end\n".into(),
        };
        Reply::Answer(answer)
    }

    fn up(&mut self, name: &str) -> Result<(), UpError> {
        if self.running.contains_key(name) {
            return Ok(());
        }
        let runtime = Runtime::create(name, &self.socket_folder, self.options)?;
        self.start(name, runtime).map_err(UpError::Thread)?;
        tracing::info!(name, "device started");
        Ok(())
    }

    fn start(&mut self, name: &str, mut runtime: Runtime) -> io::Result<()> {
        let (stop, stopped) = UnixStream::pair()?;
        let label = name.to_owned();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _span = tracing::info_span!("device", name = label).entered();
            loop {
                match runtime.run(stopped.as_fd()) {
                    Ok(End::Stopped) => return Some(runtime),
                    Ok(End::HandoverRequested(request)) => {
                        request.refuse("this device is one of several: take over by their control socket");
                        continue;
                    }
                    Ok(End::SocketGone) => runtime.remove(),
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
            if let Some(runtime) = running.end() {
                runtime.remove();
            }
            tracing::info!(name, "device removed");
        } else if let Err(error) = tun::remove_kept(name) {
            tracing::debug!(name, %error, "no interface to remove");
        }
    }

    /// Goes on with the devices of the process that serves the control socket, and with that socket; `None` when no
    /// process does.
    fn take_over(&mut self, control: &Path, stop: BorrowedFd<'_>) -> Result<Option<Listener>, ServeError> {
        let Some(mut offer) = Offer::ask(control, "hand-over ", stop).map_err(AdoptError::from)? else {
            return Ok(None);
        };
        let Socket { file, socket } = offer.transfer.control.take().ok_or(AdoptError::Other)?;
        let mut listener = Listener::adopt(socket, file, control)?;
        let adopted = adopt::all(offer, &self.socket_folder, self.options)?;
        listener.own(true);
        for (name, runtime) in adopted {
            let started = runtime
                .map_err(UpError::Runtime)
                .and_then(|runtime| self.start(&name, runtime).map_err(UpError::Thread));
            if let Err(error) = started {
                tracing::error!(
                    name,
                    error = &error as &dyn std::error::Error,
                    "cannot go on with a device"
                );
            }
        }
        Ok(Some(listener))
    }

    /// Stops all devices and hands them over, or starts them again.
    fn hand_over(&mut self, request: Request, listener: &Listener) -> bool {
        self.remove_finished();
        let runtimes: Vec<_> = std::mem::take(&mut self.running)
            .into_iter()
            .filter_map(|(name, running)| Some((name, running.end()?)))
            .collect();
        let control = Socket {
            file: listener.file(),
            socket: listener.as_fd(),
        };
        let devices = runtimes.iter().map(|(_, runtime)| runtime.transfer()).collect();
        let given = request.hand_over(&Transfer::new(Some(control), devices));
        for (name, runtime) in runtimes {
            if given {
                runtime.release();
            } else if let Err(error) = self.start(&name, runtime) {
                tracing::error!(name, %error, "cannot start a device again");
            }
        }
        given
    }

    /// Forgets devices that ended by themselves.
    fn remove_finished(&mut self) {
        self.running.retain(|_, running| !running.thread.is_finished());
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.end();
        }
    }
}

impl Running {
    fn end(self) -> Option<Runtime> {
        drop(self.stop);
        // A panic in it has been printed where it happened.
        self.thread.join().ok().flatten()
    }
}

/// Returns an error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").expect("writing into a string cannot fail");
        source = cause.source();
    }
    text.replace('\n', " ")
}
