//! Two locations of two nodes, a pod on each, and a router.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use spanwire_agent::identity::Identity;
use spanwire_topology::PublicKey;
use tempfile::TempDir;

use crate::{
    mesh::{self, NODES, lan},
    net::{Namespace, within},
};

/// The router forwards WireGuard between the locations and nothing else, so whatever arrives came through the tunnel.
const ROUTER: &str = "
table inet internet {
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname . oifname != { lan1 . lan2, lan2 . lan1 } accept
    udp dport 51820 accept
    drop
  }
}";

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    _router: Namespace,
    pub(crate) folder: TempDir,
}

pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) host: Namespace,
    pub(crate) pod: Namespace,
    folder: PathBuf,
    /// More of the agent's command line.
    pub(crate) flags: &'static [&'static str],
    agent: Option<Child>,
    tunnel: Option<Child>,
}

impl World {
    /// The network without Spanwire, the tunnel processes, and a mesh in a file.
    pub(crate) fn new(established: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let router = router();
        let nodes = NODES.map(|(_, name, number)| Node::new(name, number, &router, folder.path()));
        let mut world = Self {
            nodes: nodes.into(),
            _router: router,
            folder,
        };
        world.publish(established, &[]);
        world.nodes.iter_mut().for_each(Node::start_tunnel);
        world
    }

    /// With all agents running.
    pub(crate) fn with_agents(established: bool) -> Self {
        let mut world = Self::new(established);
        let mesh = world.mesh_file();
        world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
        world
    }

    pub(crate) fn mesh_file(&self) -> PathBuf {
        self.folder.path().join("mesh.json")
    }

    pub(crate) fn publish(&self, established: bool, retiring: &[&str]) {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        let documents = mesh::documents(&mesh::mesh(&keys, established), retiring);
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, documents).unwrap();
        fs::rename(fresh, self.mesh_file()).unwrap();
    }

    /// Another file, in which another node leads location a.
    pub(crate) fn mesh_led_by(&self, leader: &str) -> PathBuf {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        let mesh = mesh::led_by(mesh::mesh(&keys, true), "a", leader);
        let path = self.folder.path().join(format!("led-by-{leader}.json"));
        fs::write(&path, mesh::documents(&mesh, &[])).unwrap();
        path
    }

    /// Each node's own file, which [`Self::tell`] replaces.
    pub(crate) fn told(&self, node: &str) -> PathBuf {
        self.folder.path().join(format!("{node}.json"))
    }

    /// Tells a node that these two lead location a, the first of them actively.
    pub(crate) fn tell(&self, node: &str, order: [&str; 2]) {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        let mesh = mesh::led_in_order(mesh::mesh(&keys, true), order);
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, mesh::documents(&mesh, &[])).unwrap();
        fs::rename(fresh, self.told(node)).unwrap();
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    /// Waits until the pods of the two followers reach each other.
    pub(crate) fn wait_for_pods(&mut self) -> Duration {
        let pod = &self.node("a2").pod;
        within(Duration::from_secs(10), "pod to pod", || pod.pings("10.244.4.2"))
    }
}

fn router() -> Namespace {
    let router = Namespace::new();
    router.run(
        "sysctl -qw net.ipv4.ip_forward=1
         for location in 1 2; do
           ip link add lan$location type bridge
           ip address add 10.$location.0.254/24 dev lan$location
           ip link set lan$location up
         done",
    );
    router.nft(ROUTER);
    router
}

impl Node {
    fn new(name: &'static str, number: u8, router: &Namespace, folder: &Path) -> Self {
        let node = Self {
            name,
            host: Namespace::new(),
            pod: Namespace::new(),
            folder: folder.join(name),
            flags: &[],
            agent: None,
            tunnel: None,
        };
        let location = if number <= 2 { 1 } else { 2 };
        let (host, pod) = (node.host.pid(), node.pod.pid());
        router.run(&format!(
            "ip link add {name} type veth peer name eth0 netns {host}
             ip link set {name} master lan{location} up",
        ));
        node.host.run(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
             ip address add {lan}/24 dev eth0
             ip link set eth0 up
             ip route add default via 10.{location}.0.254
             ip link add flannel.1 mtu 1450 address 02:00:00:00:00:0{number} type vxlan id 1 dstport 8472 \
               local {lan} dev eth0 nolearning
             ip address add 10.244.{number}.0/32 dev flannel.1
             ip link set flannel.1 up
             ip link add pod0 type veth peer name eth0 netns {pod}
             ip address add 10.244.{number}.1/24 dev pod0
             ip link set pod0 up",
            lan = lan(number),
        ));
        for (_, _, other) in NODES.into_iter().filter(|(_, _, other)| *other != number) {
            node.host.run(&format!(
                "ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink
                 ip neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent
                 bridge fdb append 02:00:00:00:00:0{other} dev flannel.1 dst {lan}",
                lan = lan(other),
            ));
        }
        node.pod.run(&format!(
            "ip address add 10.244.{number}.2/24 dev eth0
             ip link set eth0 up
             ip route add default via 10.244.{number}.1",
        ));
        node
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn key(&self) -> PublicKey {
        Identity::load_or_create(&self.state()).unwrap().public()
    }

    fn log(&self, what: &str) -> File {
        let path = self.folder.join(format!("{what}.log"));
        File::options().create(true).append(true).open(path).unwrap()
    }

    pub(crate) fn agent_log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// Says something to the device in WireGuard's userspace protocol.
    pub(crate) fn tell_device(&self, request: &str) {
        let mut socket = UnixStream::connect(self.folder.join("wireguard/spanwire0.sock")).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 7];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"errno=0");
    }

    pub(crate) fn kill_tunnel(&mut self) {
        let mut tunnel = self.tunnel.take().unwrap();
        tunnel.kill().unwrap();
        tunnel.wait().unwrap();
    }

    pub(crate) fn start_tunnel(&mut self) {
        let mut command = self.host.command(&tunnel_binary());
        command
            .arg("serve")
            .arg("--control")
            .arg(self.folder.join("tunnel.sock"));
        command.arg("--socket-dir").arg(self.folder.join("wireguard"));
        self.tunnel = Some(command.stderr(self.log("tunnel")).spawn().unwrap());
    }

    pub(crate) fn start_agent(&mut self, mesh: &Path) {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_spanwire-agent"));
        command.args([
            "--node-name",
            self.name,
            "--source",
            &format!("file:{}", mesh.display()),
        ]);
        self.agent = Some(
            command
                .args(self.paths())
                .stderr(self.log("agent"))
                .spawn()
                .unwrap(),
        );
    }

    pub(crate) fn cleanup(&self, only_print: bool) -> String {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_spanwire-agent"));
        command
            .arg("cleanup")
            .args(only_print.then_some("--plan"))
            .args(self.paths());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn paths(&self) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut arguments = vec![
            format!("--state-dir={}", path("state")),
            format!("--tunnel-socket={}", path("tunnel.sock")),
            format!("--wireguard-socket-dir={}", path("wireguard")),
            "--backend=userspace".to_owned(),
        ];
        arguments.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        arguments
    }

    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// A UDP socket of somebody else on this node.
    pub(crate) fn bind(&self, port: u16) -> UdpSocket {
        let namespace = format!("/proc/{}/ns/net", self.host.pid());
        let bind = move || -> std::io::Result<UdpSocket> {
            nix::sched::setns(File::open(namespace)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
            UdpSocket::bind(("0.0.0.0", port))
        };
        std::thread::spawn(bind).join().unwrap().unwrap()
    }

    /// What the agent's status server answers.
    pub(crate) fn ask(&self, path: &str) -> String {
        let namespace = format!("/proc/{}/ns/net", self.host.pid());
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let fetch = move || -> std::io::Result<String> {
            nix::sched::setns(File::open(namespace)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let mut stream = TcpStream::connect("127.0.0.1:9477")?;
            stream.write_all(request.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        std::thread::spawn(fetch).join().unwrap().unwrap_or_default()
    }

    /// Everything of the node's network that Spanwire might change.
    pub(crate) fn picture(&self) -> String {
        // The kernel adds routes of its own when it has seen that nobody else has an address.
        let settled = || !self.host.run("ip -6 address").contains("tentative");
        within(Duration::from_secs(5), "addresses", settled);
        self.host.run(
            "ip -d link | grep -v 'qlen\\|gso_max\\|alias'
             ip address | grep -v valid_lft
             ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset
             sysctl -a --pattern '^net.ipv[46].(conf|ip_forward)' | sort",
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent of {}\n{}", self.name, self.agent_log());
            eprintln!(
                "--- wanted\n{}\n--- diff\n{}",
                self.ask("/debug/wanted"),
                self.ask("/debug/diff")
            );
        }
        for child in [&mut self.agent, &mut self.tunnel].into_iter().flatten() {
            // It may have ended already.
            let _gone = child.kill();
            let _ended = child.wait();
        }
    }
}

/// The tunnel's binary. Cargo builds it for the tests of its own package only.
fn tunnel_binary() -> String {
    static BUILD: std::sync::Once = std::sync::Once::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_spanwire-agent")).with_file_name("spanwire-tunnel");
    BUILD.call_once(|| {
        if !binary.exists() {
            let built = spanwire_testbed::command(env!("CARGO"))
                .args(["build", "-q", "-p", "spanwire-tunnel"])
                .status();
            assert!(built.unwrap().success());
        }
    });
    binary.display().to_string()
}
