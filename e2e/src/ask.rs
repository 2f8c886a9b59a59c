//! Questions by TCP and UDP between all hosts and all pods, asked of servers on wildcard sockets, as programs of users are:
//! at their own addresses, and through services.

mod services;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    expect::SOON,
    lab::Lab,
    layout::NodeLayout,
    machine::{Background, Machine},
    profile::Profile,
    wait::wait_until,
};

/// The port on which all of them answer: one that every profile of a host leaves open.
const PORT: u16 = 31_999;
/// How often each is asked by UDP: where some answers get lost, one question would often miss it.
const QUESTIONS: usize = 4;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
const WORD: &[u8] = b"spanwire";

/// Answers on a port, TCP and UDP, on all addresses of this network namespace, for ever.
pub fn serve(port: u16) -> Result<()> {
    let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let udp = UdpSocket::bind(all).with_context(|| format!("UDP port {port}"))?;
    let tcp = TcpListener::bind(all).with_context(|| format!("TCP port {port}"))?;
    thread::spawn(move || {
        for mut connection in tcp.incoming().flatten() {
            // Who hangs up early gets no answer.
            let _ = connection.write_all(WORD);
        }
    });
    let mut buffer = [0; 64];
    loop {
        if let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // What cannot be sent is lost, as the one who asks will see.
            let _ = udp.send_to(&buffer[..length], from);
        }
    }
}

/// Asks at each address and port by TCP and by UDP; returns what got no answer, a line each: address and port, protocol and why.
pub fn ask(addresses: &[SocketAddr]) -> Vec<String> {
    thread::scope(|scope| {
        let asking: Vec<_> = addresses
            .iter()
            .map(|&to| {
                scope.spawn(move || {
                    let tcp = by_tcp(to).err().map(|why| format!("{to} tcp {why:#}"));
                    let udp = by_udp(to).err().map(|why| format!("{to} udp {why:#}"));
                    [tcp, udp]
                })
            })
            .collect();
        let answers = asking
            .into_iter()
            .map(|one| one.join().expect("no panic in a question"));
        answers.flatten().flatten().collect()
    })
}

fn by_tcp(to: SocketAddr) -> Result<()> {
    let mut connection = TcpStream::connect_timeout(&to, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut said = Vec::new();
    connection.read_to_end(&mut said)?;
    ensure!(said == WORD, "says something else");
    Ok(())
}

/// Each question comes from a port of its own, so that connection tracking knows none of them.
fn by_udp(to: SocketAddr) -> Result<()> {
    let asked = |_| -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Connected: an answer from another address is none, as for any resolver.
        socket.connect(to)?;
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
    /// The node, where it is that node's host that answers, and no other node translates the address.
    own_host: Option<String>,
    /// It is an address of a service, which the asking node translates.
    is_service: bool,
}

/// Where one asks from.
#[derive(Debug)]
struct Asker<'a> {
    name: String,
    machine: Machine<'a>,
    node: &'a NodeLayout,
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
            let pod = pods.get(&node.name).and_then(|ips| ips.first());
            let pod = *pod.with_context(|| format!("no pod on {}", node.name))?;
            for (kind, machine, address) in [
                ("host", lab.node(&node.name)?, node.addresses[0]),
                ("pod", lab.pod_on(&node.name)?, pod),
            ] {
                let server = services::Server {
                    node: node.name.clone(),
                    is_host: kind == "host",
                    at: SocketAddr::new(address, PORT),
                };
                askers.push(Asker {
                    name: server.name(),
                    machine,
                    node,
                    is_pod: !server.is_host,
                });
                servers.push(server);
            }
        }
        let mut asked: Vec<Asked> = servers.iter().map(services::Server::itself).collect();
        asked.extend(services::made(lab, &servers)?);
        let serve = [
            program.to_string_lossy().into_owned(),
            "answer".into(),
            PORT.to_string(),
        ];
        let servers = askers
            .iter()
            .map(|asker| Background::start(asker.machine.in_network(&serve)?))
            .collect::<Result<_>>()?;
        for asker in &askers {
            wait_until("a server answers", SOON, || {
                let listening = asker
                    .machine
                    .in_network(["ss", "-Htln", &format!("sport = :{PORT}")])?;
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

    /// Everyone asks everyone at once; returns who got no answer from whom, by which protocol, and why.
    pub fn unanswered(&self) -> Result<Vec<String>> {
        let mut words = vec![self.program.to_string_lossy().into_owned(), "ask".into()];
        words.extend(self.asked.iter().map(|asked| asked.at.to_string()));
        thread::scope(|scope| {
            let asking: Vec<_> = self
                .askers
                .iter()
                .map(|asker| {
                    let words = &words;
                    scope.spawn(move || {
                        Ok::<_, anyhow::Error>((asker, asker.machine.in_network(words)?.run()?))
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
        let by_udp = rest.starts_with("udp ");
        let expected = asked.is_some_and(|asked| is_expected(asker.node, asker.is_pod, asked, by_udp));
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

/// Whether there is no answer with and without a mesh.
///
/// A server on a wildcard socket answers a pod of its own node by UDP from the address of the CNI's bridge. And wg-quick drops
/// what comes to the VPN's address from an address that is not the host's own: the answer of a service that the host itself
/// gives, where the host asks from there.
fn is_expected(from: &NodeLayout, is_pod: bool, asked: &Asked, by_udp: bool) -> bool {
    let is_own = asked.own_host.as_ref() == Some(&from.name);
    let by_vpn = asked.is_service && from.profiles.contains(&Profile::VpnRules);
    is_own && if is_pod { by_udp } else { by_vpn }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layout::Layout, scenario::Scenario};

    #[test]
    fn only_own_hosts_are_expected_to_give_no_answer_to_pods_by_udp_and_to_a_vpn_by_a_service() {
        let text = "{hosts: {a2: [vpn-rules]}, locations: [{name: a, nodes: [{name: a1}, {name: a2}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let [a1, a2] = [0, 1].map(|index| &layout.locations[0].nodes[index]);
        let asked = |own_host: Option<&str>, is_service| Asked {
            name: "x".to_owned(),
            at: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1),
            own_host: own_host.map(str::to_owned),
            is_service,
        };
        for is_service in [false, true] {
            let of_a1 = asked(Some("a1"), is_service);
            assert!(is_expected(a1, true, &of_a1, true));
            assert!(!is_expected(a1, true, &of_a1, false), "by TCP");
            assert!(!is_expected(a2, true, &of_a1, true), "of another node");
            assert!(!is_expected(a1, false, &of_a1, true), "a host");
            let of_pod = asked(None, is_service);
            assert!(!is_expected(a1, true, &of_pod, true), "a pod, or by another node");
        }
        assert!(is_expected(a2, false, &asked(Some("a2"), true), false));
        assert!(
            !is_expected(a2, false, &asked(Some("a2"), false), false),
            "its own address"
        );
        assert!(
            !is_expected(a2, false, &asked(Some("a1"), true), false),
            "of another"
        );
    }

    #[test]
    fn who_answers_is_not_named_and_who_does_not_is_named_with_both_protocols() {
        // A port that was free a moment ago.
        let local = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let silent = ask(&[local]);
        assert_eq!(silent.len(), 2, "{silent:?}");
        assert!(
            silent[0].starts_with(&format!("{local} tcp"))
                && silent[1].starts_with(&format!("{local} udp 4 of 4")),
            "{silent:?}"
        );
        thread::spawn(move || serve(local.port()));
        let answered = wait_until("it answers", SOON, || Ok(ask(&[local]).is_empty()));
        answered.unwrap();
    }
}
