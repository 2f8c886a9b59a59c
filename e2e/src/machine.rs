//! Something in a lab that commands can run on: a node, a pod, a router, the internet, a host outside.

use std::{
    fs,
    io::{ErrorKind, Read},
    os::unix::process::CommandExt,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{
    command::{Cmd, Finished},
    lab::Lab,
    layout::TEST_NAMESPACE,
    net,
    node::{self, Container},
};

/// How long a command may take to say what it says first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that commands can run on.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A node, in all its namespaces.
    Node,
    /// A container on a node.
    Pod { node: String, container: Container },
    /// A network namespace, with the machine's own files.
    Network,
}

impl Lab {
    /// Returns a node by name.
    pub fn node(&self, name: &str) -> Result<Machine<'_>> {
        self.node_layout(name)?;
        Ok(Machine {
            lab: self,
            name: name.to_owned(),
            kind: Kind::Node,
        })
    }

    /// Returns the node on which the control plane runs.
    pub fn control_plane(&self) -> Machine<'_> {
        Machine {
            lab: self,
            name: self.layout.control_plane().name.clone(),
            kind: Kind::Node,
        }
    }

    /// Returns the test pod on a node.
    pub fn pod_on(&self, node: &str) -> Result<Machine<'_>> {
        let mut pod = self.container(node, TEST_NAMESPACE, None, Some("test"))?;
        pod.name = format!("the pod on {node}");
        Ok(pod)
    }

    /// Returns a container of any pod.
    pub fn container(
        &self,
        node: &str,
        namespace: &str,
        pod: Option<&str>,
        container: Option<&str>,
    ) -> Result<Machine<'_>> {
        self.node_layout(node)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let wanted = Container {
            namespace: namespace.into(),
            pod: owned(pod),
            container: owned(container),
        };
        let name = format!("{}/{}", namespace, pod.or(container).unwrap_or("*"));
        Ok(Machine {
            lab: self,
            name,
            kind: Kind::Pod {
                node: node.to_owned(),
                container: wanted,
            },
        })
    }

    /// Returns the router of a location, `internet` (the segment) or `outside` (a host on it).
    pub fn network(&self, name: &str) -> Result<Machine<'_>> {
        let known = [net::INTERNET, net::OUTSIDE].contains(&name)
            || self.layout.locations.iter().any(|location| location.name == name);
        ensure!(
            known,
            "{name} is no location, and neither `internet` nor `outside`"
        );
        Ok(Machine {
            lab: self,
            name: name.to_owned(),
            kind: Kind::Network,
        })
    }

    /// Returns the host behind the device that the profile `foreign-marks` has brought to a node.
    pub fn guest_of(&self, node: &str) -> Result<Machine<'_>> {
        self.node_layout(node)?;
        Ok(Machine {
            lab: self,
            name: net::guest(node),
            kind: Kind::Network,
        })
    }

    /// Returns a host on the internet, outside the cluster.
    pub fn outside(&self) -> Machine<'_> {
        Machine {
            lab: self,
            name: net::OUTSIDE.to_owned(),
            kind: Kind::Network,
        }
    }
}

impl Machine<'_> {
    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that will run on it: of a listed program, unless it is a container, which has its image's own.
    pub fn cmd<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Cmd> {
        let enter = self.enter()?;
        Ok(match self.kind {
            Kind::Pod { .. } => enter.args(words),
            Kind::Node | Kind::Network => enter.running(words),
        })
    }

    /// Returns a command that its user chose to run on it: any program that the machine has.
    pub fn by_hand<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Cmd> {
        let path = node::whole_path(&self.lab.record.tools);
        Ok(self.enter()?.env("PATH", path).args(words))
    }

    /// Returns a command that will run in its network alone, with this process's own files: a pod need not have the program.
    pub fn in_network<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Cmd> {
        let store = &self.lab.store;
        let net = match &self.kind {
            Kind::Node | Kind::Network => format!("/run/netns/{}", store.namespace(&self.name)),
            Kind::Pod { node, container } => {
                let pid = node::container_pid(store, node, container)?;
                let init = node::init(store, node).with_context(|| format!("the node {node} is down"))?;
                format!("/proc/{init}/root/proc/{pid}/ns/net")
            }
        };
        Ok(Cmd::of(["nsenter", &format!("--net={net}"), "--"]).running(words))
    }

    fn enter(&self) -> Result<Cmd> {
        let Lab { store, record, .. } = self.lab;
        Ok(match &self.kind {
            Kind::Node => node::enter(store, record, &self.name)?,
            Kind::Pod { node, container } => {
                let pid = node::container_pid(store, node, container)?.to_string();
                let path = format!("PATH={}", node::PATH);
                let enter = ["nsenter", "-t", &pid, "-m", "-u", "-i", "-n", "-p", "-C", "--"];
                node::enter(store, record, node)?.args(["env", &path]).args(enter)
            }
            Kind::Network => {
                let net = format!("--net=/run/netns/{}", store.namespace(&self.name));
                Cmd::of(["nsenter", &net, "--"])
            }
        })
    }

    /// Runs a command; its standard output, or an error with what it said.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        self.cmd(words)?
            .run()
            .with_context(|| format!("on {}", self.name))
    }

    /// Runs a line of shell.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(["sh", "-c", line])
    }

    /// Runs a command to its end, whatever its exit code.
    pub fn finish<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.cmd(words)?
            .finish()
            .with_context(|| format!("on {}", self.name))
    }

    /// Starts a command and lets it run; it ends when the returned value is dropped.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Background> {
        Background::start(self.cmd(words)?).with_context(|| format!("on {}", self.name))
    }

    /// Starts tcpdump, which sees every packet from now on and writes a line for each at once.
    pub fn dump(&self, device: &str, filter: &str) -> Result<Background> {
        let tcpdump = [
            "tcpdump",
            "-n",
            "-tt",
            "-l",
            "--immediate-mode",
            "-i",
            device,
            filter,
        ];
        let mut dump = self.spawn(tcpdump)?;
        dump.says("listening on")?;
        Ok(dump)
    }

    /// Ends a supervised service of a node hard; its supervisor starts it again.
    pub fn kill_service(&self, service: &str) -> Result<()> {
        self.sh(&format!("kill -9 $(cat /run/lab/{service}.pid)"))
            .map(drop)
    }

    /// Stops a supervised service of a node until [`Self::start_service`].
    pub fn stop_service(&self, service: &str) -> Result<()> {
        self.sh(&format!(
            "touch /run/lab/{service}.stop && kill -9 $(cat /run/lab/{service}.pid)"
        ))
        .map(drop)
    }

    /// Lets a stopped service of a node run again.
    pub fn start_service(&self, service: &str) -> Result<()> {
        self.sh(&format!("rm /run/lab/{service}.stop")).map(drop)
    }

    /// Returns what a service of a node has logged, the last lines of it.
    pub fn service_log(&self, service: &str, lines: usize) -> Result<String> {
        self.run([
            "tail",
            "-n",
            &lines.to_string(),
            &format!("/var/log/{service}.log"),
        ])
    }

    /// Returns whether a file exists on a node.
    pub fn has(&self, path: &str) -> bool {
        node::init(&self.lab.store, &self.name)
            .is_some_and(|pid| fs::exists(format!("/proc/{pid}/root{path}")).unwrap_or(false))
    }
}

/// A command that runs in the background; dropping it ends it.
#[derive(Debug)]
pub struct Background {
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

impl Background {
    /// Starts a command and lets it run.
    pub fn start(cmd: Cmd) -> Result<Self> {
        let mut command = cmd.into_command()?;
        // A group of its own, because a command in another PID namespace is a child of the one started here.
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdout = Stream::read(child.stdout.take().context("its standard output is a pipe")?);
        let stderr = Stream::read(child.stderr.take().context("its standard error is a pipe")?);
        Ok(Self {
            child,
            stdout,
            stderr,
        })
    }

    /// Waits until it has said these words on standard error.
    pub fn says(&mut self, words: &str) -> Result<()> {
        self.wait_for(words, |this| this.stderr.so_far(), || Ok(()))
    }

    /// Waits until it has written these words to standard output.
    pub fn writes(&mut self, words: &str) -> Result<()> {
        self.wait_for(words, |this| this.stdout.so_far(), || Ok(()))
    }

    /// Waits until it has written these words to standard output, as another command has it do, which must not end before.
    pub fn writes_by(&mut self, words: &str, cause: &mut Self) -> Result<()> {
        self.wait_for(
            words,
            |this| this.stdout.so_far(),
            || {
                if cause.running() {
                    return Ok(());
                }
                let (out, err) = cause.collect()?;
                bail!("what was to have it say {words:?} ended and said {out}{err}")
            },
        )
    }

    fn wait_for(
        &mut self,
        words: &str,
        so_far: impl Fn(&Self) -> String,
        mut goes_on: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let running = self.running();
            let said = so_far(self);
            if said.contains(words) {
                return Ok(());
            }
            ensure!(running, "it ended before it said {words:?}: {said}");
            ensure!(start.elapsed() < PATIENCE, "it does not say {words:?}: {said}");
            goes_on()?;
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Interrupts it, waits for its end and returns what it wrote: standard output and standard error.
    pub fn interrupt(mut self) -> Result<(String, String)> {
        self.signal(Signal::SIGINT);
        self.collect()
    }

    /// Waits until it ends by itself and returns what it wrote: standard output and standard error.
    pub fn wait(mut self) -> Result<(String, String)> {
        self.collect()
    }

    fn collect(&mut self) -> Result<(String, String)> {
        let out = (self.stdout.whole(), self.stderr.whole());
        self.child.wait()?;
        Ok(out)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended already.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What a command writes, read as it comes.
#[derive(Debug)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 8192];
            // What was read before an error is what there is.
            loop {
                match pipe.read(&mut chunk) {
                    Ok(length @ 1..) => to
                        .lock()
                        .expect("no thread panics while it holds the lock")
                        .extend(&chunk[..length]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                }
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(
            &self
                .bytes
                .lock()
                .expect("no thread panics while it holds the lock"),
        )
        .into_owned()
    }

    /// Returns everything until its end.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading does not panic");
        }
        self.so_far()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_before_it_has_another_write_is_named_with_what_it_said() {
        let start = |line: &str| Background::start(Cmd::of(["sh", "-c", line])).unwrap();
        let error = start("sleep 60")
            .writes_by("KBytes", &mut start("echo refused >&2; exit 1"))
            .unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        let mut writes = start("echo 48 KBytes; sleep 60");
        writes.writes_by("KBytes", &mut start("sleep 60")).unwrap();
    }
}
