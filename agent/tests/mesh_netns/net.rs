//! Network namespaces and processes in them, all of which end with the test.

use std::{
    io::Write as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A network namespace. It goes when its keeper does, and that goes when its standard input is closed.
pub(crate) struct Namespace {
    keeper: Child,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let keeper = spanwire_testbed::command("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let mut namespace = Self { keeper };
        let mut line = [0; 6];
        let out = namespace.keeper.stdout.as_mut().unwrap();
        std::io::Read::read_exact(out, &mut line).expect("these tests need root");
        namespace
    }

    /// The process that another namespace can give a device to.
    pub(crate) fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// A command in the namespace that dies with the thread that started it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = spanwire_testbed::command("setpriv");
        let namespace = format!("--net=/proc/{}/ns/net", self.pid());
        command.args(["--pdeathsig", "KILL", "nsenter", &namespace, program]);
        command
    }

    /// Runs shell commands, all of which must succeed; returns what they print.
    pub(crate) fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_run(&self, script: &str) -> Output {
        self.command("sh").args(["-ec", script]).output().unwrap()
    }

    /// A table or a ruleset for nft.
    pub(crate) fn nft(&self, rules: &str) {
        let mut child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{rules}");
    }

    /// Whether a ping comes back.
    pub(crate) fn pings(&self, to: &str) -> bool {
        self.try_run(&format!("ping -c 1 -W 1 {to}")).status.success()
    }

    /// Begins to ping every 10 ms.
    pub(crate) fn start_ping(&self, to: &str) -> Ping {
        let child = self
            .command("ping")
            .args(["-i", "0.01", "-W", "1", to])
            .stdout(Stdio::piped())
            .spawn();
        Ping(child.unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ended = self.keeper.wait();
    }
}

/// A running ping.
pub(crate) struct Ping(Child);

impl Ping {
    /// Ends it; returns how many packets were sent and how many came back.
    pub(crate) fn stop(self) -> (u32, u32) {
        std::thread::sleep(Duration::from_millis(200));
        let interrupt = spanwire_testbed::command("kill")
            .args(["-INT", &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(interrupt.success());
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .expect(&text);
        let mut numbers = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}

/// Waits until something holds; returns how long it took.
pub(crate) fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}
