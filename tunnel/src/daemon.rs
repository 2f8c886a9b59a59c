//! Going on in the background, as wireguard-go does: the process that was started ends when the device can be configured.
//!
//! It starts itself again with one end of a pair of sockets as standard input. The second process says by it that it is ready; when
//! it ends instead, it has said on standard error why.

use std::{
    env,
    ffi::CString,
    fs,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context;
use nix::{
    sys::prctl::set_name,
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};

/// Set for the second process.
const MARK: &str = "SPANWIRE_TUNNEL_DAEMON";

/// Starts this program again, with the same arguments, and waits until it is ready or ends.
#[expect(
    clippy::disallowed_methods,
    reason = "it is this program itself, and no test's"
)]
pub(crate) fn start() -> anyhow::Result<ExitCode> {
    let mut words = env::args_os();
    let (mut ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
    let mut second = Command::new("/proc/self/exe")
        .arg0(words.next().unwrap_or_default())
        .args(words)
        .env(MARK, "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start in the background")?;
    match ours.read(&mut [0]) {
        Ok(1..) => Ok(ExitCode::SUCCESS),
        Ok(0) | Err(_) => {
            let status = second.wait().context("cannot wait for the second process")?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code
                .filter(|code| *code != 0)
                .map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}

/// Gives this process the name by which ps(1) and pgrep(1) know it, which is otherwise that of the link it was executed by.
fn call_this_process(program: &Path) {
    let name = program.file_name().unwrap_or_default();
    if let Ok(name) = CString::new(name.as_bytes())
        && let Err(error) = set_name(&name)
    {
        tracing::debug!(%error, "cannot name this process");
    }
}

/// The second process, which has to say when it is ready.
pub(crate) struct Background(UnixStream);

impl Background {
    /// Returns whether this process is to go on in the background, and leaves the terminal then.
    pub(crate) fn of_this_process() -> anyhow::Result<Option<Self>> {
        if env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let name = env::args_os().next().unwrap_or_default();
        call_this_process(Path::new(&name));
        // It leads no group, for it was started by the first.
        setsid().context("cannot leave the terminal")?;
        let standard = nix::unistd::dup(io::stdin()).context("cannot answer the first process")?;
        Ok(Some(Self(standard.into())))
    }

    /// Lets the first process end. Without `logs`, nothing is written any more.
    pub(crate) fn ready(mut self, logs: bool) -> io::Result<()> {
        // If it is gone, no process waits.
        let _ = self.0.write_all(b"1");
        let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        if !logs {
            dup2_stderr(&null)?;
        }
        Ok(())
    }
}
