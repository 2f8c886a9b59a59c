//! Questions by TCP and UDP between all hosts and all pods, in each family: asked of servers on wildcard sockets, as programs of
//! users are, at their own addresses and through services, and of servers that are bound to an address; from sockets that
//! are bound, and from such as leave their address to the kernel.

mod expected;
mod services;

use std::{
    io::{Read, Write},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Socket, Type};

use expected::{Question, is_expected};

use crate::{
    expect::SOON,
    lab::Lab,
    layout::NodeLayout,
    machine::{Background, Machine},
    wait::wait_until,
};

/// The port on which all of them answer: one that every profile of a host leaves open.
const PORT: u16 = 31_999;
/// The one on which those answer that are bound to their address.
const BOUND_PORT: u16 = 31_998;
/// How often each is asked by UDP: where some answers get lost, one question would often miss it.
const QUESTIONS: usize = 4;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
const WORD: &[u8] = b"spanwire";
/// How many questions one asks at the same time. All of them together, from everyone, are twenty thousand packets in one moment: on a machine
/// of two processors that runs other tests, too, those would wait for each other for longer than [`PATIENCE`].
const AT_ONCE: usize = 16;
/// Bytes that may wait for a server: hundreds ask it in the same moment, and what Linux has by itself is room for two hundred.
const BUFFER: usize = 4 << 20;

/// Answers at these addresses and ports, TCP and UDP, for ever; an unspecified address stands for all of its family.
pub fn serve(addresses: &[SocketAddr]) -> Result<()> {
    let mut sockets = Vec::new();
    for address in addresses {
        let bound = |kind: Type| listening(*address, kind).with_context(|| format!("{address}"));
        sockets.push((bound(Type::STREAM)?.into(), bound(Type::DGRAM)?.into()));
    }
    thread::scope(|scope| {
        for (tcp, udp) in &sockets {
            scope.spawn(|| by_connection(tcp));
            scope.spawn(|| by_datagram(udp));
        }
    });
    Ok(())
}

fn listening(address: SocketAddr, kind: Type) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // The other family has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(kind == Type::STREAM)?;
    if kind == Type::DGRAM {
        // Who is not root gets as much as the machine gives to all.
        if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
            socket.set_recv_buffer_size(BUFFER)?;
        }
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(128)?;
    }
    Ok(socket)
}

fn by_connection(tcp: &TcpListener) {
    for mut connection in tcp.incoming().flatten() {
        // Who hangs up early gets no answer.
        let _ = connection.write_all(WORD);
    }
}

fn by_datagram(udp: &UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        if let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // What cannot be sent is lost, as the one who asks will see.
            let _ = udp.send_to(&buffer[..length], from);
        }
    }
}

/// Asks at each address and port by TCP and by UDP, from sockets that leave their address to the kernel and from such as are bound
/// to that one of `from` which has the family, [`AT_ONCE`] at a time; returns what got no answer, a line each: address and port, protocol and why.
pub fn ask(from: &[IpAddr], addresses: &[SocketAddr]) -> Vec<String> {
    let sources = |to: SocketAddr| {
        let bound = from.iter().filter(move |from| from.is_ipv4() == to.is_ipv4());
        bound.copied().map(Some).chain([None])
    };
    let questions = addresses
        .iter()
        .flat_map(|&to| sources(to).map(move |from| (from, to)));
    let questions = Mutex::new(questions);
    let next = || questions.lock().expect("no panic in an iterator").next();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| iter::from_fn(next).flat_map(unanswered).collect::<Vec<_>>()))
            .collect();
        let silent = asking
            .into_iter()
            .map(|one| one.join().expect("no panic in a question"));
        silent.flatten().collect()
    })
}

/// Asks by TCP and by UDP; returns a line for each of them that got no answer.
fn unanswered((from, to): (Option<IpAddr>, SocketAddr)) -> impl Iterator<Item = String> {
    let says = |protocol: &str, why: &anyhow::Error| {
        let bound = from.map(|from| format!(" from {from}")).unwrap_or_default();
        format!("{to} {protocol}{bound} {why:#}")
    };
    let tcp = by_tcp(from, to).err().map(|why| says("tcp", &why));
    let udp = by_udp(from, to).err().map(|why| says("udp", &why));
    [tcp, udp].into_iter().flatten()
}

/// Returns a socket for a question; `from` is the address that it is bound to.
fn asking(from: Option<IpAddr>, to: SocketAddr, kind: Type) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn by_tcp(from: Option<IpAddr>, to: SocketAddr) -> Result<()> {
    let socket = asking(from, to, Type::STREAM)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut said = Vec::new();
    TcpStream::from(socket).read_to_end(&mut said)?;
    ensure!(said == WORD, "says something else");
    Ok(())
}

/// Each question comes from a port of its own, so that connection tracking knows none of them.
fn by_udp(from: Option<IpAddr>, to: SocketAddr) -> Result<()> {
    let asked = |_| -> Result<()> {
        let socket = asking(from, to, Type::DGRAM)?;
        // Connected: an answer from another address is none, as for any resolver.
        socket.connect(&to.into())?;
        let socket = UdpSocket::from(socket);
        socket.send(WORD)?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        ensure!(&buffer[..length] == WORD, "says something else");
        Ok(())
    };
    let lost: Vec<_> = (0..QUESTIONS).map(asked).filter_map(Result::err).collect();
    match lost.first() {
        Some(why) => anyhow::bail!("{} of {QUESTIONS} lost: {why:#}", lost.len()),
        None => Ok(()),
    }
}

/// Somewhere to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    /// What it is called.
    name: String,
    at: SocketAddr,
    /// The server there is bound to its address.
    is_bound: bool,
    /// The node, where it is that node's host that answers, and no other node translates the address.
    own_host: Option<String>,
    /// It is an address of a service, which the asking node translates.
    is_service: bool,
    /// The node and its location, where it is the address of a pod.
    pod_on: Option<[String; 2]>,
}

/// Where one asks from.
#[derive(Debug)]
struct Asker<'a> {
    name: String,
    machine: Machine<'a>,
    node: &'a NodeLayout,
    /// Its own, one of each family.
    addresses: Vec<IpAddr>,
    is_pod: bool,
}

/// A server on every host and in every pod, at its own address and behind a service; they end when it is dropped.
#[derive(Debug)]
pub struct Everyone<'a> {
    program: PathBuf,
    askers: Vec<Asker<'a>>,
    asked: Vec<Asked>,
    _servers: Vec<Background>,
}

impl<'a> Everyone<'a> {
    /// Starts them; `program` is the command `lab`.
    pub fn start(lab: &'a Lab, program: &Path) -> Result<Self> {
        let pods = lab.pods()?;
        let (mut askers, mut servers) = (Vec::new(), Vec::new());
        for node in lab.layout().nodes() {
            let pod = pods.get(&node.name).filter(|ips| !ips.is_empty());
            let pod = pod.with_context(|| format!("no pod on {}", node.name))?;
            for (is_host, machine, addresses) in [
                (true, lab.node(&node.name)?, &node.addresses),
                (false, lab.pod_on(&node.name)?, pod),
            ] {
                servers.extend(addresses.iter().map(|address| services::Server {
                    node: node.name.clone(),
                    location: node.location.clone(),
                    is_host,
                    at: SocketAddr::new(*address, PORT),
                }));
                askers.push(Asker {
                    name: format!("{} {}", services::kind(is_host), node.name),
                    machine,
                    node,
                    addresses: addresses.clone(),
                    is_pod: !is_host,
                });
            }
        }
        let mut asked: Vec<Asked> = servers.iter().flat_map(services::Server::itself).collect();
        asked.extend(services::made(lab, &servers)?);
        let servers = askers
            .iter()
            .map(|asker| {
                // Before the hundreds of threads that ask at the same time: on a machine of two processors those would have it wait
                // for longer than they do.
                let mut serve: Vec<String> = ["nice", "-n", "-10"].map(str::to_owned).into();
                serve.extend([program.to_string_lossy().into_owned(), "answer".into()]);
                serve.extend(asker.served().iter().map(SocketAddr::to_string));
                Background::start(asker.machine.in_network(&serve)?)
            })
            .collect::<Result<_>>()?;
        for asker in &askers {
            wait_until("a server answers", SOON, || {
                let listening =
                    asker
                        .machine
                        .in_network(["ss", "-Htln", &format!("sport = :{BOUND_PORT}")])?;
                Ok(!listening.run()?.trim().is_empty())
            })?;
        }
        Ok(Self {
            program: program.to_owned(),
            askers,
            asked,
            _servers: servers,
        })
    }

    /// Everyone asks everyone at the same time; returns who got no answer from whom, by which protocol, and why.
    pub fn unanswered(&self) -> Result<Vec<String>> {
        thread::scope(|scope| {
            let asking: Vec<_> = self
                .askers
                .iter()
                .map(|asker| {
                    let mut words = vec![self.program.to_string_lossy().into_owned(), "ask".into()];
                    words.extend(asker.addresses.iter().map(|own| format!("--from={own}")));
                    words.extend(self.asked.iter().map(|asked| asked.at.to_string()));
                    scope.spawn(move || {
                        Ok::<_, anyhow::Error>((asker, asker.machine.in_network(&words)?.run()?))
                    })
                })
                .collect();
            let mut silent = Vec::new();
            for one in asking {
                let (asker, said): (_, String) = one.join().expect("no panic in a question")?;
                silent.extend(said.lines().filter_map(|line| self.silence(asker, line)));
            }
            Ok(silent)
        })
    }

    /// Returns what a line of [`ask`] says of whom was asked; `None` where it is to be expected.
    fn silence(&self, asker: &Asker<'_>, line: &str) -> Option<String> {
        let (at, rest) = line.split_once(' ').unwrap_or((line, ""));
        let asked = self.asked.iter().find(|asked| asked.at.to_string() == at);
        let to = asked.map_or("?", |asked| asked.name.as_str());
        let from = &asker.name;
        let question = Question {
            by_udp: rest.starts_with("udp "),
            is_bound: rest.contains(" from "),
        };
        let expected = asked.is_some_and(|asked| is_expected(asker.node, asker.is_pod, asked, question));
        (!expected).then(|| format!("{from} to {to} ({at}): {rest}"))
    }

    /// Waits until every host and every pod has an answer from every other, by TCP and by UDP, to each of the questions.
    pub fn all_answer(&self) -> Result<()> {
        wait_until("every host and pod answers every other", SOON, || {
            let silent = self.unanswered()?;
            ensure!(silent.is_empty(), "{silent:#?}");
            Ok(true)
        })
    }
}

impl Asker<'_> {
    /// Where it answers: at all addresses, and at each of its own by a socket that is bound to it.
    fn served(&self) -> Vec<SocketAddr> {
        let all = |address: &IpAddr| match address {
            IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT),
            IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT),
        };
        let bound = |address: &IpAddr| SocketAddr::new(*address, BOUND_PORT);
        let own = self.addresses.iter();
        own.clone().map(all).chain(own.map(bound)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a port that was free a moment ago for both protocols. Linux takes none from there for who asks for any
    /// (`ip_local_port_range`, ip-sysctl.rst), and other tests ask for many.
    fn free() -> SocketAddr {
        let mut ports = (20_000..32_000).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let is_free = |at: &SocketAddr| TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok();
        ports.find(is_free).unwrap()
    }

    #[test]
    fn who_answers_is_not_named_and_who_does_not_is_named_with_both_protocols() {
        let local = free();
        let other: IpAddr = "127.0.0.2".parse().unwrap();
        let silent = ask(&[other, Ipv6Addr::LOCALHOST.into()], &[local]);
        let begins = [
            "tcp from 127.0.0.2",
            "udp from 127.0.0.2 4 of 4",
            "tcp",
            "udp 4 of 4",
        ];
        assert_eq!(silent.len(), begins.len(), "{silent:?}");
        for (line, begin) in silent.iter().zip(begins) {
            assert!(line.starts_with(&format!("{local} {begin} ")), "{line}");
        }
        thread::spawn(move || serve(&[local]));
        let answered = wait_until("it answers", SOON, || Ok(ask(&[other], &[local]).is_empty()));
        answered.unwrap();
    }
}
