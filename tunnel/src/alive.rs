//! Whether a process that serves a control socket lives: it answers there, and so does each of its devices.
//!
//! A process that was stopped, or whose threads wait for each other, keeps its sockets, and the kernel takes connections to them in
//! its place. So only an answer counts. A device answers when each of its threads has let go of its packets for a moment.
//!
//! While another process takes over, connections are closed and nothing is answered for a while: it is asked again as long as there
//! is time.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// A list of devices is shorter.
const LONGEST: u64 = 64 * 1024;
/// A change that changes nothing: it is answered when all threads of the device have stopped for it, and costs the same however
/// many peers there are.
const NOTHING: &str = "set=1\n\n";

/// What does not answer.
#[derive(Debug, Error)]
pub enum SilentError {
    /// Nothing came in time.
    #[error("no answer at {path} in time: the process hangs, or the machine is too busy")]
    Time {
        /// The socket.
        path: PathBuf,
    },
    /// No process is there, or it closed the connection.
    #[error("no answer at {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something else.
    #[error("the answer at {path} is {answer:?}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What it said.
        answer: String,
    },
}

/// Asks the process at a control socket, and at the sockets of its devices, until all have answered or the time is over.
pub fn ask(control: &Path, socket_folder: &Path, patience: Duration) -> Result<(), SilentError> {
    let until = Instant::now() + patience;
    loop {
        let error = match ask_once(control, socket_folder, until) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let may_pass = matches!(error, SilentError::Io { .. });
        if !may_pass || Instant::now() + PAUSE >= until {
            return Err(error);
        }
        thread::sleep(PAUSE);
    }
}

fn ask_once(control: &Path, socket_folder: &Path, until: Instant) -> Result<(), SilentError> {
    let is_last = |line: &str| line == "ok" || line.starts_with("error ");
    let mut names = converse(control, "list\n", until, is_last)?;
    expect(control, "ok", names.pop())?;
    for name in names {
        let path = socket_folder.join(format!("{name}.sock"));
        let answer = converse(&path, NOTHING, until, str::is_empty)?;
        expect(&path, "errno=0", answer.into_iter().next())?;
    }
    Ok(())
}

fn expect(path: &Path, wanted: &str, line: Option<String>) -> Result<(), SilentError> {
    match line {
        Some(line) if line == wanted => Ok(()),
        line => Err(SilentError::Answer {
            path: path.into(),
            answer: line.unwrap_or_default(),
        }),
    }
}

/// Sends a request and returns the lines of its answer up to the last one.
///
/// A thread of its own waits for it, and is left behind when the time is over: before a process that accepts no connections any more
/// even connecting waits, once enough of them are there.
fn converse(
    path: &Path,
    request: &'static str,
    until: Instant,
    is_last: impl Fn(&str) -> bool + Send + 'static,
) -> Result<Vec<String>, SilentError> {
    let (sender, receiver) = mpsc::channel();
    let socket = path.to_owned();
    thread::spawn(move || {
        // Nothing listens when the time was over.
        let _ = sender.send(talk(&socket, request, is_last));
    });
    match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(answer) => answer.map_err(|source| SilentError::Io {
            path: path.into(),
            source,
        }),
        Err(_) => Err(SilentError::Time { path: path.into() }),
    }
}

fn talk(path: &Path, request: &str, is_last: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(request.as_bytes())?;
    let mut lines = Vec::new();
    for line in BufReader::new(stream.take(LONGEST)).lines() {
        let line = line?;
        let last = is_last(&line);
        lines.push(line);
        if last {
            return Ok(lines);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection was closed",
    ))
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fs, os::unix::net::UnixListener};

    use super::*;

    /// Answers each of the first connections with one of these and closes it; the next ones are not accepted.
    fn answering(path: &Path, answers: &'static [&str]) {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(answer.as_bytes());
            }
            thread::sleep(Duration::from_secs(600));
        });
    }

    /// What a process fails with that has so many tenths of a second; nothing where it answers.
    fn said(control: &Path, folder: &Path, tenths: u64) -> String {
        let Err(error) = ask(control, folder, Duration::from_millis(100 * tenths)) else {
            return String::new();
        };
        let source = error
            .source()
            .map_or_else(String::new, |source| format!(": {source}"));
        format!("{error}{source}")
    }

    #[test]
    fn a_connection_that_the_kernel_takes_is_no_answer() {
        let folder = tempfile::TempDir::new().unwrap();
        let (control, device) = (folder.path().join("control"), folder.path().join("sw0.sock"));
        assert!(said(&control, folder.path(), 1).contains("control: No such file"));
        answering(&control, &["sw0\nok\n", "", "sw0\nok\n", "ok\n", "error no\n"]);
        let silent = UnixListener::bind(&device).unwrap();
        let heard = said(&control, folder.path(), 20);
        assert!(
            heard.contains("sw0.sock in time"),
            "the device's thread hangs: {heard:?}"
        );
        drop(silent);
        fs::remove_file(&device).unwrap();
        answering(&device, &["errno=0\n\n"]);
        // A connection that was closed is tried again.
        assert_eq!(said(&control, folder.path(), 600), "");
        assert_eq!(said(&control, folder.path(), 600), "", "without devices");
        let heard = said(&control, folder.path(), 600);
        assert!(heard.contains("control is \"error no\""), "{heard:?}");
        let heard = said(&control, folder.path(), 5);
        assert!(heard.contains("control in time"), "{heard:?}");
    }

    #[test]
    fn one_that_accepts_nothing_any_more_is_not_waited_for_without_end() {
        let folder = tempfile::TempDir::new().unwrap();
        let control = folder.path().join("control");
        let _silent = UnixListener::bind(&control).unwrap();
        // As many as fit: connecting waits from here on.
        let full = (0..).find(|_| {
            let (path, (sender, receiver)) = (control.clone(), mpsc::channel());
            thread::spawn(move || {
                std::mem::forget(UnixStream::connect(path));
                let _ = sender.send(());
            });
            receiver.recv_timeout(Duration::from_secs(1)).is_err()
        });
        assert!(full.is_some_and(|full| full > 0));
        assert!(said(&control, folder.path(), 5).contains("control in time"));
    }
}
