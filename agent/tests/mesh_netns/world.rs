//! Two locations of two nodes, a pod on each, and a router.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Child,
    thread::{self, JoinHandle},
    time::Duration,
};

use spanwire_agent::identity::Identity;
use spanwire_crds::Peer;
use spanwire_testbed::{self as testbed, Family, Namespace, chart, wait_until};
use spanwire_topology::{Mesh, PublicKey};
use tempfile::TempDir;

use crate::{
    mesh,
    wireguard::{Backend, backend, by_wg},
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
    pub(crate) network: testbed::World,
    pub(crate) folder: TempDir,
    /// The nodes say that they have no address on a device of the CNI.
    hopless: bool,
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
        Self::on(testbed::World::two_locations(&[Family::V4]), established)
    }

    fn on(network: testbed::World, established: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        network.router.nft(ROUTER);
        let nodes = network.nodes.iter().map(|node| Node::new(node, folder.path()));
        let mut world = Self {
            nodes: nodes.collect(),
            network,
            folder,
            hopless: false,
        };
        world.publish(established, &[]);
        world.nodes.iter_mut().for_each(Node::start_tunnel);
        world
    }

    /// The same where the CNI has no device of its own (flannel's host-gw).
    pub(crate) fn without_cni_device() -> Self {
        let mut world = Self::new(true);
        world.network.route_pods_in_lans();
        world.hopless = true;
        world
    }

    /// With all agents running.
    pub(crate) fn with_agents(established: bool) -> Self {
        let mut world = Self::new(established);
        let mesh = world.mesh_file();
        world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
        world
    }

    /// The same where leaders reach each other by IPv6 alone; pods have IPv4.
    pub(crate) fn with_agents_over_ipv6() -> Self {
        let mut world = Self::over_ipv6();
        let mesh = world.mesh_file();
        world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
        world
    }

    /// The same where everything has addresses of both families.
    pub(crate) fn with_agents_of_both_families() -> Self {
        let network = testbed::World::two_locations(&[Family::V4, Family::V6]);
        let mut world = Self::on(network, true);
        world.publish_changed(mesh::with_ipv6);
        let mesh = world.mesh_file();
        world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
        world
    }

    /// The same without agents where everything has addresses of both families, of which the mesh knows those of IPv6 in location b alone.
    /// Nodes have overlay addresses of both, as wherever any node has both.
    pub(crate) fn with_ipv6_in_b_alone() -> Self {
        let network = testbed::World::two_locations(&[Family::V4, Family::V6]);
        let world = Self::on(network, true);
        world.publish_changed(|published| {
            let location = "a".parse().unwrap();
            let mut without = published.locations[&location].clone();
            mesh::with_ipv6(published);
            for (node, member) in without.members_mut() {
                member.overlay = published.locations[&location].members[node].overlay.clone();
            }
            published.locations.insert(location, without);
        });
        world
    }

    /// The same without agents.
    pub(crate) fn over_ipv6() -> Self {
        let network = testbed::World::two_locations(&[Family::V4, Family::V6]);
        let world = Self::on(network, true);
        world.publish_changed(mesh::reach_by_ipv6);
        world
    }

    pub(crate) fn mesh_file(&self) -> PathBuf {
        self.folder.path().join("mesh.json")
    }

    pub(crate) fn publish(&self, established: bool, retiring: &[&str]) {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        self.publish_mesh(&mesh::mesh(&keys, established), retiring);
    }

    /// Publishes an established mesh after a change.
    pub(crate) fn publish_changed(&self, change: impl FnOnce(&mut Mesh)) {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        let mut mesh = mesh::mesh(&keys, true);
        change(&mut mesh);
        self.publish_mesh(&mesh, &[]);
    }

    /// Publishes an established mesh with a Peer.
    pub(crate) fn publish_with(&self, peer: &Peer) {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        let documents = mesh::documents(&mesh::mesh(&keys, true), &[]);
        let peer = serde_json::to_string(peer).unwrap();
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, format!("{documents}\n---\n{peer}")).unwrap();
        fs::rename(fresh, self.mesh_file()).unwrap();
    }

    fn publish_mesh(&self, mesh: &Mesh, retiring: &[&str]) {
        let documents = mesh::documents(mesh, retiring);
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

    /// Each node's own file, which [`Self::publish_to`] replaces.
    pub(crate) fn mesh_of(&self, node: &str) -> PathBuf {
        self.folder.path().join(format!("{node}.json"))
    }

    /// Publishes to a node that these two lead location a, the first of them actively.
    pub(crate) fn publish_to(&self, node: &str, order: [&str; 2]) {
        let keys: Vec<PublicKey> = self.nodes.iter().map(Node::key).collect();
        let mut mesh = mesh::led_in_order(mesh::mesh(&keys, true), "a", order);
        if self.hopless {
            mesh = mesh::without_hops(mesh);
        }
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, mesh::documents(&mesh, &[])).unwrap();
        fs::rename(fresh, self.mesh_of(node)).unwrap();
    }

    /// With all agents running, and a standby leader in each location: its second node.
    pub(crate) fn with_standby_leaders() -> Self {
        let mut world = Self::new(true);
        let keys: Vec<PublicKey> = world.nodes.iter().map(Node::key).collect();
        let mesh = mesh::led_in_order(mesh::mesh(&keys, true), "a", ["a1", "a2"]);
        let mesh = mesh::led_in_order(mesh, "b", ["b1", "b2"]);
        let path = world.folder.path().join("with-standby-leaders.json");
        fs::write(&path, mesh::documents(&mesh, &[])).unwrap();
        world.nodes.iter_mut().for_each(|node| node.start_agent(&path));
        // What is timed begins when all of them run, which takes a busy machine with four Linuxes ten seconds.
        for node in &world.nodes {
            let is_ready = || node.ask("/readyz").starts_with("HTTP/1.1 200");
            wait_until("the first reconcile", Duration::from_secs(60), is_ready);
        }
        world
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    /// Waits until the pods of the two followers reach each other.
    pub(crate) fn wait_for_pods(&mut self) -> Duration {
        let pod = &self.node("a2").pod;
        wait_until("pod to pod", Duration::from_secs(10), || pod.pings("10.244.4.2"))
    }
}

impl Node {
    fn new(node: &testbed::Node, folder: &Path) -> Self {
        Self {
            name: node.name,
            host: node.host.clone(),
            pod: node.pod.clone(),
            folder: folder.join(node.name),
            flags: &[],
            agent: None,
            tunnel: None,
        }
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

    /// Has the device do what a request of WireGuard's userspace protocol says.
    pub(crate) fn configure_device(&self, request: &str) {
        match backend() {
            Backend::Tunnel => configure(&self.folder.join("wireguard/spanwire0.sock"), request),
            Backend::Kernel => by_wg(&self.host, request),
        }
    }

    /// Takes the device away, as the crash of its process or a boot does.
    pub(crate) fn kill_tunnel(&mut self) {
        let Some(mut tunnel) = self.tunnel.take() else {
            // A node that does not lead has none.
            let _deleted = self.host.try_run("ip link delete spanwire0");
            return;
        };
        tunnel.kill().unwrap();
        tunnel.wait().unwrap();
    }

    /// Asks the process that serves the devices to end, and waits until it has.
    pub(crate) fn stop_tunnel(&mut self) {
        self.signal_tunnel("TERM");
        let mut tunnel = self.tunnel.take().unwrap();
        assert!(tunnel.wait().unwrap().success());
    }

    /// Stops the process that serves the devices, or lets it go on.
    pub(crate) fn signal_tunnel(&self, signal: &str) {
        let pid = self.tunnel.as_ref().unwrap().id();
        self.host.run(&format!("kill -{signal} {pid}"));
    }

    /// Starts what makes devices; the kernel is there already.
    pub(crate) fn start_tunnel(&mut self) {
        if backend() == Backend::Kernel {
            return;
        }
        let command = self.host.command("setpriv");
        let command = command
            .args(chart::capabilities("tunnel"))
            .args([tunnel_binary().as_str(), "serve", "--control"])
            .arg(self.folder.join("tunnel.sock"))
            .arg("--socket-dir")
            .arg(self.folder.join("wireguard"));
        self.tunnel = Some(command.stderr(self.log("tunnel")).spawn());
    }

    pub(crate) fn start_agent(&mut self, mesh: &Path) {
        let source = format!("file:{}", mesh.display());
        let command = self.host.command("setpriv");
        let command = command
            .args(chart::capabilities("agent"))
            .args([env!("CARGO_BIN_EXE_spanwire-agent"), "--node-name", self.name])
            .args(["--source", &source])
            .args(self.paths());
        self.agent = Some(command.stderr(self.log("agent")).spawn());
    }

    pub(crate) fn cleanup(&self, only_print: bool) -> String {
        let command = self.host.command(env!("CARGO_BIN_EXE_spanwire-agent"));
        let command = command.arg("cleanup").args(only_print.then_some("--plan"));
        command.args(self.paths()).run()
    }

    fn paths(&self) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut arguments = vec![
            format!("--state-dir={}", path("state")),
            format!("--tunnel-socket={}", path("tunnel.sock")),
            format!("--wireguard-socket-dir={}", path("wireguard")),
            backend().argument().to_owned(),
        ];
        arguments.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        arguments
    }

    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// A UDP socket of another program on this node.
    pub(crate) fn bind(&self, port: u16) -> UdpSocket {
        self.host
            .inside(move || UdpSocket::bind(("0.0.0.0", port)).unwrap())
    }

    /// What the agent's status server answers.
    pub(crate) fn ask(&self, path: &str) -> String {
        ask(&self.host, path)
    }

    /// Has the agent count what is encrypted, for two seconds from now on.
    pub(crate) fn counting(&self) -> JoinHandle<String> {
        let host = self.host.clone();
        let counting = thread::spawn(move || ask(&host, "/debug/encryption/2"));
        // It has begun by then.
        thread::sleep(Duration::from_millis(500));
        counting
    }

    /// Everything of the node's network that Spanwire might change.
    pub(crate) fn picture(&self) -> String {
        // The kernel adds routes of its own when it has seen that no other machine has an address.
        let settled = || !self.host.run("ip -6 address").contains("tentative");
        wait_until("addresses", Duration::from_secs(20), settled);
        let picture = self.host.run(
            "ip -d link | grep -v 'qlen\\|gso_max\\|alias'
             ip address | grep -v valid_lft
             ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset
             sysctl -a --pattern '^net.ipv[46].(conf|ip_forward)' | sort",
        );
        // The kernel's WireGuard switches it off for good when a device comes up (wg_open).
        let by_kernel = |line: &&str| {
            backend() == Backend::Kernel && line.starts_with("net.ipv4.conf.all.send_redirects ")
        };
        let lines = picture.lines().filter(|line| !by_kernel(line));
        lines.collect::<Vec<_>>().join("\n")
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

/// What the status server of the agent there answers.
fn ask(host: &Namespace, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let fetch = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9477")?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    host.inside(fetch).unwrap_or_default()
}

/// Sends a device a request of WireGuard's userspace protocol.
pub(crate) fn configure(socket: &Path, request: &str) {
    let mut socket = UnixStream::connect(socket).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 7];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"errno=0");
}

/// The tunnel's binary. Cargo builds it for the tests of its own package only.
pub(crate) fn tunnel_binary() -> String {
    static BUILD: std::sync::Once = std::sync::Once::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_spanwire-agent")).with_file_name("spanwire-tunnel");
    BUILD.call_once(|| {
        if !binary.exists() {
            let built = testbed::command(env!("CARGO"))
                .args(["build", "-q", "-p", "spanwire-tunnel"])
                .status();
            assert!(built.unwrap().success());
        }
    });
    binary.display().to_string()
}
