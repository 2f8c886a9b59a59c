//! Two namespaces, a wire between them and a device in each; all of it goes when the [`World`] does.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::engine::{Engine, SetUp};

pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_spanwire-tunnel");
/// Inner addresses of the two sides.
pub(crate) const INNER: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    names: [String; 2],
    setup: SetUp,
    engines: Vec<Child>,
}

impl World {
    pub(crate) fn new(engine: Engine, setup: SetUp, tools: &Path, null: &Path) -> anyhow::Result<Self> {
        sweep();
        let number = std::process::id();
        let mut world = Self {
            names: [format!("swb{number:x}a"), format!("swb{number:x}b")],
            setup,
            engines: Vec::new(),
        };
        for name in &world.names {
            run("ip", &["netns", "add", name])?;
        }
        let [a, b] = &world.names;
        run(
            "ip",
            &[
                "-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b,
            ],
        )?;
        let mut keys = Vec::new();
        for side in 0..2 {
            world.plug_in(side)?;
            world.start(side, engine, tools, null)?;
            let private = run("wg", &["genkey"])?;
            keys.push((pipe("wg", &["pubkey"], &private)?, private));
        }
        for side in 0..2 {
            let name = world.names[side].as_str();
            let other = format!("{}/32", INNER[1 - side]);
            let endpoint = format!("192.0.2.{}:51820", 2 - side);
            let words = [
                "netns",
                "exec",
                name,
                "wg",
                "set",
                name,
                "listen-port",
                "51820",
                "private-key",
                "/dev/stdin",
            ];
            let peer = [
                "peer",
                keys[1 - side].0.trim(),
                "allowed-ips",
                &other,
                "endpoint",
                &endpoint,
            ];
            pipe("ip", &[&words[..], &peer].concat(), &keys[side].1)?;
            let net = format!("{}/24", INNER[side]);
            run("ip", &["-n", name, "addr", "add", &net, "dev", name])?;
            run(
                "ip",
                &["-n", name, "link", "set", "mtu", "1420", "up", "dev", name],
            )?;
        }
        wait(|| {
            world
                .command(0, "ping")
                .args(["-q", "-c", "1", "-W", "1", INNER[1]])
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
        .context("no ping comes through")?;
        Ok(world)
    }

    fn plug_in(&self, side: usize) -> anyhow::Result<()> {
        let name = self.names[side].as_str();
        let net = format!("192.0.2.{}/24", side + 1);
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", name, "addr", "add", &net, "dev", "eth0"])?;
        if self.setup == SetUp::NoUdpSegmentation {
            let words = [
                "netns",
                "exec",
                name,
                "ethtool",
                "-K",
                "eth0",
                "tx-udp-segmentation",
                "off",
            ];
            run("ip", &words)?;
        }
        Ok(())
    }

    fn start(&mut self, side: usize, engine: Engine, tools: &Path, null: &Path) -> anyhow::Result<()> {
        let name = self.names[side].clone();
        let program = match engine.tool() {
            Some(tool) => tools.join(tool).display().to_string(),
            None if engine == Engine::NullCipher => null.display().to_string(),
            None => OURS.into(),
        };
        let words: &[&str] = match engine {
            Engine::Spanwire | Engine::NullCipher => &[],
            Engine::Plain => &["--no-offload"],
            Engine::WireguardGo => &["-f"],
            Engine::Boringtun | Engine::Gotatun => &["-f", "--disable-drop-privileges"],
            Engine::Boringtun1 => &["-f", "--disable-drop-privileges", "-t", "1"],
        };
        let mut command = self.command(side, &program);
        let spawned = command
            .args(words)
            .arg(&name)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.engines
            .push(spawned.with_context(|| format!("cannot start {program}"))?);
        wait(|| {
            // `wg` removes a socket at which no process answers, such as one that is bound and not listened at yet.
            UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).is_ok()
                && run("wg", &["show", &name]).is_ok()
        })
        .with_context(|| format!("{program} does not start"))
    }

    /// Returns a command on one side, on its core if it has one. It dies with this process.
    pub(crate) fn command(&self, side: usize, program: &str) -> Command {
        let mut command = spanwire_testbed::command("ip");
        command.args([
            "netns",
            "exec",
            &self.names[side],
            "setpriv",
            "--pdeathsig",
            "KILL",
        ]);
        if self.setup == SetUp::Core {
            command.args(["taskset", "-c", if side == 0 { "0" } else { "1" }]);
        }
        command.arg(program);
        command
    }

    /// CPU seconds of both devices so far.
    pub(crate) fn cpu(&self) -> f64 {
        self.engines
            .iter()
            .filter_map(|engine| cpu_of(engine.id()))
            .map(|(seconds, _)| seconds)
            .sum()
    }

    /// Megabytes of memory that the larger device needed at its peak.
    pub(crate) fn peak(&self) -> f64 {
        let peak = |engine: &Child| -> Option<f64> {
            let status = fs::read_to_string(format!("/proc/{}/status", engine.id())).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        self.engines.iter().filter_map(peak).fold(0.0, f64::max) / 1024.0
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for engine in &mut self.engines {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        for name in &self.names {
            let _ = run("ip", &["netns", "del", name]);
            let _ = fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
        }
    }
}

/// Removes what a killed run left.
fn sweep() {
    for entry in fs::read_dir("/var/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The last letter is the side.
        let number = name
            .strip_prefix("swb")
            .and_then(|rest| rest.get(..rest.len().checked_sub(1)?));
        let pid = number.and_then(|number| u32::from_str_radix(number, 16).ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = run("ip", &["netns", "del", &name]);
        }
    }
}

/// CPU seconds of a process, and its parent.
pub(crate) fn cpu_of(pid: u32) -> Option<(f64, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some((ticks / 100.0, fields.get(1)?.parse().ok()?))
}

pub(crate) fn wait(mut happened: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !happened() {
        ensure!(start.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<String> {
    pipe(program, words, "")
}

fn pipe(program: &str, words: &[&str], stdin: &str) -> anyhow::Result<String> {
    let mut child = spanwire_testbed::programs::command(program)?
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} is missing"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // Who reads nothing may have ended already.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
