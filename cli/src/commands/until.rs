//! Commands that go on until a signal ends them.

use std::{fs, io::Write as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Writes a line at once: this command goes on for hours.
pub(super) fn say(line: &str) {
    let mut out = std::io::stdout();
    // Where nothing reads it there is no other place for it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The signals that end a command.
pub(super) struct Stop(Vec<Signal>);

impl Stop {
    /// Hears them from now on.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        // Who starts it by nohup wants it to go on.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !ignores_hangup(&status) {
            kinds.push(SignalKind::hangup());
        }
        let signals: std::io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
        Ok(Self(signals?))
    }

    /// Waits for one of them.
    pub(super) async fn wait(&mut self) {
        let any = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(any).await;
    }
}

/// Whether a process with this `/proc/PID/status` ignores SIGHUP, which is number 1 (signal(7)).
fn ignores_hangup(status: &str) -> bool {
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    ignored.is_some_and(|ignored| ignored & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ignores_a_hangup_goes_on() {
        assert!(ignores_hangup("SigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n") && !ignores_hangup(""));
    }
}
