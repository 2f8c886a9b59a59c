//! Running other programs, with errors that name the command and what it said. Only those of `scripts/programs` are
//! started, and what the tree builds.

use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use spanwire_testbed::programs::{self, Unlisted};

/// A command to run, and what to feed it.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    refused: Option<Unlisted>,
    input: Option<String>,
    shows_errors: bool,
}

/// What a finished command left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code, or -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cmd {
    /// Returns a command by its program's name or path. It does not start if the program is not on the list.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let (command, refused) = match programs::command(program) {
            Ok(command) => (command, None),
            // Never run.
            Err(refused) => (programs::nothing(), Some(refused)),
        };
        Self {
            command,
            refused,
            input: None,
            shows_errors: false,
        }
    }

    /// Returns a command from one list of words, the first being the program.
    pub fn of<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Self {
        let mut words = words.into_iter();
        let program = words.next().map(|w| w.as_ref().to_owned()).unwrap_or_default();
        Self::new(program).args(words)
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Adds a command that the program runs in another place; it, too, must be on the list, or have been built.
    #[must_use]
    pub fn running<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        let mut words = words.into_iter().peekable();
        if let Some(program) = words.peek() {
            self.refused = self.refused.or(programs::check(program).err());
        }
        self.args(words)
    }

    /// Feeds text to its standard input.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Lets its standard error through as it comes, because it shows how far it is.
    #[must_use]
    pub fn shows_errors(mut self) -> Self {
        self.shows_errors = true;
        self
    }

    /// Runs it to the end, whatever its exit code.
    pub fn finish(mut self) -> Result<Finished> {
        self.refuse()?;
        let shown = self.shown();
        let stdin = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(if self.shows_errors {
                Stdio::inherit()
            } else {
                Stdio::piped()
            })
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let writer = self.input.zip(child.stdin.take()).map(|(text, mut pipe)| {
            // A program that does not read to the end is no error of the writer.
            std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())))
        });
        let Output {
            status,
            stdout,
            stderr,
        } = child
            .wait_with_output()
            .with_context(|| format!("cannot wait for `{shown}`"))?;
        if let Some(writer) = writer {
            // It cannot panic, and it returns nothing.
            let _ = writer.join();
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Finished {
            code: status.code().unwrap_or(-1),
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }

    /// Runs it to the end; its standard output, or an error with what it said.
    pub fn run(self) -> Result<String> {
        let shown = self.shown();
        let done = self.finish()?;
        if done.code != 0 {
            let said = if done.stderr.trim().is_empty() {
                &done.stdout
            } else {
                &done.stderr
            };
            bail!("`{shown}` failed ({}): {}", done.code, tail(said.trim(), 20));
        }
        Ok(done.stdout)
    }

    /// Runs it with this process's own standard streams; its exit code.
    pub fn passthrough(mut self) -> Result<u8> {
        self.refuse()?;
        let shown = self.shown();
        let status = self
            .command
            .status()
            .with_context(|| format!("cannot start `{shown}`"))?;
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1))
    }

    /// Returns the command itself, for those who want to spawn it.
    pub fn into_command(self) -> Result<Command> {
        self.refuse()?;
        Ok(self.command)
    }

    fn refuse(&self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), |refused| bail!(refused))
    }

    fn shown(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let line = words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
        if line.chars().count() > 300 {
            line.chars().take(300).collect::<String>() + " …"
        } else {
            line
        }
    }
}

/// Returns the last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_the_command_and_what_it_said() {
        let error = Cmd::of(["sh", "-c", "echo no such luck >&2; exit 3"])
            .run()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sh -c") && error.contains("no such luck") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn unlisted_program_is_refused_here_and_elsewhere() {
        let elsewhere = Cmd::of(["nsenter", "--"]).running(["nmap", "--version"]);
        for cmd in [Cmd::of(["nmap", "--version"]), elsewhere] {
            let error = cmd.run().unwrap_err().to_string();
            assert!(error.contains("scripts/programs"), "{error}");
        }
        let built = Cmd::of(["env", "--"]).running([env!("CARGO")]).arg("--version");
        assert!(built.run().unwrap().contains("cargo"));
    }

    #[test]
    fn input_is_fed_and_output_returned() {
        let long = "x".repeat(1 << 20);
        assert_eq!(Cmd::new("cat").input(long.clone()).run().unwrap(), long);
    }
}
