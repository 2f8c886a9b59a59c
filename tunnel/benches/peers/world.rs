//! Two namespaces, a wire between them and a device in each; all of it goes when the [`World`] does.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use spanwire_testbed::{Command, Namespace, wait_until};

use crate::engine::{Engine, SetUp};

pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_spanwire-tunnel");
/// Inner addresses of the two sides.
pub(crate) const INNER: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    namespaces: [Namespace; 2],
    /// Of the devices: the sockets of all of them lie in one folder.
    names: [String; 2],
    setup: SetUp,
    engines: Vec<Child>,
}

impl World {
    pub(crate) fn new(engine: Engine, setup: SetUp, tools: &Path, null: &Path) -> Self {
        let number = std::process::id();
        let mut world = Self {
            namespaces: [Namespace::new(), Namespace::new()],
            names: [format!("swb{number:x}a"), format!("swb{number:x}b")],
            setup,
            engines: Vec::new(),
        };
        let [a, b] = &world.namespaces;
        a.run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}",
            b.pid()
        ));
        let keys = [0, 1].map(|side| {
            world.plug_in(side);
            world.start(side, engine, tools, null);
            let private = Command::new("wg").arg("genkey").run();
            (
                Command::new("wg").arg("pubkey").input(private.clone()).run(),
                private,
            )
        });
        for side in 0..2 {
            world.configure(side, keys[1 - side].0.trim(), &keys[side].1);
        }
        wait_until("a ping through the tunnel", PATIENCE, || {
            world
                .command(0, "ping")
                .args(["-q", "-c", "1", "-W", "1", INNER[1]])
                .succeeds()
        });
        world
    }

    fn plug_in(&self, side: usize) {
        let namespace = &self.namespaces[side];
        namespace.run(&format!(
            "ip link set eth0 up\nip addr add 192.0.2.{}/24 dev eth0",
            side + 1
        ));
        if self.setup == SetUp::NoUdpSegmentation {
            namespace.run("ethtool -K eth0 tx-udp-segmentation off");
        }
    }

    fn configure(&self, side: usize, peer: &str, private: &str) {
        let (namespace, name) = (&self.namespaces[side], &self.names[side]);
        let (other, own) = (INNER[1 - side], INNER[side]);
        let device = ["set", name, "listen-port", "51820", "private-key", "/dev/stdin"];
        let allowed = format!("{other}/32");
        let endpoint = format!("192.0.2.{}:51820", 2 - side);
        namespace
            .command("wg")
            .args(device)
            .args(["peer", peer, "allowed-ips", &allowed, "endpoint", &endpoint])
            .input(private)
            .run();
        namespace.run(&format!(
            "ip addr add {own}/24 dev {name}\nip link set mtu 1420 up dev {name}"
        ));
    }

    fn start(&mut self, side: usize, engine: Engine, tools: &Path, null: &Path) {
        let name = self.names[side].clone();
        let program = match engine.tool() {
            Some(tool) => tools.join(tool).display().to_string(),
            None if engine == Engine::NullCipher => null.display().to_string(),
            None => OURS.into(),
        };
        let words: &[&str] = match engine {
            Engine::Spanwire | Engine::NullCipher => &["-f"],
            Engine::Plain => &["-f", "--no-offload"],
            Engine::WireguardGo => &["-f"],
            Engine::Boringtun | Engine::Gotatun => &["-f", "--disable-drop-privileges"],
            Engine::Boringtun1 => &["-f", "--disable-drop-privileges", "-t", "1"],
        };
        let command = self.command(side, &program).args(words).arg(&name);
        self.engines
            .push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn());
        wait_until(&program, PATIENCE, || {
            // `wg` removes a socket at which no process answers, such as one that is bound and not listened at yet.
            UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).is_ok()
                && Command::new("wg").args(["show", &name]).succeeds()
        });
    }

    /// Returns a command on one side, on its core if it has one. It dies with this process.
    pub(crate) fn command(&self, side: usize, program: &str) -> Command {
        let namespace = &self.namespaces[side];
        if self.setup == SetUp::Core {
            let core = if side == 0 { "0" } else { "1" };
            return namespace.command("taskset").args(["-c", core, program]);
        }
        namespace.command(program)
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
            let _ = fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
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
