//! The userspace WireGuard of the tests: spanwire-tunnel, or wireguard-go behind a stand-in for the tunnel's control
//! socket. The stand-in knows `up` and `down` only.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spanwire_host::LinkName;
use spanwire_testbed::{Command, chart, wait_until};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixListener,
};

/// What serves the control socket; ended by [`Self::stop`], or at the latest when dropped.
pub(crate) struct Control {
    children: Arc<Mutex<Vec<Child>>>,
}

/// The WireGuard under test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tested {
    Kernel,
    WireguardGo,
    Tunnel,
}

pub(crate) fn tested() -> Tested {
    match std::env::var("SPANWIRE_TEST_BACKEND").as_deref() {
        Err(_) | Ok("wireguard-go") => Tested::WireguardGo,
        Ok("tunnel") => Tested::Tunnel,
        Ok("kernel") => Tested::Kernel,
        Ok(other) => panic!("SPANWIRE_TEST_BACKEND is {other:?}, not wireguard-go, tunnel or kernel"),
    }
}

/// The folder of the devices' sockets: the only one in which `wg` looks.
pub(crate) const SOCKETS: &str = "/var/run/wireguard";

/// Serves the control socket for the device of that name, unless the kernel's WireGuard is under test.
pub(crate) fn serve(folder: &Path, name: &LinkName) -> Option<Control> {
    let path = &folder.join("control.sock");
    let children = Arc::new(Mutex::new(Vec::new()));
    match tested() {
        Tested::Kernel => return None,
        Tested::Tunnel => {
            let binary = std::env::var("SPANWIRE_TUNNEL").expect("SPANWIRE_TUNNEL names the binary");
            let child = Command::new("setpriv")
                .args(chart::capabilities("tunnel"))
                .args([binary.as_str(), "serve", "--control"])
                .arg(path)
                .spawn();
            children.lock().unwrap().push(child);
            wait_until("the tunnel's control socket", Duration::from_secs(10), || {
                std::os::unix::net::UnixStream::connect(path).is_ok()
            });
        }
        Tested::WireguardGo => {
            let listener = UnixListener::bind(path).unwrap();
            tokio::spawn(stand_in(listener, name.clone(), Arc::clone(&children)));
        }
    }
    Some(Control { children })
}

async fn stand_in(listener: UnixListener, name: LinkName, children: Arc<Mutex<Vec<Child>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let answer = match line.trim_end().split_once(' ') {
            Some(("up", wanted)) if wanted == name.as_str() => {
                let child = Command::new("wireguard-go")
                    .args(["-f", wanted])
                    .env("LOG_LEVEL", "silent")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                children.lock().unwrap().push(child);
                format!("ok {wanted}\n")
            }
            Some(("down", wanted)) if wanted == name.as_str() => {
                stop(&children);
                "ok\n".to_owned()
            }
            _ => "error what?\n".to_owned(),
        };
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    }
}

impl Control {
    /// Has the processes that carry the device hang: none of their threads runs when this returns.
    pub(crate) fn hang(&self) {
        for child in self.children.lock().unwrap().iter() {
            kill(pid(child), Signal::SIGSTOP).unwrap();
            wait_until("the stop of every thread", Duration::from_secs(10), || {
                has_stopped(child)
            });
        }
    }

    /// Has those that hang go on.
    pub(crate) fn go_on(&self) {
        for child in self.children.lock().unwrap().iter() {
            kill(pid(child), Signal::SIGCONT).unwrap();
        }
    }

    /// Kills the processes that carry the device, as a crash would.
    pub(crate) fn stop(&self) {
        stop(&self.children);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        stop(&self.children);
    }
}

fn stop(children: &Mutex<Vec<Child>>) {
    for mut child in children.lock().unwrap().drain(..) {
        // SIGTERM lets it remove its socket.
        kill(pid(&child), Signal::SIGTERM).unwrap();
        // One that hangs, of a test that has failed meanwhile, takes no signal but this and SIGKILL.
        kill(pid(&child), Signal::SIGCONT).unwrap();
        child.wait().unwrap();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Returns whether every thread of a process is stopped: a signal is delivered to one of them, and another may still answer
/// meanwhile (signal(7), proc(5)).
fn has_stopped(child: &Child) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat"));
        // The state follows the name, which stands in parentheses.
        stat.is_ok_and(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.starts_with(" T"))
        })
    })
}
