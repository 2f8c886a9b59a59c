//! A port on 127.0.0.1 that leads to the lab's API server, for the user's own kubectl.

use std::{
    fs, io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::{
    cgroup,
    command::Cmd,
    layout::{API_PORT, Layout},
    pki,
    store::{Record, Store},
};

/// Starts the forwarding process of a lab and writes the kubeconfig that uses it; the port.
pub(crate) fn start(store: &Store, record: &Record, layout: &Layout, program: &Path) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let port = listener.local_addr()?.port();
    let target = SocketAddr::new(layout.control_plane().addresses[0], API_PORT);
    let namespace = format!("/run/netns/{}", store.namespace(&layout.control_plane().name));
    let mut moves = String::new();
    for group in record.cgroups.iter().map(|folder| folder.join("forward")) {
        cgroup::create(&group)?;
        moves += &format!("echo $$ >'{}/cgroup.procs'\n", group.display());
    }
    // The socket is handed down as standard input, so that the port is taken from the beginning.
    let script = format!(
        "{moves}exec setsid '{}' forward {namespace} {target}",
        program.display()
    );
    let log = fs::File::create(store.path("forward.log"))?;
    Cmd::of(["sh", "-e", "-c", &script])
        .into_command()?
        .current_dir("/")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start the forwarding process")?;
    pki::kubeconfig(
        store,
        "kubeconfig/user",
        "admin",
        &format!("https://127.0.0.1:{port}"),
    )?;
    Ok(port)
}

/// Serves a listening socket for ever: every connection continues in the network namespace.
pub fn serve(listener: &TcpListener, namespace: &Path, target: SocketAddr) -> Result<()> {
    for incoming in listener.incoming() {
        let (near, namespace) = (incoming?, namespace.to_owned());
        // The namespace is a thread's own, so every connection is made by a thread that ends with it.
        thread::spawn(move || {
            if let Err(error) = connect(&namespace, target).and_then(|far| join(&near, &far)) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn connect(namespace: &Path, target: SocketAddr) -> Result<TcpStream> {
    // Opened again each time: after a reboot the node has another one under the same name.
    let namespace =
        fs::File::open(namespace).with_context(|| format!("no namespace {}", namespace.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
    TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))
}

fn join(near: &TcpStream, far: &TcpStream) -> Result<()> {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        // A connection that breaks is a connection that ends.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(near, far));
        copy(far, near);
    });
    Ok(())
}
