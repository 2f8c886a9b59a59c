//! `status --watch`, on a terminal and elsewhere.

use std::{
    fs::File,
    io::Read,
    process::Child,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spanwire_testbed::{Command, wait_until};

use crate::{
    kubelet::{Agents, Other},
    map::SOON,
    publish,
    server::Server,
};

/// What comes from a program, read as it comes.
struct Heard {
    text: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Heard {
    fn from(mut source: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reading = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal that its last program has closed is an error.
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { text, reading }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn whole(self) -> String {
        self.reading.join().unwrap();
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

fn watching(server: &Server, words: &[&str]) -> Command {
    Command::new(env!("CARGO_BIN_EXE_kubectl-spanwire"))
        .arg("--kubeconfig")
        .arg(&server.kubeconfig)
        .args(["status", "--watch"])
        .args(words)
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
}

fn signalled(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_as_it_was_when_the_watch_ends_and_a_pipe_gets_one_block_after_another() {
    let server = Server::start().await;
    publish(&server).await;
    let (agents, _kubelet) = Agents::start(&server, &["a1", "b1"]).await;
    agents.say("a1", &[Other::well("b", &["b1"])]);
    agents.say("b1", &[Other::well("a", &["a1"])]);

    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let size = Winsize {
            ws_row: 24,
            ws_col: 60,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(&size, None).unwrap();
        let read = Heard::from(File::from(terminal.master));
        let mut child = watching(&server, &[]).stdout(terminal.slave).spawn();
        wait_until("the second look", SOON, || {
            read.so_far().matches("LOCATION").count() >= 2
        });
        signalled(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        let said = read.whole();
        assert!(said.starts_with("\x1b[?1049h\x1b[?25l"), "{said:?}");
        assert!(said.ends_with("\x1b[?25h\x1b[?1049l"), "{said:?}");
        let screens: Vec<&str> = said.split("\x1b[H").skip(1).collect();
        for screen in screens {
            let lines: Vec<&str> = screen.lines().collect();
            assert!(lines.len() <= 24, "{screen:?}");
            let shown = |line: &&str| line.split("\x1b[K").next().unwrap().chars().count();
            assert!(lines.iter().map(shown).all(|columns| columns <= 60), "{screen:?}");
        }
        assert!(
            said.contains('…'),
            "a line is longer than the terminal is wide: {said:?}"
        );
    }

    for words in [&[][..], &["-o", "wide"]] {
        let mut child = watching(&server, words)
            .stdout(std::process::Stdio::piped())
            .spawn();
        let read = Heard::from(child.stdout.take().unwrap());
        wait_until("the second block", SOON, || {
            read.so_far().matches("LOCATION").count() >= 2
        });
        signalled(&child, Signal::SIGINT);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let said = read.whole();
        assert!(!said.contains('\x1b'), "{said:?}");
        assert!(said.contains("\n\nLOCATION"), "{said}");
        assert!(said.contains("FAILOVERS\n"), "nothing is cut: {said}");
    }
}
