//! A ping that runs while something is done.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::namespace::Namespace;

/// A running ping.
#[derive(Debug)]
pub struct Ping(Child);

// Here and not in its own module, which would have to import this one in turn.
impl Namespace {
    /// Begins to ping every 10 ms.
    #[must_use]
    pub fn start_ping(&self, to: &str) -> Ping {
        let ping = self.command("ping").args(["-n", "-i", "0.01", "-W", "1", to]);
        Ping(ping.stdout(Stdio::piped()).spawn())
    }
}

impl Ping {
    /// Ends it and returns how many requests were sent and how many were answered.
    ///
    /// # Panics
    /// It has ended before, or says something else than pings say.
    #[must_use]
    pub fn stop(self) -> (u32, u32) {
        thread::sleep(Duration::from_millis(200));
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("process numbers are small"));
        kill(pid, Signal::SIGINT).expect("it runs");
        let output = self.0.wait_with_output().expect("a child can be waited for");
        let text = String::from_utf8_lossy(&output.stdout);
        let summary = text.lines().find(|line| line.contains("packets transmitted"));
        let mut numbers = summary
            .unwrap_or_else(|| panic!("no summary: {text}"))
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok());
        let mut next = || numbers.next().unwrap_or_else(|| panic!("no numbers: {text}"));
        (next(), next())
    }
}
