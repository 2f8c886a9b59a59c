//! Network namespaces that end with the test, however it ends.

use std::{
    fs::File,
    io::Read as _,
    process::{Child, Output, Stdio},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::command::Command;

/// A network namespace whose loopback device is up. Copies are the same namespace; it goes with the last of them.
#[derive(Debug, Clone)]
pub struct Namespace {
    keeper: Arc<Keeper>,
}

/// The process that keeps a namespace. It ends when its standard input is closed, which the kernel does if nothing else
/// does.
#[derive(Debug)]
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing is left to do about an error here.
        let _ = self.0.wait();
    }
}

impl Namespace {
    /// Makes one.
    ///
    /// # Panics
    /// This process is not root's.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a namespace is no value to be defaulted"
    )]
    pub fn new() -> Self {
        let mut keeper = crate::command("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let mut line = [0; 6];
        let out = keeper.stdout.as_mut().expect("it is a pipe");
        out.read_exact(&mut line).expect("network namespaces need root");
        Self {
            keeper: Arc::new(Keeper(keeper)),
        }
    }

    /// Returns the process that `ip link … netns PID` gives a device to.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.keeper.0.id()
    }

    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Makes a command that runs in it.
    ///
    /// # Panics
    /// The program is not on the list of [`crate::programs`].
    #[must_use]
    #[track_caller]
    pub fn command(&self, program: &str) -> Command {
        if let Err(refused) = crate::programs::check(program) {
            panic!("{refused}");
        }
        Command::new("nsenter")
            .arg(format!("--net={}", self.file()))
            .arg(program)
    }

    /// Runs lines of shell, all of which must succeed, and returns what they print.
    ///
    /// # Panics
    /// One fails.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        self.command("sh").args(["-ec", script]).run()
    }

    /// Runs lines of shell up to the first that fails.
    #[must_use]
    pub fn try_run(&self, script: &str) -> Output {
        self.command("sh").args(["-ec", script]).output()
    }

    /// Loads a table or a ruleset into nft.
    ///
    /// # Panics
    /// nft refuses it.
    #[track_caller]
    pub fn nft(&self, rules: &str) {
        self.command("nft").args(["-f", "-"]).input(rules).run();
    }

    /// Returns whether a ping comes back within a second.
    #[must_use]
    pub fn pings(&self, to: &str) -> bool {
        self.command("ping")
            .args(["-q", "-c", "1", "-W", "1", to])
            .succeeds()
    }

    /// Does something in it, on a thread of its own: a socket that is made there stays there.
    ///
    /// # Panics
    /// The task panics.
    pub fn inside<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(self.file()).expect("its keeper lives");
        joined(thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            task()
        }))
    }
}

/// Runs a test on a thread with a network namespace of its own, which goes when the thread ends. Commands that it starts
/// run there too.
///
/// # Panics
/// The test panics, or this process is not root's.
pub fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    joined(thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        Command::shell("ip link set lo up").run();
        test()
    }))
}

fn joined<T>(thread: thread::JoinHandle<T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
