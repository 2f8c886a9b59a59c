//! Commands that a test runs to their end, or lets run until it ends itself.

use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Child, Output, Stdio},
};

/// A command of a listed program. What it starts dies with the thread that started it.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    input: Option<String>,
}

impl Command {
    /// Makes a command.
    ///
    /// # Panics
    /// The program is not on the list of [`crate::programs`].
    #[must_use]
    #[track_caller]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        if let Err(refused) = crate::programs::check(&program) {
            panic!("{refused}");
        }
        let mut inner = crate::command("setpriv");
        inner.args(["--pdeathsig", "KILL"]).arg(program);
        Self { inner, input: None }
    }

    /// Makes a command of lines of shell, which ends at the first that fails.
    #[must_use]
    pub fn shell(script: &str) -> Self {
        Self::new("sh").args(["-ec", script])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.inner.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Gives it this text on its standard input; without, that is empty.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Sets where its standard output goes when it is spawned.
    #[must_use]
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.inner.stdout(to);
        self
    }

    /// Sets where its standard error goes when it is spawned.
    #[must_use]
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.inner.stderr(to);
        self
    }

    /// Starts it and lets it run.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    #[track_caller]
    pub fn spawn(mut self) -> Child {
        self.inner.stdin(if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = match self.inner.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{:?} does not start: {error}", self.inner),
        };
        if let Some((text, mut pipe)) = self.input.zip(child.stdin.take()) {
            // A program that does not read to the end is judged by its exit code.
            std::thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        child
    }

    /// Runs it to its end, whatever its exit code.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    #[track_caller]
    pub fn output(mut self) -> Output {
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn()
            .wait_with_output()
            .expect("a child can be waited for")
    }

    /// Returns whether it ends with success.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    #[track_caller]
    pub fn succeeds(self) -> bool {
        self.output().status.success()
    }

    /// Runs it and returns what it prints.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn run(self) -> String {
        let shown = format!("{:?}", self.inner);
        let output = self.output();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{shown} failed: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
