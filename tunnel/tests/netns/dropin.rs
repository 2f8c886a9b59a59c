//! In the place of wireguard-go: in the background, under a supervisor, by wg-quick(8).

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use spanwire_testbed::Namespace;
use tempfile::TempDir;

use crate::world::{Engine, OURS, World, other, pipe, run, terminate, unique, wait_for};

/// A name, and the process behind it, which ends with this.
pub(crate) struct Named(pub(crate) String);

impl Named {
    pub(crate) fn new() -> Self {
        Self(unique())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        format!("/var/run/wireguard/{}.sock", self.0).into()
    }

    pub(crate) fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // A device ends when its socket is removed.
        let _ = fs::remove_file(self.socket());
    }
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

#[test]
fn it_goes_on_in_the_background_as_soon_as_it_can_be_configured() {
    let (namespace, name, other) = (Namespace::new(), Named::new(), Named::new());
    let start = |name: &Named| namespace.command(OURS).args(["--threads", "2", &name.0]);
    let mut first = start(&other).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    assert!(
        first.wait().unwrap().success() && other.answers(),
        "it is not ready"
    );
    // The output is read to its end: nothing of the process in the background holds it.
    let started = start(&name).output();
    assert!(started.status.success(), "{started:?}");
    assert!(name.answers(), "it is not ready");
    assert!(
        started.stdout.is_empty() && started.stderr.is_empty(),
        "{started:?}"
    );
    namespace.run(&format!("ip link set {} up", name.0));
    namespace.run(&format!("ip link del {}", name.0));
    wait_for("the process in the background to end", || !name.socket().exists());
}

/// Returns by what names the kernel knows the processes that were started with this word.
fn names_of_processes(word: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let with_word = processes.filter(|process| {
        let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        line.split('\0').any(|part| part == word)
    });
    with_word
        .filter_map(|process| fs::read_to_string(process.join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

#[test]
fn the_process_in_the_background_has_the_name_of_its_program() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let link = folder.path().join("wireguard-go");
    std::os::unix::fs::symlink(OURS, &link).unwrap();
    for (program, want) in [
        (OURS, "spanwire-tunnel"),
        (link.to_str().unwrap(), "wireguard-go"),
    ] {
        let name = Named::new();
        let started = namespace.command(program).arg(&name.0).output();
        assert!(started.status.success(), "{started:?}");
        assert_eq!(names_of_processes(&name.0), [want]);
    }
}

#[test]
fn what_hinders_it_is_said_before_it_goes_into_the_background() {
    let (namespace, name) = (Namespace::new(), Named::new());
    namespace.run(&format!("ip link add {} type veth peer name other", name.0));
    let started = namespace.command(OURS).arg(&name.0).output();
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(
        !started.status.success() && said.contains("is the name taken"),
        "{said}"
    );
    assert!(!name.socket().exists());
}

#[test]
fn it_stays_in_the_foreground_when_it_is_asked_to() {
    let namespace = Namespace::new();
    for (words, value) in [(&["-f"][..], "0"), (&["--foreground"], ""), (&[], "1")] {
        let name = Named::new();
        let mut child = namespace
            .command(OURS)
            .args(words)
            .arg(&name.0)
            .env("WG_PROCESS_FOREGROUND", value)
            .stderr(Stdio::null())
            .spawn();
        wait_for("the socket", || name.answers());
        assert!(is_running(&mut child), "{words:?}, {value}");
        assert!(terminate(&mut child, Signal::SIGTERM));
    }
}

#[test]
fn it_logs_as_much_as_it_is_told() {
    let namespace = Namespace::new();
    for (level, rust_log, info, warn) in [
        ("", "", true, true),
        ("verbose", "", true, true),
        ("debug", "", true, true),
        ("error", "", false, false),
        ("silent", "", false, false),
        ("verbose", "off", false, false),
        ("silent", "warn", false, true),
    ] {
        let name = Named::new();
        let mut command = namespace
            .command(OURS)
            .args(["-f", &name.0])
            .env("LOG_LEVEL", level);
        if !rust_log.is_empty() {
            command = command.env("RUST_LOG", rust_log);
        }
        let mut child = command.stderr(Stdio::piped()).spawn();
        wait_for("the socket", || name.answers());
        // A warning.
        let mut client = UnixStream::connect(name.socket()).unwrap();
        client.write_all(b"set=1\nfoo\n\n").unwrap();
        client.read_exact(&mut [0; 9]).unwrap();
        assert!(terminate(&mut child, Signal::SIGTERM));
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(
            (said.contains(" INFO "), said.contains(" WARN ")),
            (info, warn),
            "{level:?}, {rust_log:?}: {said}"
        );
    }
}

#[test]
fn a_supervisor_is_notified_when_the_sockets_answer() {
    let (namespace, name, folder) = (Namespace::new(), Named::new(), TempDir::new().unwrap());
    let control = folder.path().join("control");
    let serve = ["serve", "--control", control.to_str().unwrap()];
    for words in [&["-f", &name.0][..], &serve] {
        let path = folder.path().join("notify");
        let _ = fs::remove_file(&path);
        let supervisor = UnixDatagram::bind(&path).unwrap();
        supervisor
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut child = namespace
            .command(OURS)
            .args(words)
            .env("NOTIFY_SOCKET", &path)
            .stderr(Stdio::null())
            .spawn();
        let mut words = [0; 100];
        let length = supervisor.recv(&mut words).unwrap();
        let said = String::from_utf8_lossy(&words[..length]);
        assert_eq!(said, format!("READY=1\nMAINPID={}\n", child.id()));
        assert!(name.answers() || UnixStream::connect(&control).is_ok());
        assert!(terminate(&mut child, Signal::SIGTERM));
    }
}

#[test]
fn nobody_who_reads_its_log_ends_no_device() {
    let (namespace, name) = (Namespace::new(), Named::new());
    let mut child = namespace
        .command(OURS)
        .args(["-f", &name.0])
        .env("RUST_LOG", "trace")
        .stderr(Stdio::piped())
        .spawn();
    wait_for("the socket", || name.answers());
    drop(child.stderr.take());
    namespace.run(&format!("ip link set {} up", name.0));
    namespace.run(&format!("wg set {} fwmark 7", name.0));
    assert!(
        namespace
            .run(&format!("wg show {} fwmark", name.0))
            .contains("0x7")
    );
    assert!(is_running(&mut child));
    assert!(terminate(&mut child, Signal::SIGTERM));
}

#[test]
fn the_usual_limit_of_descriptors_does_for_many_devices_with_many_threads() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let path = folder.path().display();
    // As 1,024 with a dozen devices.
    let script = format!(
        "ulimit -Sn 100; exec {OURS} serve --control {path}/control --socket-dir {path} --threads 16"
    );
    let mut child = namespace
        .command("sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .spawn();
    let control = folder.path().join("control");
    wait_for("the control socket", || UnixStream::connect(&control).is_ok());
    let mut stream = UnixStream::connect(&control).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for number in 0..4 {
        writeln!(stream, "up many{number}").unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ok\n", "device {number}");
        namespace.run(&format!("ip link set many{number} up"));
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    assert!(
        descriptors > 200,
        "{descriptors}: the limit is not reached at all"
    );
    assert!(terminate(&mut child, Signal::SIGTERM));
}

/// A resolvconf(8) that writes down what it is given.
fn resolvconf(folder: &Path) {
    let path = folder.join("resolvconf");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{0}/dns\n[ \"$1\" = -d ] || cat >>{0}/dns\n",
        folder.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn wg_quick_sets_up_a_way_for_everything_and_takes_it_down() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    let (name, folder) = (Named::new(), TempDir::new().unwrap());
    let path = folder.path().display().to_string();
    resolvconf(folder.path());
    let [private, preshared] = [&["wg", "genkey"], &["wg", "genpsk"]].map(|words| run(words));
    let public = pipe(&["wg", "pubkey"], &private);
    let file = format!("{path}/{}.conf", name.0);
    let configuration = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51830\nAddress = 10.88.0.1/24, fd88::1/64\nDNS = 10.88.0.53\n\
         MTU = 1400\nPostUp = echo up >{path}/hook\nPreDown = echo down >{path}/hook\n\
         [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {}:51820\n",
        private.trim(),
        b.public,
        preshared.trim(),
        b.outer[0],
    );
    fs::write(&file, &configuration).unwrap();
    b.wg_with_stdin(
        &[
            "peer",
            public.trim(),
            "preshared-key",
            "/dev/stdin",
            "allowed-ips",
            "10.88.0.1/32,fd88::1/128",
        ],
        &preshared,
    );
    for net in ["10.88.0.0/24", "fd88::/64"] {
        b.run(&["ip", "route", "add", net, "dev", &b.device]);
    }
    // What this one has of the other's network goes by the other tunnel.
    a.run(&["ip", "link", "set", &a.device, "down"]);
    let quick = |verb: &str| {
        a.command(&["wg-quick", verb, &file])
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", OURS)
            .env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .run()
    };
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();

    quick("up");
    assert_eq!(read("hook"), "up\n");
    assert!(read("dns").contains("nameserver 10.88.0.53"), "{}", read("dns"));
    for to in b.inner {
        assert!(a.pings(to, 2), "{to} by the default route");
    }
    assert!(a.run(&["ip", "link", "show", &name.0]).contains("mtu 1400"));
    let stripped = quick("strip");
    assert!(
        !stripped.contains("Address") && stripped.contains(private.trim()),
        "{stripped}"
    );
    let before = a.run(&["wg", "show", &name.0, "latest-handshakes"]);
    let mark = a.run(&["wg", "show", &name.0, "fwmark"]);
    a.command(&["wg", "syncconf", &name.0, "/dev/stdin"])
        .input(stripped)
        .run();
    // The file says nothing of the mark that wg-quick has set, so it is gone, as with every WireGuard.
    a.run(&["wg", "set", &name.0, "fwmark", mark.trim()]);
    assert_eq!(
        a.run(&["wg", "show", &name.0, "latest-handshakes"]),
        before,
        "the session goes on"
    );
    a.run(&["wg", "set", &name.0, "listen-port", "51831"]);
    quick("save");
    assert!(fs::read_to_string(&file).unwrap().contains("ListenPort = 51831"));
    assert!(a.pings(b.inner[0], 2));

    quick("down");
    assert_eq!(read("hook"), "down\n");
    wait_for("the process to end", || !name.socket().exists());
    for family in ["-4", "-6"] {
        let rules = a.run(&["ip", family, "rule"]);
        assert!(!rules.contains("suppress_prefixlength"), "{rules}");
    }
    assert!(!a.run(&["ip", "-br", "link"]).contains(&name.0));
}

/// As a distribution's unit calls it: found in the search path.
#[test]
fn wg_quick_finds_it_by_its_name_and_syncconf_changes_peers_while_sessions_go_on() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    let (name, folder) = (Named::new(), TempDir::new().unwrap());
    let file = folder.path().join(format!("{}.conf", name.0));
    let private = run(&["wg", "genkey"]);
    let public = pipe(&["wg", "pubkey"], &private);
    let [gone, new] = [1, 2].map(|_| pipe(&["wg", "pubkey"], &run(&["wg", "genkey"])));
    let interface = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51830\n",
        private.trim()
    );
    let peer = |key: &str, rest: &str| format!("[Peer]\nPublicKey = {}\n{rest}\n", key.trim());
    let endpoint = format!("Endpoint = {}:51820", b.outer[0]);
    let of_b = peer(&b.public, &format!("AllowedIPs = {}/32\n{endpoint}", b.inner[0]));
    let address = "Address = 10.88.0.1/24\n";
    let configuration = format!(
        "{interface}{address}{of_b}{}",
        peer(&gone, "AllowedIPs = 10.9.0.0/24")
    );
    fs::write(&file, configuration).unwrap();
    b.wg(&["peer", public.trim(), "allowed-ips", "10.88.0.1/32"]);
    b.run(&["ip", "route", "add", "10.88.0.0/24", "dev", &b.device]);
    a.run(&["ip", "link", "set", &a.device, "down"]);
    let programs = Path::new(OURS).parent().unwrap().display();
    let quick = |verb: &str| {
        a.command(&["wg-quick", verb, file.to_str().unwrap()])
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", "spanwire-tunnel")
            .env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .run()
    };
    quick("up");
    assert_eq!(names_of_processes(&name.0), ["spanwire-tunnel"]);
    assert!(a.pings(b.inner[0], 2));
    let show = |what: &str| a.run(&["wg", "show", &name.0, what]);
    let handshakes = show("latest-handshakes");
    let session = handshakes
        .lines()
        .find(|line| line.starts_with(&b.public))
        .unwrap();
    let more = format!(
        "AllowedIPs = {}/32, 10.7.0.0/24\nPersistentKeepalive = 7\n{endpoint}",
        b.inner[0]
    );
    let changed = format!(
        "{interface}{}{}",
        peer(&b.public, &more),
        peer(&new, "AllowedIPs = 10.9.0.0/24")
    );
    let sync = ["wg", "syncconf", &name.0, "/dev/stdin"];
    a.command(&sync).input(changed).run();
    assert!(show("latest-handshakes").contains(session), "the session goes on");
    let allowed = show("allowed-ips");
    assert!(
        allowed.contains("10.7.0.0/24") && !allowed.contains(gone.trim()),
        "{allowed}"
    );
    assert!(
        allowed.contains(&format!("{}\t10.9.0.0/24", new.trim())),
        "{allowed}"
    );
    assert!(show("persistent-keepalive").contains(&format!("{}\t7", b.public)));
    assert!(a.pings(b.inner[0], 2));
    quick("down");
    wait_for("the process to end", || !name.socket().exists());
}
