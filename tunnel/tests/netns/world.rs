//! Two network namespaces joined by a wire, with a WireGuard device in each. All of it goes with the [`World`], and when
//! this process is killed.

use std::{
    fs,
    net::IpAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spanwire_testbed::{Command, Namespace, command, wait_until};
use tempfile::NamedTempFile;

/// No command of a test takes longer.
const PATIENCE_SECONDS: &str = "30";

pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_spanwire-tunnel");

/// What drives a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Ours with two threads.
    Ours,
    /// Ours with so many threads.
    Threads(u8),
    /// Ours without offloads, and with one thread.
    Plain,
    /// The newest wireguard-go.
    WireguardGo,
    /// Debian's, of 2022: without any batching.
    DebiansWireguardGo,
    /// boringtun-cli, which cannot change a peer that it has.
    Boringtun,
    Kernel,
}

/// What stands on the other side: `SPANWIRE_WG_PEER` says `wireguard-go` (the default), `debian` (its wireguard-go) or
/// `kernel`.
pub(crate) fn other() -> Engine {
    match std::env::var("SPANWIRE_WG_PEER").as_deref() {
        Err(_) | Ok("wireguard-go") => Engine::WireguardGo,
        Ok("debian") => Engine::DebiansWireguardGo,
        Ok("kernel") => Engine::Kernel,
        Ok(what) => panic!("SPANWIRE_WG_PEER is wireguard-go, debian or kernel, not {what}"),
    }
}

/// What stands in the place of [`Engine::Ours`]: `SPANWIRE_WG_SUBJECT` says so for the table of `tests/conformance`, which compares
/// others by the same tests.
fn subject() -> Engine {
    match std::env::var("SPANWIRE_WG_SUBJECT").as_deref() {
        Err(_) | Ok("ours") => Engine::Ours,
        Ok("wireguard-go") => Engine::WireguardGo,
        Ok("kernel") => Engine::Kernel,
        Ok(what) => panic!("SPANWIRE_WG_SUBJECT is ours, wireguard-go or kernel, not {what}"),
    }
}

/// Whether IPv6 is outside, for tests that ask the same of both families: `SPANWIRE_WG_FAMILY` says which of them alone, by
/// which `tests/conformance` finds out where only one passes.
pub(crate) fn families() -> impl Iterator<Item = bool> {
    let only = std::env::var("SPANWIRE_WG_FAMILY").ok();
    let v6 = only.map(|family| match family.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        what => panic!("SPANWIRE_WG_FAMILY is IPv4 or IPv6, not {what}"),
    });
    [false, true]
        .into_iter()
        .filter(move |family| v6.is_none_or(|v6| v6 == *family))
}

/// Where a program is that `benches/tools` builds; the first test that asks waits for it, a minute or two once.
fn built(program: &str) -> String {
    static FOLDER: OnceLock<String> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let mut tools = command(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/tools"));
        tools
            .args(["wireguard-go", "boringtun-cli"])
            .stderr(Stdio::inherit());
        let output = tools.output().expect("it is in the tree");
        assert!(output.status.success(), "benches/tools fails");
        String::from_utf8(output.stdout).unwrap()
    });
    format!("{}/{program}", folder.trim())
}

/// How much longer everything may take: the kernel's WireGuard is found in User-Mode Linux, on one processor.
pub(crate) fn slowness() -> u32 {
    if other() == Engine::Kernel { 6 } else { 1 }
}

/// One end of a world.
pub(crate) struct Side {
    pub(crate) namespace: Namespace,
    pub(crate) device: String,
    pub(crate) engine: Engine,
    pub(crate) private: String,
    pub(crate) public: String,
    pub(crate) outer: [IpAddr; 2],
    pub(crate) inner: [IpAddr; 2],
    /// Its peers are served by another thread than the first, where there is one.
    pub(crate) by_second_thread: bool,
    pub(crate) process: Option<Child>,
    pub(crate) log: NamedTempFile,
}

/// Two sides, joined by `eth0`.
pub(crate) struct World {
    pub(crate) a: Side,
    pub(crate) b: Side,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test has, short enough for an interface: the sockets of all devices lie in one folder.
pub(crate) fn unique() -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("swt{:x}-{number}", std::process::id())
}

impl World {
    /// Two devices that are up and have keys and addresses, but do not know each other.
    pub(crate) fn new(a: Engine, b: Engine) -> Self {
        let name = unique();
        let [a, b] = [(a, 1), (b, 2)]
            .map(|(engine, number)| Side::prepare(&format!("{name}{number}"), engine, number));
        let far = b.namespace.pid();
        a.namespace
            .run(&format!("ip link add eth0 type veth peer name eth0 netns {far}"));
        let mut world = Self { a, b };
        for side in [&mut world.a, &mut world.b] {
            side.plug_in();
            side.start();
            side.dress();
        }
        world
    }

    /// Two devices that know each other; `a` knows where `b` is, by IPv4 or IPv6.
    pub(crate) fn joined(a: Engine, b: Engine, v6: bool) -> Self {
        let world = Self::new(a, b);
        world.b.know(&world.a, None);
        world.a.know(&world.b, Some(world.b.outer[usize::from(v6)]));
        world
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for side in [&mut self.a, &mut self.b] {
            side.crash();
            let _ = fs::remove_file(side.socket());
            let log = fs::read_to_string(side.log.path()).unwrap_or_default();
            if thread::panicking() {
                eprintln!("log of {:?}:\n{log}", side.engine);
            } else if matches!(side.engine, Engine::Ours | Engine::Threads(_) | Engine::Plain) {
                assert!(!log.contains("ERROR"), "a device of ours logged an error:\n{log}");
            }
        }
    }
}

impl Side {
    pub(crate) fn prepare(name: &str, engine: Engine, number: u8) -> Self {
        let private = run(&["wg", "genkey"]).trim().to_owned();
        let public = pipe(&["wg", "pubkey"], &private).trim().to_owned();
        let addresses = |v4: &str, v6: &str| [v4, v6].map(|net| format!("{net}{number}").parse().unwrap());
        Self {
            namespace: Namespace::new(),
            device: name.into(),
            engine: if engine == Engine::Ours { subject() } else { engine },
            private,
            public,
            outer: addresses("192.0.2.", "2001:db8::"),
            inner: addresses("10.77.0.", "fd77::"),
            by_second_thread: number == 1,
            process: None,
            log: NamedTempFile::new().unwrap(),
        }
    }

    /// A third one in the place of another, with outer addresses and a port (51821) of its own, that knows a peer.
    pub(crate) fn beside(other: &Self, engine: Engine, number: u8, peer: &Self) -> Self {
        let mut side = Self::prepare(&unique(), engine, number);
        side.namespace = other.namespace.clone();
        for address in side.outer {
            side.add_address("eth0", address);
        }
        side.start();
        side.wg_with_stdin(
            &["listen-port", "51821", "private-key", "/dev/stdin"],
            &side.private,
        );
        side.run(&["ip", "link", "set", &side.device, "up"]);
        side.know(peer, None);
        side
    }

    fn plug_in(&self) {
        self.run(&["ip", "link", "set", "eth0", "up"]);
        for address in self.outer {
            self.add_address("eth0", address);
        }
    }

    pub(crate) fn add_address(&self, device: &str, address: IpAddr) {
        let net = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        let mut command = vec!["ip", "addr", "add", &net, "dev", device];
        if address.is_ipv6() {
            command.push("nodad");
        }
        self.run(&command);
    }

    /// Starts the engine and waits until the device can be configured.
    pub(crate) fn start(&mut self) {
        self.spawn();
        // `wg` removes a socket at which no process answers, such as one that is bound and not listened at yet.
        let answers = || self.engine == Engine::Kernel || UnixStream::connect(self.socket()).is_ok();
        wait_for(
            &format!(
                "{:?} to be ready (is the package of Debian's installed?)",
                self.engine
            ),
            || answers() && self.try_run(&["wg", "show", &self.device]).status.success(),
        );
    }

    /// Starts the engine, and no `wg` that would look for its socket.
    pub(crate) fn spawn(&mut self) {
        let program = match self.engine {
            Engine::Ours => [OURS, "-f", "--threads", "2"].map(str::to_owned).to_vec(),
            Engine::Threads(number) => vec![OURS.into(), "-f".into(), "--threads".into(), number.to_string()],
            Engine::Plain => [OURS, "-f", "--threads", "1", "--no-offload"]
                .map(str::to_owned)
                .to_vec(),
            Engine::WireguardGo => vec![built("wireguard-go"), "-f".into()],
            Engine::DebiansWireguardGo => vec!["wireguard-go".into(), "-f".into()],
            Engine::Boringtun => vec![
                built("boringtun-cli"),
                "-f".into(),
                "--disable-drop-privileges".into(),
            ],
            Engine::Kernel => {
                let made = self.try_run(&["ip", "link", "add", &self.device, "type", "wireguard"]);
                assert!(
                    made.status.success(),
                    "the kernel has no WireGuard: use one that has (e2e/uml/run)"
                );
                return;
            }
        };
        let mut words: Vec<&str> = program.iter().map(String::as_str).collect();
        words.push(&self.device);
        let log = || fs::OpenOptions::new().append(true).open(self.log.path()).unwrap();
        let mut command = self.command(&words);
        if words[0] != OURS {
            command = command.env("LOG_LEVEL", "error");
        }
        self.process = Some(command.stdout(log()).stderr(log()).spawn());
    }

    /// Gives the device its key, a port, addresses, and puts it up.
    pub(crate) fn dress(&self) {
        self.wg_with_stdin(
            &["listen-port", "51820", "private-key", "/dev/stdin"],
            &self.private,
        );
        for address in self.inner {
            self.add_address(&self.device, address);
        }
        self.run(&["ip", "link", "set", &self.device, "up"]);
        if self.engine != Engine::Kernel {
            wait_for("the port to open", || {
                self.run(&["ss", "-uln"]).contains(":51820")
            });
        }
    }

    /// Makes the other side a peer with its inner addresses.
    pub(crate) fn know(&self, other: &Side, endpoint: Option<IpAddr>) {
        self.know_with(other, endpoint, "");
    }

    /// The same with a preshared key, all of it in one request: boringtun-cli cannot change a peer it has.
    pub(crate) fn know_with(&self, other: &Side, endpoint: Option<IpAddr>, preshared: &str) {
        let allowed = format!("{}/32,{}/128", other.inner[0], other.inner[1]);
        let endpoint = endpoint.map(|addr| std::net::SocketAddr::new(addr, 51820).to_string());
        let mut words = vec!["peer", &other.public, "allowed-ips", &allowed];
        if let Some(endpoint) = &endpoint {
            words.extend(["endpoint", endpoint]);
        }
        let stranger = (self.engine == Engine::Ours && self.by_second_thread).then(|| self.meet_stranger());
        if !preshared.is_empty() {
            words.extend(["preshared-key", "/dev/stdin"]);
        }
        self.wg_with_stdin(&words, preshared);
        if let Some(stranger) = stranger {
            self.wg(&["peer", &stranger, "remove"]);
        }
    }

    /// Has a device of ours start handshakes before there are packets.
    pub(crate) fn hurry(&self) {
        assert_eq!(
            crate::conformance::ask(self, "set=1\neager=true\n\n"),
            "errno=0\n\n"
        );
    }

    /// Adds a peer that does not exist, so that the next one is served by another thread.
    fn meet_stranger(&self) -> String {
        let stranger = pipe(&["wg", "pubkey"], &run(&["wg", "genkey"])).trim().to_owned();
        self.wg(&["peer", &stranger]);
        stranger
    }

    /// `wg set` on this device.
    pub(crate) fn wg(&self, words: &[&str]) {
        self.run(&[&["wg", "set", &self.device], words].concat());
    }

    pub(crate) fn wg_with_stdin(&self, words: &[&str], stdin: &str) {
        let command = self.command(&["wg", "set", &self.device]).args(words);
        command.input(stdin).run();
    }

    /// The first peer's line of `wg show dump`: key, preshared key, endpoint, allowed IPs, handshake, rx, tx, keepalive.
    pub(crate) fn peer_dump(&self) -> Vec<String> {
        let dump = self.run(&["wg", "show", &self.device, "dump"]);
        let peer = dump
            .lines()
            .nth(1)
            .unwrap_or_else(|| panic!("{} has no peer", self.device));
        peer.split('\t').map(str::to_owned).collect()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.peer_dump()[2].clone()
    }

    pub(crate) fn last_handshake(&self) -> u64 {
        self.peer_dump()[4].parse().unwrap()
    }

    pub(crate) fn received(&self) -> u64 {
        self.peer_dump()[5].parse().unwrap()
    }

    /// Runs a command here and returns what it prints.
    #[track_caller]
    pub(crate) fn run(&self, command: &[&str]) -> String {
        self.limited(command).run()
    }

    pub(crate) fn try_run(&self, command: &[&str]) -> Output {
        self.limited(command).output()
    }

    fn limited(&self, command: &[&str]) -> Command {
        let timeout = self.namespace.command("timeout");
        timeout.arg(PATIENCE_SECONDS).args(command)
    }

    /// A command here that dies with this test.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.namespace.command(words[0]).args(&words[1..])
    }

    /// Whether every one of `count` pings comes back.
    pub(crate) fn pings(&self, to: IpAddr, count: u32) -> bool {
        let (count, to) = (count.to_string(), to.to_string());
        self.try_run(&["ping", "-q", "-c", &count, "-i", "0.05", "-W", "2", &to])
            .status
            .success()
    }

    /// Whether one ping comes back within a moment.
    pub(crate) fn reaches(&self, to: IpAddr) -> bool {
        self.try_run(&["ping", "-q", "-c", "1", "-W", "0.3", &to.to_string()])
            .status
            .success()
    }

    /// The most memory the engine's process had, in kilobytes.
    pub(crate) fn peak(&self) -> u64 {
        let pid = self.process.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The engine ends without a chance to clean up.
    pub(crate) fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        format!("/var/run/wireguard/{}.sock", self.device).into()
    }
}

/// Tells a process to end and waits for it: whether it ended well.
pub(crate) fn terminate(process: &mut Child, signal: Signal) -> bool {
    kill(Pid::from_raw(process.id().try_into().unwrap()), signal).expect("it is ours");
    ends(process)
}

/// Waits for a process to end by itself: whether it ended well.
pub(crate) fn ends(process: &mut Child) -> bool {
    let mut status = None;
    wait_for("a process to end", || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    status.is_some_and(|status| status.success())
}

/// Fails the test when something does not happen soon.
#[track_caller]
pub(crate) fn wait_for(what: &str, happened: impl FnMut() -> bool) {
    wait_until(what, slowness() * Duration::from_secs(20), happened);
}

/// Runs a command and returns what it prints.
#[track_caller]
pub(crate) fn run(command: &[&str]) -> String {
    Command::new(command[0]).args(&command[1..]).run()
}

/// Runs a command that reads `stdin`.
#[track_caller]
pub(crate) fn pipe(command: &[&str], stdin: &str) -> String {
    Command::new(command[0]).args(&command[1..]).input(stdin).run()
}
