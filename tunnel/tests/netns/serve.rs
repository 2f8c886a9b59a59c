//! `spanwire-tunnel serve`: devices on demand.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::world::{Engine, OURS, World, terminate, wait_for};

/// A serving process in the first namespace of a world; the sockets for `wg` are in a folder of its own.
struct Server {
    world: World,
    folder: TempDir,
    process: Child,
}

impl Server {
    fn new() -> Self {
        let world = World::new(Engine::Ours, Engine::Ours);
        let folder = TempDir::new().unwrap();
        let process = spawn(&world, &folder);
        Self {
            world,
            folder,
            process,
        }
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control/tunnel.sock")
    }

    fn ask(&self, line: &str) -> Vec<String> {
        ask(&mut UnixStream::connect(self.control()).unwrap(), line)
    }

    fn has_link(&self, name: &str) -> bool {
        self.world
            .a
            .try_run(&["ip", "link", "show", "dev", name])
            .status
            .success()
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("wg/{name}.sock"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(world: &World, folder: &TempDir) -> Child {
    let control = folder.path().join("control/tunnel.sock");
    let sockets = folder.path().join("wg");
    let (control_text, sockets) = (control.display().to_string(), sockets.display().to_string());
    let mut command = world.a.command(&[
        OURS,
        "serve",
        "--control",
        &control_text,
        "--socket-dir",
        &sockets,
    ]);
    let process = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for("the control socket", || UnixStream::connect(&control).is_ok());
    process
}

/// Sends a line and reads up to the closing `ok` or `error …`.
fn ask(stream: &mut UnixStream, line: &str) -> Vec<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = Vec::new();
    for line in BufReader::new(stream).lines().map(Result::unwrap) {
        answer.push(line);
        if answer
            .last()
            .is_some_and(|line| line == "ok" || line.starts_with("error "))
        {
            return answer;
        }
    }
    panic!("hung up after {answer:?}");
}

#[test]
fn devices_come_and_go_as_they_are_asked_for() {
    let server = Server::new();
    assert_eq!(server.ask("list"), ["ok"]);
    assert_eq!(server.ask("up swone"), ["ok"]);
    assert_eq!(server.ask("up swtwo"), ["ok"]);
    assert_eq!(server.ask("up swone"), ["ok"], "asking twice is no error");
    assert_eq!(server.ask("list"), ["swone", "swtwo", "ok"]);
    for name in ["swone", "swtwo"] {
        assert!(server.has_link(name));
        let mut uapi = UnixStream::connect(server.socket(name)).unwrap();
        uapi.write_all(b"get=1\n\n").unwrap();
        assert_eq!(BufReader::new(uapi).lines().next().unwrap().unwrap(), "errno=0");
    }
    assert_eq!(server.ask("down swone"), ["ok"]);
    assert!(!server.has_link("swone") && !server.socket("swone").exists());
    assert_eq!(server.ask("down swone"), ["ok"]);
    assert_eq!(server.ask("list"), ["swtwo", "ok"]);
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let server = Server::new();
    for (line, want) in [
        ("up lo", "error cannot make the interface lo"),
        ("up a/b", "error no interface can be called"),
        ("up ", "error no interface can be called"),
        ("frobnicate", "error the commands are"),
        ("list all", "error the commands are"),
        ("", "error the commands are"),
    ] {
        let answer = server.ask(line);
        assert!(
            answer.len() == 1 && answer[0].starts_with(want),
            "{line:?}: {answer:?}"
        );
    }
    assert_eq!(server.ask("list"), ["ok"]);
}

#[test]
fn one_connection_serves_many_commands_and_its_end_ends_no_device() {
    let server = Server::new();
    let mut stream = UnixStream::connect(server.control()).unwrap();
    assert_eq!(ask(&mut stream, "up swone"), ["ok"]);
    assert_eq!(ask(&mut stream, "list"), ["swone", "ok"]);
    drop(stream);
    assert_eq!(server.ask("list"), ["swone", "ok"]);
    assert!(server.has_link("swone"));
}

#[test]
fn a_device_that_others_removed_is_forgotten_and_can_be_made_again() {
    let server = Server::new();
    server.ask("up swone");
    server.world.a.run(&["ip", "link", "del", "swone"]);
    wait_for("the device to be forgotten", || server.ask("list") == ["ok"]);
    assert_eq!(server.ask("up swone"), ["ok"]);
    assert!(server.has_link("swone"));
}

#[test]
fn sigterm_removes_everything() {
    let mut server = Server::new();
    server.ask("up swone");
    assert!(terminate(&mut server.process, Signal::SIGTERM));
    assert!(!server.has_link("swone") && !server.socket("swone").exists() && !server.control().exists());
}

#[test]
fn after_a_kill_the_next_one_starts_and_is_asked_again() {
    let mut server = Server::new();
    server.ask("up swone");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    server.process = spawn(&server.world, &server.folder);
    assert_eq!(server.ask("list"), ["ok"]);
    assert_eq!(server.ask("up swone"), ["ok"]);
}

#[test]
fn the_control_socket_is_for_root_alone() {
    let server = Server::new();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(server.control()), 0o600);
    assert_eq!(mode(server.control().parent().unwrap().into()), 0o700);
}
