//! `spanwire-tunnel serve`: devices on demand.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spanwire_tunnel::serve::NOTICE;
use tempfile::TempDir;

use crate::world::{Engine, OURS, World, ends, terminate, wait_for};

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
        let process = spawn(&world, &folder, &[]);
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

    /// Another process takes over, and the one before ends well.
    fn upgrade(&mut self, options: &[&str]) {
        let next = spawn(&self.world, &self.folder, &[&["--take-over"], options].concat());
        let mut before = std::mem::replace(&mut self.process, next);
        assert!(ends(&mut before), "the old process ends badly");
    }

    /// Returns the answer to a `get`, and the interface's number, which an upgrade leaves alone.
    fn facts(&self, name: &str) -> Vec<String> {
        let mut uapi = UnixStream::connect(self.socket(name)).unwrap();
        uapi.write_all(b"get=1\n\n").unwrap();
        let lines = BufReader::new(uapi).lines().map(Result::unwrap);
        let mut facts: Vec<_> = lines.take_while(|line| line != "errno=0").collect();
        let link = self.world.a.run(&["ip", "-o", "link", "show", "dev", name]);
        facts.extend(link.split(':').next().map(str::to_owned));
        facts
    }

    /// What `alive` fails with; nothing where the process answers.
    fn silence(&self, patience: &str) -> Option<String> {
        let (control, sockets) = (self.control(), self.folder.path().join("wg"));
        let (control, sockets) = (control.display().to_string(), sockets.display().to_string());
        let asked = self.world.a.try_run(&[
            OURS,
            "alive",
            "--control",
            &control,
            "--socket-dir",
            &sockets,
            "--patience",
            patience,
        ]);
        (!asked.status.success()).then(|| String::from_utf8(asked.stderr).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    fn configure(&self, name: &str, port: u16) {
        let mut uapi = UnixStream::connect(self.socket(name)).unwrap();
        let (private, peer) = ("40".repeat(32), "02".repeat(32));
        write!(
            uapi,
            "set=1\nprivate_key={private}\nlisten_port={port}\npublic_key={peer}\nallowed_ip=10.8.0.0/16\n\n"
        )
        .unwrap();
        let answer = BufReader::new(uapi).lines().next().unwrap().unwrap();
        assert_eq!(answer, "errno=0");
        self.world.a.run(&["ip", "link", "set", name, "up"]);
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

fn spawn(world: &World, folder: &TempDir, options: &[&str]) -> Child {
    let control = folder.path().join("control/tunnel.sock");
    let sockets = folder.path().join("wg");
    let (control_text, sockets) = (control.display().to_string(), sockets.display().to_string());
    let words = [
        OURS,
        "serve",
        "--control",
        &control_text,
        "--socket-dir",
        &sockets,
    ];
    let command = world.a.command(&[&words, options].concat());
    let process = command.stderr(Stdio::null()).spawn();
    wait_for("the control socket", || UnixStream::connect(&control).is_ok());
    process
}

/// Sends a line and reads up to the closing `ok` or `error …`.
fn ask(stream: &mut UnixStream, line: &str) -> Vec<String> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
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
fn who_waits_for_the_end_hears_of_it_while_devices_go_on() {
    let mut server = Server::new();
    let await_end = |server: &Server| {
        let mut client = UnixStream::connect(server.control()).unwrap();
        client.write_all(b"await-end\n").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client
    };
    let heard = |client: &mut UnixStream| {
        let mut line = [0; 3];
        client.read_exact(&mut line).map(|()| line == *b"ok\n")
    };
    // Without a device there is nothing to wait for.
    let mut client = await_end(&server);
    server.ask("list");
    assert!(terminate(&mut server.process, Signal::SIGTERM));
    assert!(heard(&mut client).is_err());

    server.process = spawn(&server.world, &server.folder, &[]);
    server.ask("up swone");
    let (mut first, mut second) = (await_end(&server), await_end(&server));
    server.ask("list");
    let asked = Instant::now();
    server.signal(Signal::SIGTERM);
    assert!(heard(&mut first).unwrap() && heard(&mut second).unwrap());
    // Who comes later hears it at once.
    assert!(heard(&mut await_end(&server)).unwrap());
    assert_eq!(server.ask("list"), ["swone", "ok"]);
    assert!(server.has_link("swone"), "it goes on");
    assert!(ends(&mut server.process));
    let time = asked.elapsed();
    assert!(
        time >= NOTICE && time < NOTICE + Duration::from_secs(20),
        "{time:?}"
    );
    assert!(!server.has_link("swone"));

    // In that time another process can take over.
    server.process = spawn(&server.world, &server.folder, &[]);
    server.ask("up swone");
    let mut client = await_end(&server);
    server.ask("list");
    server.signal(Signal::SIGTERM);
    assert!(heard(&mut client).unwrap());
    server.upgrade(&[]);
    assert_eq!(server.ask("list"), ["swone", "ok"]);
}

#[test]
fn after_a_kill_the_next_one_starts_and_is_asked_again() {
    let mut server = Server::new();
    server.ask("up swone");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    server.process = spawn(&server.world, &server.folder, &[]);
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

#[test]
fn another_process_takes_over_all_devices_and_the_control_socket() {
    let mut server = Server::new();
    for (name, port) in [("swone", 7001), ("swtwo", 7002)] {
        assert_eq!(server.ask(&format!("up {name}")), ["ok"]);
        server.configure(name, port);
    }
    let facts = ["swone", "swtwo"].map(|name| server.facts(name));
    for _ in 0..2 {
        server.upgrade(&[]);
        assert_eq!(server.ask("list"), ["swone", "swtwo", "ok"]);
        assert_eq!(["swone", "swtwo"].map(|name| server.facts(name)), facts);
        let ports = server.world.a.run(&["ss", "-uln"]);
        assert!(ports.contains(":7001") && ports.contains(":7002"), "{ports}");
    }
    assert_eq!(server.ask("down swone"), ["ok"]);
    assert!(!server.has_link("swone") && !server.socket("swone").exists());
    assert!(terminate(&mut server.process, Signal::SIGTERM));
    assert!(!server.has_link("swtwo") && !server.socket("swtwo").exists() && !server.control().exists());
}

#[test]
fn a_taker_that_dies_half_way_leaves_every_device_running() {
    let server = Server::new();
    for name in ["swone", "swtwo"] {
        assert_eq!(server.ask(&format!("up {name}")), ["ok"]);
    }
    server.configure("swone", 7001);
    let facts = ["swone", "swtwo"].map(|name| server.facts(name));
    for (line, heard) in [
        ("hand-over 1", "hand-over=1\n"),
        ("hand-over 2", "error this process"),
    ] {
        let mut taker = UnixStream::connect(server.control()).unwrap();
        writeln!(taker, "{line}").unwrap();
        let mut answer = vec![0; heard.len()];
        taker.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), heard);
        drop(taker);
        assert_eq!(server.ask("list"), ["swone", "swtwo", "ok"]);
        assert_eq!(["swone", "swtwo"].map(|name| server.facts(name)), facts);
    }
}

#[test]
fn one_device_of_several_is_not_handed_over_alone() {
    let server = Server::new();
    server.ask("up swone");
    let folder = server.folder.path().join("wg").display().to_string();
    let refused = server
        .world
        .a
        .try_run(&[OURS, "--take-over", "--socket-dir", &folder, "swone"]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && words.contains("take over by their control socket"),
        "{words}"
    );
    assert_eq!(server.ask("list"), ["swone", "ok"]);
    assert!(server.socket("swone").exists());
}

#[test]
fn down_removes_an_interface_that_is_kept_and_nothing_else_does() {
    let mut server = Server::new();
    server.ask("up swone");
    server.ask("up swtwo");
    server.upgrade(&["--keep"]);
    assert_eq!(server.ask("down swone"), ["ok"]);
    assert!(!server.has_link("swone"));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        terminate(&mut server.process, signal);
        assert!(server.has_link("swtwo"), "{signal} removes it");
        server.process = spawn(&server.world, &server.folder, &["--keep", "--take-over"]);
        assert_eq!(server.ask("list"), ["ok"]);
        assert_eq!(server.ask("up swtwo"), ["ok"]);
    }
    terminate(&mut server.process, Signal::SIGTERM);
    server.process = spawn(&server.world, &server.folder, &[]);
    let foreign = &server.world.a;
    foreign.run(&["ip", "tuntap", "add", "dev", "swthree", "mode", "tun"]);
    for (name, stays) in [("swtwo", false), ("swthree", true), ("lo", true)] {
        assert_eq!(server.ask(&format!("down {name}")), ["ok"]);
        assert_eq!(server.has_link(name), stays, "{name}");
    }
}

#[test]
fn a_process_that_answers_lives_and_one_that_was_stopped_does_not() {
    let mut server = Server::new();
    assert_eq!(server.silence("8"), None, "without a device");
    for name in ["swone", "swtwo"] {
        server.ask(&format!("up {name}"));
    }
    server.configure("swone", 7001);
    let facts = server.facts("swone");
    assert_eq!(server.silence("8"), None);
    assert_eq!(server.facts("swone"), facts, "a question changes nothing");

    server.signal(Signal::SIGSTOP);
    let said = server.silence("1").unwrap();
    assert!(said.contains("tunnel.sock in time"), "{said}");
    server.signal(Signal::SIGCONT);
    assert_eq!(server.silence("8"), None, "it goes on");

    // In the middle of a hand-over nothing is answered; who asks then hears the process that goes on.
    let mut taker = UnixStream::connect(server.control()).unwrap();
    writeln!(taker, "hand-over 1").unwrap();
    assert!(taker.read(&mut [0]).unwrap() > 0);
    let said = server.silence("1").unwrap();
    assert!(said.contains("tunnel.sock"), "{said}");
    assert_eq!(
        server.silence("60"),
        None,
        "it waits for the taker in vain, and goes on"
    );
    server.upgrade(&[]);
    assert_eq!(server.silence("8"), None);

    server.ask("down swone");
    server.ask("down swtwo");
    assert!(terminate(&mut server.process, Signal::SIGTERM));
    assert!(server.silence("1").unwrap().contains("no answer at"));
}

#[test]
fn at_the_limit_of_descriptors_it_waits_and_does_not_spin() {
    let server = Server::new();
    let control = server.folder.path().join("limited.sock");
    let script = format!(
        "ulimit -n 12 && exec {OURS} serve --control {}",
        control.display()
    );
    let mut process = server
        .world
        .a
        .command(&["sh", "-ec", &script])
        .stderr(Stdio::null())
        .spawn();
    wait_for("the control socket", || UnixStream::connect(&control).is_ok());
    let mut clients: Vec<_> = (0..12).map(|_| UnixStream::connect(&control).unwrap()).collect();
    thread::sleep(Duration::from_millis(500));
    let before = processor_time(&process);
    thread::sleep(Duration::from_secs(2));
    let spent = processor_time(&process) - before;
    assert!(spent < 15, "{spent} hundredths of a second in two");
    // Who has to wait is served when others go.
    let mut last = clients.pop().unwrap();
    drop(clients);
    assert_eq!(ask(&mut last, "list"), ["ok"]);
    assert!(terminate(&mut process, Signal::SIGTERM));
}

/// What a process has used, in hundredths of a second.
fn processor_time(process: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn one_that_is_to_end_with_its_parent_does_also_when_that_is_killed() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let folder = TempDir::new().unwrap();
    let (control, sockets) = (folder.path().join("control.sock"), folder.path().join("wg"));
    let (at, of) = (control.display(), sockets.display());
    let script = format!("{OURS} serve --control {at} --socket-dir {of} --end-with $$ & wait");
    let command = world.a.command(&["sh", "-c", &script]);
    let mut parent = command.stderr(Stdio::null()).spawn();
    wait_for("the control socket", || UnixStream::connect(&control).is_ok());
    assert_eq!(
        ask(&mut UnixStream::connect(&control).unwrap(), "up swone"),
        ["ok"]
    );
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for("the device to go with the parent", || {
        let shown = world.a.try_run(&["ip", "link", "show", "dev", "swone"]);
        !shown.status.success() && !sockets.join("swone.sock").exists()
    });

    let other = world
        .a
        .try_run(&[OURS, "serve", "--control", "/nowhere/x", "--end-with", "1"]);
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(
        !other.status.success() && said.contains("--end-with names the process 1"),
        "{said}"
    );
}
