//! What another process has opened for the device, and names that it does not choose itself, as wireguard-go has it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Stdio},
};

use nix::sys::signal::Signal;
use spanwire_testbed::{Command, Namespace};
use tempfile::TempDir;

use crate::{
    dropin::Named,
    world::{OURS, terminate, unique, wait_for},
};

/// Makes an interface, and a socket for `wg` in a folder, and leaves them to a program as wireguard-go takes them.
const PARENT: &str = r#"
import fcntl, os, socket, struct, sys
name, folder, program = sys.argv[1:4]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1001))
uapi = socket.socket(socket.AF_UNIX)
uapi.bind("%s/%s.sock" % (folder, name))
uapi.listen(5)
for number in tun, uapi.fileno():
    os.set_inheritable(number, True)
own = dict(os.environ, WG_TUN_FD=str(tun), WG_UAPI_FD=str(uapi.fileno()))
os.execve(program, sys.argv[3:], own)
"#;

/// Starts it; returns the process unless it goes on in the background.
fn start(command: Command, foreground: bool) -> Option<Child> {
    let command = command.stderr(Stdio::null());
    if foreground {
        return Some(command.spawn());
    }
    let started = command.output();
    assert!(started.status.success(), "{started:?}");
    None
}

#[test]
fn it_goes_on_with_an_interface_and_a_socket_that_were_opened_for_it() {
    let namespace = Namespace::new();
    fs::create_dir_all("/var/run/wireguard").unwrap();
    // /var/run is /run. The name of the interface counts, not the one that is asked for.
    for (folder, foreground, asked) in [
        ("/var/run/wireguard", true, None),
        ("/var/run/wireguard", false, None),
        ("/run/wireguard", true, Some("other")),
        ("/run/wireguard", false, Some("wg%d")),
    ] {
        let name = Named::new();
        let mut words = vec!["-c", PARENT, &name.0, folder, OURS];
        words.extend(foreground.then_some("-f"));
        words.push(asked.unwrap_or(&name.0));
        let child = start(namespace.command("python3").args(&words), foreground);
        let show = || namespace.command("wg").args(["show", &name.0]).succeeds();
        wait_for("the device", || name.answers() && show());
        let link = namespace.run(&format!("ip link show {}", name.0));
        assert!(link.contains("mtu 1420"), "{link}");
        namespace.run(&format!(
            "wg set {0} listen-port 51820\nip link set {0} up",
            name.0
        ));
        wait_for("the port to open", || namespace.run("ss -uln").contains(":51820"));
        if let Some(mut child) = child {
            assert!(terminate(&mut child, Signal::SIGTERM));
            assert!(!name.socket().exists());
        } else {
            fs::remove_file(name.socket()).unwrap();
        }
        wait_for("the interface to be removed", || {
            !namespace.run("ip -br link").contains(&name.0)
        });
    }
}

/// A namesake is where it was.
#[test]
fn an_interface_that_was_opened_and_moved_to_another_namespace_gets_its_mtu_there() {
    let (namespace, inside, name) = (Namespace::new(), Namespace::new(), Named::new());
    fs::create_dir_all("/var/run/wireguard").unwrap();
    let moving = r#"
os.system("ip link set %s netns %s" % (name, os.environ["INTO"]))
os.system("ip link add %s mtu 1300 type veth peer name namesake" % name)
uapi = socket."#;
    let parent = PARENT.replace("\nuapi = socket.", moving);
    let command = namespace
        .command("python3")
        .args(["-c", &parent, &name.0, "/var/run/wireguard", OURS, "-f", &name.0])
        .env("INTO", inside.pid().to_string());
    let mut child = start(command, true).unwrap();
    let show = || namespace.command("wg").args(["show", &name.0]).succeeds();
    wait_for("the device", || name.answers() && show());
    let mtu = |namespace: &Namespace| namespace.run(&format!("ip link show {}", name.0));
    assert!(mtu(&inside).contains("mtu 1420"), "{}", mtu(&inside));
    assert!(mtu(&namespace).contains("mtu 1300"), "{}", mtu(&namespace));
    namespace.run(&format!("wg set {} listen-port 51820", name.0));
    let listens = || namespace.run("ss -uln").contains(":51820");
    namespace.run(&format!("ip link set {} up", name.0));
    assert!(!listens());
    inside.run(&format!("ip link set {} up", name.0));
    wait_for("the port to open", listens);
    assert!(terminate(&mut child, Signal::SIGTERM));
}

#[test]
fn a_socket_of_another_place_is_refused() {
    let (namespace, name, folder) = (Namespace::new(), unique(), TempDir::new().unwrap());
    let elsewhere = folder.path().to_str().unwrap();
    // There may be another socket in the right place.
    for place in [None, Some(TempDir::new().unwrap())] {
        let here = place
            .as_ref()
            .map_or(Path::new("/var/run/wireguard"), TempDir::path);
        let _other = place
            .as_ref()
            .map(|_| UnixListener::bind(here.join(format!("{name}.sock"))));
        let _ = fs::remove_file(folder.path().join(format!("{name}.sock")));
        let words = ["-f", "--socket-dir", here.to_str().unwrap(), &name];
        let started = namespace
            .command("python3")
            .args(["-c", PARENT, &name, elsewhere, OURS])
            .args(words)
            .output();
        assert!(!started.status.success());
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(said.contains("cannot listen on"), "{said}");
    }
}

#[test]
fn a_number_that_is_no_descriptor_is_refused() {
    let (namespace, name) = (Namespace::new(), Named::new());
    for (variable, value) in [("WG_TUN_FD", "77"), ("WG_TUN_FD", "x"), ("WG_UAPI_FD", "1")] {
        let started = namespace
            .command(OURS)
            .args(["-f", &name.0])
            .env(variable, value)
            .output();
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(!started.status.success() && said.contains(variable), "{said}");
    }
}

#[test]
fn the_kernel_chooses_the_number_where_the_name_leaves_it_open() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let path = folder.path().to_str().unwrap();
    namespace.run("ip link add wg1 type veth peer name other");
    let mut children = Vec::new();
    for (number, foreground) in [(0, true), (2, false), (3, true)] {
        let mut words = vec!["--threads", "2", "--socket-dir", path, "wg%d"];
        words.extend(foreground.then_some("-f"));
        children.extend(start(namespace.command(OURS).args(&words), foreground));
        let socket = folder.path().join(format!("wg{number}.sock"));
        wait_for("the device", || UnixStream::connect(&socket).is_ok());
        let link = namespace.run(&format!("ip link show wg{number}"));
        assert!(link.contains("mtu 1420"), "{link}");
    }
    for mut child in children {
        assert!(terminate(&mut child, Signal::SIGTERM));
    }
    fs::remove_file(folder.path().join("wg2.sock")).unwrap();
    wait_for("the device in the background to end", || {
        !namespace.run("ip -br link").contains("wg2")
    });
}

/// Of those several are made, each known by the name it was asked for as.
#[test]
fn the_control_socket_takes_no_name_that_is_left_open() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let path = folder.path().to_str().unwrap();
    let control = folder.path().join("control");
    let mut child = namespace
        .command(OURS)
        .args(["serve", "--socket-dir", path, "--control"])
        .arg(&control)
        .stderr(Stdio::null())
        .spawn();
    wait_for("the control socket", || UnixStream::connect(&control).is_ok());
    let mut stream = UnixStream::connect(&control).unwrap();
    stream.write_all(b"up wg%d\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("error no interface can be called"), "{answer}");
    assert!(terminate(&mut child, Signal::SIGTERM));
}
