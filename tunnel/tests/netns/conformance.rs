//! The same UAPI texts for wireguard-go and for us, and the same answers; and `wg` on top of both.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::world::{Engine, Side, World, pipe, run};

/// Sends a request and reads the answer up to its empty line; empty when the other side hangs up.
pub(crate) fn ask(side: &Side, request: &str) -> String {
    let mut stream = UnixStream::connect(side.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let mut reader = BufReader::new(stream);
    while !answer.ends_with("\n\n") && reader.read_line(&mut answer).unwrap_or(0) > 0 {}
    answer
}

/// Returns an answer with peers and allowed IPs in order, and without what differs by nature: counters, handshake times.
fn normal(answer: &str) -> String {
    let mut device = Vec::new();
    let mut peers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut peer = None;
    for line in answer.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
        match key {
            "tx_bytes" | "rx_bytes" | "last_handshake_time_sec" | "last_handshake_time_nsec" => {}
            "public_key" => {
                peer = Some(value);
                peers.insert(value, Vec::new());
            }
            "errno" => device.push(line),
            _ => match peer {
                Some(peer) => peers.get_mut(peer).unwrap().push(line),
                None => device.push(line),
            },
        }
    }
    for lines in peers.values_mut() {
        lines.sort_unstable();
    }
    device.sort_unstable();
    format!("{device:#?} {peers:#?}")
}

/// Returns a 32-byte key in hex.
fn key(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// Each step: what is sent, after which a `get` must be the same on both sides.
fn steps() -> Vec<String> {
    let set = |lines: &[&str]| format!("set=1\n{}\n\n", lines.join("\n"));
    let (one, two, three) = (key(0x11), key(0x22), key(0x33));
    let [peer1, peer2, peer3] = [&one, &two, &three].map(|key| format!("public_key={key}"));
    let secret = format!("private_key={}", key(0x55));
    let own = pipe(&["wg", "pubkey"], &base64(0x55));
    let own = format!("public_key={}", hex(own.trim()));
    let preshared = format!("preshared_key={}", key(0x77));
    let no_preshared = format!("preshared_key={}", key(0));
    let here = &[
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=fd00::/8",
        "allowed_ip=10.1.2.3/16",
    ];
    vec![
        "get=1\n\n".into(),
        set(&[&secret, "listen_port=31234", "fwmark=8192", "replace_peers=true"]),
        set(&[
            &peer1,
            &preshared,
            "endpoint=127.0.0.1:9",
            "persistent_keepalive_interval=25",
            here[0],
            here[1],
            here[2],
        ]),
        set(&[&peer1]),
        // A prefix moves to the peer that got it last.
        set(&[&peer2, "allowed_ip=10.0.0.0/8", "endpoint=[::1]:9"]),
        set(&[
            &peer2,
            "replace_allowed_ips=true",
            "allowed_ip=0.0.0.0/0",
            "allowed_ip=::/0",
        ]),
        set(&[
            &peer1,
            "replace_allowed_ips=true",
            &peer2,
            "allowed_ip=10.1.0.0/16",
        ]),
        // A prefix is taken from the peer that has it, and from no other.
        set(&[&peer2, "allowed_ip=10.8.0.0/16", "allowed_ip=fd08::/16"]),
        set(&[&peer1, "allowed_ip=-10.8.0.0/16", "allowed_ip=-10.9.0.0/16"]),
        set(&[&peer2, "allowed_ip=-fd08::/16", "allowed_ip=-10.8.0.0/17"]),
        set(&[&peer3, "update_only=true", "allowed_ip=10.3.0.0/16"]),
        set(&[
            &peer1,
            "update_only=true",
            "allowed_ip=10.3.0.0/16",
            "protocol_version=1",
        ]),
        set(&[&peer1, &no_preshared, "persistent_keepalive_interval=0"]),
        set(&[&peer3, "remove=true"]),
        set(&[
            &peer1,
            "remove=true",
            "allowed_ip=10.9.0.0/16",
            "endpoint=127.0.0.1:10",
        ]),
        set(&[&own, "allowed_ip=10.9.0.0/16"]),
        set(&["fwmark=0"]),
        set(&["listen_port=31235"]),
        // Refused, each with its number; what stood before the bad line stays.
        set(&["foo=1"]),
        set(&["foo"]),
        set(&["=1"]),
        set(&["listen_port=65536"]),
        set(&["listen_port=x"]),
        set(&["fwmark=4294967296"]),
        set(&["fwmark=0x20"]),
        set(&["private_key=00"]),
        set(&["replace_peers=false"]),
        set(&["allowed_ip=10.0.0.0/8"]),
        set(&["public_key=zz"]),
        set(&[&peer1, "endpoint=localhost:1"]),
        set(&[&peer1, "endpoint=127.0.0.1"]),
        set(&[&peer1, "endpoint=127.0.0.1:65536"]),
        set(&[&peer1, "allowed_ip=10.4.0.0/16", "allowed_ip=10.5.0.0/33"]),
        set(&[&peer1, "allowed_ip=10.6.0.0"]),
        set(&[&peer1, "allowed_ip=-10.6.0.0"]),
        set(&[&peer1, "allowed_ip=--10.6.0.0/16"]),
        set(&[&peer1, "preshared_key=1"]),
        set(&[&peer1, "persistent_keepalive_interval=65536"]),
        set(&[&peer1, "persistent_keepalive_interval=off"]),
        set(&[&peer1, "remove=1"]),
        set(&[&peer1, "update_only=false"]),
        set(&[&peer1, "replace_allowed_ips=0"]),
        set(&[&peer1, "protocol_version=2"]),
        set(&[&peer1, "private_key=00"]),
        "get=1\nfoo=1\n\n".into(),
        "get=2\n\n".into(),
        "hello\n\n".into(),
        set(&["replace_peers=true"]),
        set(&[&format!("private_key={}", key(0))]),
        // Peers before the key, and a key that is one of them.
        set(&[&peer1, "allowed_ip=10.0.0.0/8", &own, "allowed_ip=10.1.0.0/16"]),
        set(&[&secret]),
    ]
}

/// Returns the key of that byte in base64, clamped by its reader.
fn base64(byte: u8) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode([byte; 32])
}

pub(crate) fn hex(base64: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD
        .decode(base64)
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn we_answer_as_wireguard_go_does() {
    let world = World::new(Engine::Ours, Engine::WireguardGo);
    for (number, step) in steps().into_iter().enumerate() {
        let [ours, theirs] = [&world.a, &world.b].map(|side| {
            // Addresses are not part of the comparison, and both have a key and port of their own at first.
            if number == 0 {
                ask(
                    side,
                    &format!("set=1\nprivate_key={}\nlisten_port=31233\n\n", key(0x44)),
                );
            }
            ask(side, &step)
        });
        assert_eq!(normal(&ours), normal(&theirs), "answers to {step}");
        let [ours, theirs] = [&world.a, &world.b].map(|side| ask(side, "get=1\n\n"));
        assert_eq!(normal(&ours), normal(&theirs), "state after {step}");
    }
}

#[test]
fn a_single_allowed_ip_can_be_taken_away() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let peer = format!("public_key={}", key(0x11));
    let other = format!("public_key={}", key(0x22));
    let ours = |lines: &str| assert_eq!(ask(&world.a, &format!("set=1\n{lines}\n\n")), "errno=0\n\n");
    ours(&format!(
        "{peer}\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n{other}\nallowed_ip=10.1.0.0/16"
    ));
    ours(&format!(
        "{peer}\nallowed_ip=-10.0.0.0/8\nallowed_ip=-10.1.0.0/16\nallowed_ip=-10.2.0.0/16"
    ));
    let answer = ask(&world.a, "get=1\n\n");
    let allowed: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("allowed_ip="))
        .collect();
    assert_eq!(
        allowed,
        ["fd00::/8", "10.1.0.0/16"],
        "only the peer that has a prefix can lose it"
    );
}

/// A key that `wg` does not know stands in the answer that it reads.
#[test]
fn wg_passes_over_groups_and_leaves_them_alone() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let side = &world.a;
    let peer = pipe(&["wg", "pubkey"], &base64(1)).trim().to_owned();
    side.wg(&[
        "peer",
        &peer,
        "allowed-ips",
        "10.1.0.0/16",
        "endpoint",
        "127.0.0.1:9",
    ]);
    let shown = || {
        let conf = side.run(&["wg", "showconf", &side.device]);
        (show(side), conf, side.run(&["wg", "show", &side.device]))
    };
    let before = shown();
    let group = || ask(side, "get=1\n\n").matches("\ngroup=paris\n").count();
    let set = format!("set=1\npublic_key={}\ngroup=paris\n\n", hex(&peer));
    assert_eq!(ask(side, &set), "errno=0\n\n");
    assert_eq!((shown(), group()), (before.clone(), 1));
    pipe(&["wg", "syncconf", &side.device, "/dev/stdin"], &before.1);
    side.wg(&["peer", &peer, "persistent-keepalive", "9"]);
    assert_eq!(group(), 1);
    pipe(&["wg", "setconf", &side.device, "/dev/stdin"], &before.1);
    assert_eq!((shown(), group()), (before, 0), "a recreated peer has no group");
}

/// What `wg` prints for a device after each of its writing commands, on both implementations.
#[test]
fn wg_sees_the_same_in_both() {
    let world = World::new(Engine::Ours, Engine::WireguardGo);
    let keys: Vec<String> = (1..=3)
        .map(|byte| pipe(&["wg", "pubkey"], &base64(byte)).trim().to_owned())
        .collect();
    let head = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 31236\nFwMark = 0x2000\n",
        base64(9)
    );
    let peer = |number: usize, rest: &str| format!("[Peer]\nPublicKey = {}\n{rest}\n", keys[number]);
    let full = peer(
        0,
        "PresharedKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\nAllowedIPs = 10.1.0.0/16, fd01::/64\nEndpoint = 127.0.0.1:9\nPersistentKeepalive = 21",
    );
    let configs = [
        (
            "setconf",
            format!("{head}{full}{}", peer(1, "AllowedIPs = 10.2.0.0/16")),
        ),
        ("addconf", peer(2, "AllowedIPs = 10.3.0.0/16\nEndpoint = [::1]:9")),
        (
            "syncconf",
            format!(
                "{head}{}{}",
                peer(0, "AllowedIPs = 10.1.1.0/24"),
                peer(2, "AllowedIPs = 10.3.0.0/16")
            ),
        ),
        ("syncconf", head),
        ("setconf", format!("[Interface]\nPrivateKey = {}\n", base64(8))),
    ];
    for (verb, config) in configs {
        let [ours, theirs] = [&world.a, &world.b].map(|side| {
            pipe(&["wg", verb, &side.device, "/dev/stdin"], &config);
            show(side)
        });
        assert_eq!(ours, theirs, "after {verb} of {config}");
    }
    let [ours, theirs] = [&world.a, &world.b].map(|side| {
        side.wg(&[
            "peer",
            &keys[0],
            "allowed-ips",
            "10.1.0.0/16",
            "endpoint",
            "127.0.0.1:7",
            "persistent-keepalive",
            "9",
        ]);
        side.wg(&["peer", &keys[1], "allowed-ips", "10.1.0.0/16"]);
        side.wg(&["peer", &keys[0], "persistent-keepalive", "off"]);
        side.wg(&[
            "fwmark",
            "off",
            "listen-port",
            "31237",
            "private-key",
            "/dev/null",
        ]);
        show(side)
    });
    assert_eq!(ours, theirs, "after wg set");
}

/// `wg show dump` and `wg showconf`, peers in order; the private key as it came back.
fn show(side: &Side) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in side.run(&["wg", "show", &side.device, "dump"]).lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            [key, preshared, endpoint, allowed, _, _, _, keepalive] => {
                let mut allowed: Vec<&str> = allowed.split(',').collect();
                allowed.sort_unstable();
                lines.push(format!("{key} {preshared} {endpoint} {allowed:?} {keepalive}"));
            }
            // wireguard-go picks another port when it is given none.
            [private, public, port, mark] => {
                let port = if port.len() == 5 && !port.starts_with("3123") {
                    "any"
                } else {
                    port
                };
                lines.push(format!("{private} {public} {port} {mark}"));
            }
            _ => panic!("{line}"),
        }
    }
    lines.sort_unstable();
    lines
}

#[test]
fn three_hundred_peers_with_a_hundred_prefixes_each_go_in_and_come_out() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let mut request = "set=1\nreplace_peers=true\n".to_owned();
    for peer in 0..300_u32 {
        request += &format!("public_key={peer:064x}\nendpoint=127.0.0.1:9\nreplace_allowed_ips=true\n");
        for prefix in 0..100 {
            request += &format!("allowed_ip=10.{}.{}.{prefix}/32\n", peer / 256, peer % 256);
        }
    }
    assert_eq!(ask(&world.a, &(request + "\n")), "errno=0\n\n");
    let answer = ask(&world.a, "get=1\n\n");
    assert_eq!(
        answer
            .lines()
            .filter(|line| line.starts_with("allowed_ip="))
            .count(),
        30_000
    );
    run(&["wg", "show", &world.a.device, "dump"]);
}

#[test]
fn a_hundred_and_thirty_thousand_allowed_ips_go_in_and_come_out() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let side = &world.a;
    let peer = pipe(&["wg", "pubkey"], &base64(1)).trim().to_owned();
    // IPv4 alone, and half of each family in the place of that.
    for (verb, of_v4) in [("addconf", 130_560), ("setconf", 65_280)] {
        let mut config = format!("[Peer]\nPublicKey = {peer}\n");
        for number in 0..130_560_u32 {
            let [_, high, middle, low] = number.to_be_bytes();
            config += &if number < of_v4 {
                format!("AllowedIPs = 10.{high}.{middle}.{low}/32\n")
            } else {
                format!("AllowedIPs = 2001:db8:{high:x}:{middle:x}::{low:x}/128\n")
            };
        }
        side.command(&["wg", verb, &side.device, "/dev/stdin"])
            .input(config)
            .run();
        let shown = side.run(&["wg", "show", &side.device, "allowed-ips"]);
        assert_eq!(shown.split_whitespace().count(), 1 + 130_560);
        assert_eq!(shown.matches("/32").count(), of_v4 as usize, "{verb}");
    }
}

#[test]
fn packets_flow_while_tens_of_thousands_of_peers_are_added() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    let World { a, b } = &world;
    assert!(a.pings(b.inner[0], 2));
    let mut request = "set=1\n".to_owned();
    for peer in 0..60_000_u32 {
        let [_, high, middle, low] = peer.to_be_bytes();
        request += &format!(
            "public_key={:08x}{}\nallowed_ip=10.{high}.{middle}.{low}/32\n",
            peer.swap_bytes() | 9,
            "5a".repeat(28)
        );
    }
    let mut ping = a.command(&["ping", "-i", "0.005", "-w", "60", &b.inner[0].to_string()]);
    ping = ping.stdout(std::process::Stdio::piped());
    let mut ping = ping.spawn();
    let mut said = BufReader::new(ping.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    said.find_map(|line| answered_after(&line)).unwrap();
    let mut stream = UnixStream::connect(a.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let start = Instant::now();
    stream.write_all((request + "\n").as_bytes()).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    let took = start.elapsed();
    assert_eq!(&answer, b"errno=0\n\n");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(ping.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let (mut answers, mut waited, mut summary) = (0, Duration::ZERO, String::new());
    for line in said {
        if let Some(after) = answered_after(&line) {
            answers += 1;
            waited += after;
        } else if line.contains("packets transmitted") {
            summary = line;
        }
    }
    ping.wait().unwrap();
    eprintln!(
        "{took:?}, {answers} answers after {:?} on average, {summary}",
        waited / answers.max(1)
    );
    let sent: u32 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(answers >= 5 && answers > sent / 2);
    // Where packets stand still all the while, they wait for half of it; where they flow, for about a hundredth, on a busy
    // machine too.
    assert!(waited / answers < took / 8);
}

/// After what time `ping` got the answer that it speaks of in this line.
fn answered_after(line: &str) -> Option<Duration> {
    let (_, time) = line.rsplit_once("time=")?;
    let milliseconds: f64 = time.strip_suffix(" ms")?.parse().ok()?;
    Some(Duration::from_secs_f64(milliseconds / 1e3))
}

#[test]
fn slow_and_broken_clients_stop_nothing() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    let connect = || UnixStream::connect(world.a.socket()).unwrap();
    let pid = world.a.process.as_ref().unwrap().id();
    let files = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = files();
    let mut hanging: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    for (number, client) in hanging.iter_mut().enumerate() {
        let words = ["", "get=1\n", "set=1\n", "set=1\nfwmark=", "\n", "get=1\n\n"][number % 6];
        let _ = client.write_all(words.as_bytes());
    }
    let mut endless = connect();
    let _ = endless.write_all(&vec![b'x'; 1 << 20]);
    assert!(world.a.pings(world.b.inner[0], 3));
    assert!(world.a.endpoint().ends_with(":51820"));
    let more = files() - before;
    assert!(more <= 16, "{more} more files are open for 40 clients");
}

#[test]
fn one_connection_can_ask_again_and_again() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let mut stream = UnixStream::connect(world.a.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
        .write_all(b"set=1\nfwmark=1\n\nset=1\nbad=1\nfwmark=2\n\nset=1\nlisten_port=4242\n\n")
        .unwrap();
    let mut answers = [0; 29];
    stream.read_exact(&mut answers).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answers),
        "errno=0\n\nerrno=-22\n\nerrno=0\n\n"
    );
    stream.write_all(b"get=1\n\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut answer = String::new();
    while !answer.ends_with("\n\n") && reader.read_line(&mut answer).unwrap() > 0 {}
    assert!(answer.contains("listen_port=4242\nfwmark=1\n"), "{answer}");
}
