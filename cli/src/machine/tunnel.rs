//! The process of a userspace WireGuard. It ends with this one, however this one ends.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

const NAME: &str = "spanwire-tunnel";
/// How long it may take to start.
const START: Duration = Duration::from_secs(10);
/// How often to look.
const PAUSE: Duration = Duration::from_millis(20);

/// A process that makes the device.
pub(super) struct Tunnel {
    program: PathBuf,
    child: Child,
}

/// Returns the program: the one that is named, else the one beside this program or on the PATH.
pub(super) fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return named
            .canonicalize()
            .with_context(|| format!("--tunnel {}", named.display()));
    }
    let beside = env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = beside.into_iter().chain(env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(NAME)).filter(|program| program.is_file()));
    found.with_context(|| {
        format!(
            "this kernel has no WireGuard, and there is no {NAME}: load the module (`modprobe wireguard`), or put {NAME} on the \
             PATH or name it with --tunnel"
        )
    })
}

impl Tunnel {
    /// Starts it, and waits until devices can be asked for.
    pub(super) async fn start(program: PathBuf, folder: &Path) -> anyhow::Result<Self> {
        let (control, log) = (folder.join("control.sock"), folder.join("tunnel.log"));
        let end = Instant::now() + START;
        // One machine, one run: what answers there is the process of a run that was killed, which is about to end.
        while UnixStream::connect(&control).await.is_ok() && Instant::now() < end {
            sleep(PAUSE).await;
        }
        let said = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&program);
        command.args(["serve", "--control"]).arg(&control);
        command.arg("--socket-dir").arg(folder);
        command.args(["--end-with", &std::process::id().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        // Ctrl-C is for this process, which needs the other to clean up.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let mut tunnel = Self { program, child };
        let end = Instant::now() + START;
        while UnixStream::connect(&control).await.is_err() {
            if tunnel.has_ended() || Instant::now() > end {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{} does not start: {}", tunnel.program.display(), said.trim());
            }
            sleep(PAUSE).await;
        }
        Ok(tunnel)
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) async fn end(mut self) {
        // It has no device any more, so nothing is lost with it.
        let _gone = self.child.kill().await;
    }
}
