//! Which WireGuard carries the mesh: `SPANWIRE_TEST_BACKEND` is `tunnel` (the default, spanwire-tunnel on every node) or
//! `kernel`.

use spanwire_testbed::Namespace;
use spanwire_topology::PublicKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Tunnel,
    Kernel,
}

pub(crate) fn backend() -> Backend {
    match std::env::var("SPANWIRE_TEST_BACKEND").as_deref() {
        Err(_) | Ok("tunnel") => Backend::Tunnel,
        Ok("kernel") => Backend::Kernel,
        Ok(other) => panic!("SPANWIRE_TEST_BACKEND is {other:?}, not tunnel or kernel"),
    }
}

impl Backend {
    /// What the agent calls it.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Tunnel => "--backend=userspace",
            Self::Kernel => "--backend=kernel",
        }
    }
}

/// Asks the kernel's device for the same by `wg`, as far as the tests ask for it. What a configuration says of a peer is
/// instead of what was there (`process_line` in wireguard-tools' config.c).
pub(crate) fn by_wg(host: &Namespace, request: &str) {
    let mut config = "[Interface]\n".to_owned();
    let mut peer = String::new();
    let mut allowed = 0;
    for line in request.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap();
        match (key, value) {
            ("set" | "update_only", _) => {}
            ("public_key", key) => {
                peer = base64(key);
                config += &format!("[Peer]\nPublicKey = {peer}\n");
                allowed = config.len();
                config += &allowed_ips(host, &peer);
            }
            ("remove", _) => {
                host.run(&format!("wg set spanwire0 peer {peer} remove"));
                return;
            }
            ("replace_allowed_ips", _) => config.truncate(allowed),
            ("allowed_ip", net) => config += &format!("AllowedIPs = {net}\n"),
            ("preshared_key", key) => config += &format!("PresharedKey = {}\n", base64(key)),
            ("persistent_keepalive_interval", number) => {
                config += &format!("PersistentKeepalive = {number}\n");
            }
            ("private_key", key) => config += &format!("PrivateKey = {}\n", base64(key)),
            ("listen_port", number) => config += &format!("ListenPort = {number}\n"),
            ("fwmark", number) => config += &format!("FwMark = {number}\n"),
            _ => panic!("{line} is not asked of the kernel yet"),
        }
    }
    let wg = host.command("wg").args(["addconf", "spanwire0", "/dev/stdin"]);
    wg.input(config).run();
}

/// The lines of a configuration for what a peer has.
fn allowed_ips(host: &Namespace, peer: &str) -> String {
    let shown = host.run("wg show spanwire0 allowed-ips");
    let of_it = shown.lines().filter_map(|line| line.strip_prefix(peer));
    let nets = of_it
        .flat_map(str::split_whitespace)
        .filter(|net| *net != "(none)");
    nets.map(|net| format!("AllowedIPs = {net}\n")).collect()
}

fn base64(hex: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    PublicKey::new(std::array::from_fn(byte)).to_string()
}
