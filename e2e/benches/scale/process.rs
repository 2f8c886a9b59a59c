//! A program that is measured: its processor time and its memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use spanwire_testbed::programs;

/// A running program; killed when dropped, or when the thread ends that started it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program. The calling thread must be the main one, for the program ends with it.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        kubeconfig: &Path,
        log: PathBuf,
    ) -> Result<Self> {
        let file = fs::File::create(&log)?;
        let child = programs::command("setpriv")?
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Returns the processor time so far of all its threads, and of the programs that it has run, as an agent runs nft.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc_pid_stat(5): user and system time, also of threads that have ended, are fields 14 and 15, those of children that
        // were waited for 16 and 17, in ticks of 10 ms; the name may hold spaces.
        let (_, fields) = stat.rsplit_once(") ").context("a stat line")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let ticks = fields[11..15].iter().map(|field| field.parse::<u64>());
        let ticks: u64 = ticks.sum::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Returns its resident memory and the peak of it, in MB of 10⁶ bytes.
    pub(crate) fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024.0 / 1e6)
        };
        field("VmRSS:").zip(field("VmHWM:")).context("no memory")
    }

    /// Returns the end of what it has logged.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let name = self.log.file_stem().unwrap_or_default().to_string_lossy();
        format!("{name}:\n{}\n", lines[lines.len().saturating_sub(5)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
