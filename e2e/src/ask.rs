//! Questions by TCP and UDP between all hosts and all pods, asked of servers on wildcard sockets, as programs of users are.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    expect::SOON,
    lab::Lab,
    machine::{Background, Machine},
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

/// Asks each address by TCP and by UDP; returns what got no answer, a line each: address, protocol and why.
pub fn ask(port: u16, addresses: &[IpAddr]) -> Vec<String> {
    thread::scope(|scope| {
        let asking: Vec<_> = addresses
            .iter()
            .map(|&address| {
                scope.spawn(move || {
                    let to = SocketAddr::new(address, port);
                    let tcp = by_tcp(to).err().map(|why| format!("{address} tcp {why:#}"));
                    let udp = by_udp(to).err().map(|why| format!("{address} udp {why:#}"));
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

/// A server on every host and in every pod; they end when it is dropped.
#[derive(Debug)]
pub struct Everyone<'a> {
    program: PathBuf,
    /// Where one asks from: what it is called, and the machine.
    machines: Vec<(String, Machine<'a>)>,
    /// Whom one asks: what it is called, and its address.
    addresses: Vec<(String, IpAddr)>,
    _servers: Vec<Background>,
}

impl<'a> Everyone<'a> {
    /// Starts them; `program` is the command `lab`.
    pub fn start(lab: &'a Lab, program: &Path) -> Result<Self> {
        let pods = lab.pods()?;
        let (mut machines, mut addresses) = (Vec::new(), Vec::new());
        for node in lab.layout().nodes() {
            let pod = pods.get(&node.name).and_then(|ips| ips.first());
            let pod = *pod.with_context(|| format!("no pod on {}", node.name))?;
            let (host_name, pod_name) = (format!("host {}", node.name), format!("pod {}", node.name));
            machines.push((host_name.clone(), lab.node(&node.name)?));
            machines.push((pod_name.clone(), lab.pod_on(&node.name)?));
            addresses.push((host_name, node.addresses[0]));
            addresses.push((pod_name, pod));
        }
        let serve = [
            program.to_string_lossy().into_owned(),
            "answer".into(),
            PORT.to_string(),
        ];
        let servers = machines
            .iter()
            .map(|(_, machine)| Background::start(machine.in_network(&serve)?))
            .collect::<Result<_>>()?;
        for (_, machine) in &machines {
            wait_until("a server answers", SOON, || {
                let listening = machine.in_network(["ss", "-Htln", &format!("sport = :{PORT}")])?;
                Ok(!listening.run()?.trim().is_empty())
            })?;
        }
        Ok(Self {
            program: program.to_owned(),
            machines,
            addresses,
            _servers: servers,
        })
    }

    /// Everyone asks everyone at once; returns who got no answer from whom, by which protocol, and why.
    pub fn unanswered(&self) -> Result<Vec<String>> {
        let mut words = vec![
            self.program.to_string_lossy().into_owned(),
            "ask".into(),
            PORT.to_string(),
        ];
        words.extend(self.addresses.iter().map(|(_, address)| address.to_string()));
        thread::scope(|scope| {
            let asking: Vec<_> = self
                .machines
                .iter()
                .map(|(name, machine)| {
                    let words = &words;
                    scope.spawn(move || Ok::<_, anyhow::Error>((name, machine.in_network(words)?.run()?)))
                })
                .collect();
            let mut silent = Vec::new();
            for one in asking {
                let (from, said): (_, String) = one.join().expect("no panic in a question")?;
                let named = said.lines().map(|line| self.named(from, line));
                silent.extend(named.filter(|line| !is_linux_own(line)));
            }
            Ok(silent)
        })
    }

    /// Returns a line of [`ask`] with the name of whom was asked.
    fn named(&self, from: &str, line: &str) -> String {
        let (address, rest) = line.split_once(' ').unwrap_or((line, ""));
        let asked = self
            .addresses
            .iter()
            .find(|(_, known)| known.to_string() == address);
        let to = asked.map_or("?", |(name, _)| name.as_str());
        format!("{from} to {to} ({address}): {rest}")
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

/// Whether it is a pod that asks its own node by UDP. A server on a wildcard socket answers it from the address of the CNI's
/// bridge, with and without a mesh.
fn is_linux_own(line: &str) -> bool {
    let (from, rest) = line.split_once(" to ").unwrap_or_default();
    let own = from.strip_prefix("pod ").unwrap_or("?");
    rest.starts_with(&format!("host {own} ")) && rest.contains("): udp ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_that_asks_its_own_host_by_udp_is_expected_to_get_no_answer() {
        assert!(is_linux_own(
            "pod a1 to host a1 (192.168.1.11): udp 4 of 4 lost: x"
        ));
        for line in [
            "pod a1 to host a1 (192.168.1.11): tcp x",
            "pod a1 to host a11 (192.168.1.21): udp 4 of 4 lost: x",
            "host a1 to host a1 (192.168.1.11): udp 4 of 4 lost: x",
        ] {
            assert!(!is_linux_own(line), "{line}");
        }
    }

    #[test]
    fn who_answers_is_not_named_and_who_does_not_is_named_with_both_protocols() {
        let local: IpAddr = Ipv4Addr::LOCALHOST.into();
        // A port that was free a moment ago.
        let port = UdpSocket::bind((local, 0)).unwrap().local_addr().unwrap().port();
        let silent = ask(port, &[local]);
        assert_eq!(silent.len(), 2, "{silent:?}");
        assert!(
            silent[0].starts_with("127.0.0.1 tcp") && silent[1].starts_with("127.0.0.1 udp 4 of 4"),
            "{silent:?}"
        );
        thread::spawn(move || serve(port));
        let answered = wait_until("it answers", SOON, || Ok(ask(port, &[local]).is_empty()));
        answered.unwrap();
    }
}
