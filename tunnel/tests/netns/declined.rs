//! Hand-overs that do not happen: the old process goes on, and the new one says why.

use std::{
    fs,
    io::{ErrorKind, IoSlice, Read, Write},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    handover::{handshake, has_link, joined, spawn},
    world::{Engine, OURS, World, terminate, wait_for},
};

#[test]
fn a_process_that_does_not_answer_as_it_should_gets_nothing() {
    let world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &world;
    let before = handshake(a);
    let ask = |line: &str| {
        let mut stream = UnixStream::connect(a.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        writeln!(stream, "{line}").unwrap();
        stream
    };
    let still_there = |after: &str| {
        assert!(b.pings(a.inner[0], 3) && a.pings(b.inner[1], 1), "{after}");
    };
    let mut whole = [0; 65536];

    let mut version = ask("hand-over=2");
    let mut words = String::new();
    version.read_to_string(&mut words).unwrap();
    assert_eq!(words, "error this process hands over by version 1 only\n");
    still_there("another version");

    drop(ask("hand-over=1"));
    still_there("no interest in the answer");

    let mut half = ask("hand-over=1");
    half.read_exact(&mut whole[..40]).unwrap();
    drop(half);
    still_there("a death half way");

    let mut wrong = ask("hand-over=1");
    assert!(wrong.read(&mut whole).unwrap() > 40);
    wrong.write_all(b"mine\n").unwrap();
    assert!(wait_for_end(&mut wrong), "nothing is given for a wrong word");
    still_there("a wrong answer");
    assert_eq!(handshake(a), before, "the session should be the old one");

    let mut silent = ask("hand-over=1");
    assert!(silent.read(&mut whole).unwrap() > 40);
    assert!(wait_for_end(&mut silent), "it waits for ever");
    // An answer that comes too late gives nothing back.
    let _ = silent.write_all(b"taken\n");
    still_there("silence");
}

#[test]
fn of_several_at_once_the_last_one_has_it() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    let mut all = vec![a.process.take().unwrap()];
    all.extend((0..3).map(|_| spawn(a, &["--take-over"])));
    wait_for("all but one to end", || {
        all.retain_mut(|process| match process.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "one ends badly");
                false
            }
            None => true,
        });
        all.len() == 1
    });
    a.process = all.pop();
    // Where one came within 20 ms of another, its handshake is not answered before it is repeated.
    wait_for("the last one's session", || a.reaches(b.inner[0]));
    assert!(b.pings(a.inner[0], 3) && a.socket().exists());
}

#[test]
fn one_that_waits_for_an_answer_can_be_stopped() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    let old = Pid::from_raw(a.process.as_ref().unwrap().id().try_into().unwrap());
    kill(old, Signal::SIGSTOP).unwrap();
    let mut taker = spawn(a, &["--take-over"]);
    // Until it has blocked the signal it would simply die.
    let status = format!("/proc/{}/status", taker.id());
    wait_for("the taker to start", || {
        let status = fs::read_to_string(&status).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap() & 1 << (Signal::SIGTERM as u8 - 1) != 0
    });
    terminate(&mut taker, Signal::SIGTERM);
    kill(old, Signal::SIGCONT).unwrap();
    assert!(b.pings(a.inner[0], 3));
}

#[test]
fn what_is_no_device_is_not_taken() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let a = &world.a;
    let folder = TempDir::new().unwrap();
    let listener = UnixListener::bind(folder.path().join("wg7.sock")).unwrap();
    let device = |configuration: &str| {
        let length = configuration.len();
        let text =
            format!("device=wg7\nuapi=0:0\ndescriptors=uapi,tun\nconfiguration={length}\n{configuration}");
        format!("hand-over=1\nlength={}\n{text}", text.len())
    };
    let answers = [
        ("hand-over=2\nlength=0\n".into(), "something else than version 1"),
        ("errno=-22\n\n".into(), "something else than version 1"),
        (
            "hand-over=1\nlength=0\n".into(),
            "something else than what was asked for",
        ),
        (device("listen_port=7\n"), "its interface is none"),
        (device("bogus=7\n"), "its configuration cannot be understood"),
    ];
    for (answer, words) in answers {
        let path = folder.path().display().to_string();
        let taker = a
            .command(&[OURS, "-f", "--take-over", "--socket-dir", &path, "wg7"])
            .stderr(Stdio::piped())
            .spawn();
        let (stream, _) = listener.accept().unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let descriptors = [null.as_raw_fd(); 2];
        let sent = if answer.contains("descriptors") { 2 } else { 0 };
        let rights = [ControlMessage::ScmRights(&descriptors[..sent])];
        let parts = [IoSlice::new(answer.as_bytes())];
        sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        let output = taker.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(words),
            "{answer}: {said}"
        );
        let mut rest = String::new();
        (&stream).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hand-over=1\n", "it says that it has taken it");
    }
}

#[test]
fn a_process_whose_connection_is_closed_without_a_word_asks_again() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let folder = TempDir::new().unwrap();
    let listener = UnixListener::bind(folder.path().join("wg7.sock")).unwrap();
    let path = folder.path().display().to_string();
    let taker = world
        .a
        .command(&[OURS, "-f", "--take-over", "--socket-dir", &path, "wg7"])
        .stderr(Stdio::piped())
        .spawn();
    drop(listener.accept().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"error it is the second time\n").unwrap();
    let output = taker.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("does not hand over: it is the second time"),
        "{said}"
    );
}

#[test]
fn a_device_in_another_network_namespace_is_not_taken() {
    let world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &world;
    let refused = b.try_run(&[OURS, "--take-over", &a.device]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && words.contains("in another network namespace"),
        "{words}"
    );
    assert!(a.pings(b.inner[0], 3) && has_link(a));
}

#[test]
fn another_implementation_is_left_alone_and_it_is_said_why() {
    let world = World::joined(Engine::WireguardGo, Engine::Ours, false);
    let World { a, b } = &world;
    let refused = a.try_run(&[OURS, "--take-over", &a.device]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && words.contains("the running process does not hand over"),
        "{words}"
    );
    assert!(a.pings(b.inner[0], 3));
}

/// Returns whether the other side closes the connection without a word.
fn wait_for_end(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    loop {
        let mut some = [0; 4096];
        match stream.read(&mut some) {
            Ok(0) => return !rest.ends_with(b"yours\n"),
            Ok(read) => rest.extend_from_slice(&some[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("cannot read on: {error}"),
        }
    }
}
