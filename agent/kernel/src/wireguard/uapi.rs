//! WireGuard in a process: its cross-platform userspace protocol, and the control socket that makes devices.
//!
//! A conversation is one `get=1` or `set=1` on a fresh connection: implementations differ in whether they serve a second
//! one (<https://www.wireguard.com/xplatform/>). The answer ends with `errno=N` and an empty line.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::errno::Errno;
use spanwire_host::{LinkName, WireGuard, WireGuardPeer};
use spanwire_topology::{Keepalive, LocationName, Prefix, PublicKey};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    Change, PARKING, PrivateKey,
    hex::{hex, unhex},
    peer_stats::{self, Stats},
};
use crate::error::UapiError;

/// A device of 10,000 allowed IPs is set up in well under a second; a process that takes longer is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the device's socket may take to appear after `up` was answered, and how often to look.
const APPEARANCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(5));

/// An answer longer than this is no WireGuard's: a million allowed IPs.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Asks on the control socket for a device, or to remove one.
pub(crate) async fn control(path: &Path, verb: &str, name: &LinkName) -> Result<(), UapiError> {
    let request = format!("{verb} {name}");
    let mut answer = String::new();
    bounded(path, async {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        stream.read_line(&mut answer).await
    })
    .await?;
    let answer = answer.trim_end();
    if answer == "ok" || answer.starts_with("ok ") {
        return Ok(());
    }
    Err(UapiError::Control {
        request,
        answer: answer.to_owned(),
    })
}

/// Waits until the device's socket takes connections.
pub(crate) async fn appearance(path: &Path) -> Result<(), UapiError> {
    let (longest, step) = APPEARANCE;
    let waiting = async {
        while UnixStream::connect(path).await.is_err() {
            tokio::time::sleep(step).await;
        }
    };
    let path = path.to_owned();
    timeout(longest, waiting)
        .await
        .map_err(|_| UapiError::Silent { path })
}

/// Reads how a device is set up.
pub(crate) async fn read(path: &Path) -> Result<WireGuard, UapiError> {
    parse(&converse(path, b"get=1\n\n").await?)
}

/// Reads how a device is set up, and its counters.
pub(crate) async fn read_all(path: &Path) -> Result<(WireGuard, Stats), UapiError> {
    let answer = converse(path, b"get=1\n\n").await?;
    Ok((parse(&answer)?, peer_stats::of_answer(&answer, SystemTime::now())))
}

/// Reads the private key of a device; `None` where it has none.
pub(crate) async fn read_private_key(path: &Path) -> Result<Option<PrivateKey>, UapiError> {
    let answer = converse(path, b"get=1\n\n").await?;
    parse(&answer)?;
    let line = answer.lines().find_map(|line| line.strip_prefix("private_key="));
    let key = line.and_then(unhex).filter(|key| **key != [0; 32]);
    Ok(key.map(|key| PrivateKey::new(*key)))
}

/// Whether peers can be put into groups, which spanwire-tunnel alone has, since a version. It is asked without a change to
/// anything: a peer that is not there is to be updated, but not made.
pub(crate) async fn has_groups(path: &Path) -> Result<bool, UapiError> {
    let key = hex(PARKING.as_bytes());
    let question = format!("set=1\npublic_key={}\nupdate_only=true\ngroup=\n\n", key.as_str());
    match parse(&converse(path, question.as_bytes()).await?) {
        Ok(_) => Ok(true),
        Err(UapiError::Refused { errno: Errno::EINVAL }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What has spanwire-tunnel start handshakes as soon as peers can be reached, and not with the first packet.
const EAGER: &[u8] = b"set=1\neager=true\n\n";

/// Makes the changes in one conversation, after one that has the process start handshakes at once where it can.
pub(crate) async fn change(path: &Path, changes: &[Change]) -> Result<(), UapiError> {
    let reaches = |change: &Change| match change {
        Change::Device { .. } => true,
        Change::Peer(peer) => peer.endpoint.is_some(),
        Change::RemovePeer(_) => false,
    };
    if changes.iter().any(reaches) {
        match parse(&converse(path, EAGER).await?) {
            // Others have no such key.
            Ok(_) | Err(UapiError::Refused { errno: Errno::EINVAL }) => {}
            Err(error) => return Err(error),
        }
    }
    let answer = converse(path, request(changes).as_bytes()).await?;
    parse(&answer).map(|_| ())
}

async fn converse(path: &Path, request: &[u8]) -> Result<Zeroizing<String>, UapiError> {
    let mut answer = Zeroizing::new(Vec::new());
    bounded(path, async {
        let stream = UnixStream::connect(path).await?;
        let mut stream = BufReader::new(stream.take(LONGEST_ANSWER));
        // A process that refuses a line may hang up before the last one is sent, and has said why.
        let sent = stream.get_mut().get_mut().write_all(request).await;
        // As bytes: `read_line` would look at all that was read before once more for each line.
        while stream.read_until(b'\n', &mut answer).await? > 0 && !answer.ends_with(b"\n\n") {}
        if answer.is_empty() { sent } else { Ok(()) }
    })
    .await?;
    // No copy: the bytes are those of the answer, which holds a private key.
    match String::from_utf8(std::mem::take(&mut answer)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(UapiError::Malformed {
                line: "bytes that are no UTF-8".to_owned(),
            })
        }
    }
}

async fn bounded<T>(path: &Path, talk: impl Future<Output = io::Result<T>>) -> Result<T, UapiError> {
    let path = path.to_owned();
    match timeout(PATIENCE, talk).await {
        Err(_) => Err(UapiError::Silent { path }),
        Ok(Err(source)) => Err(UapiError::Unreachable { path, source }),
        Ok(Ok(value)) => Ok(value),
    }
}

fn request(changes: &[Change]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::from("set=1\n"));
    for change in changes {
        // Writing to a String cannot fail.
        let _infallible = write_change(&mut text, change);
    }
    text.push('\n');
    text
}

fn write_change(text: &mut String, change: &Change) -> std::fmt::Result {
    match change {
        Change::Device {
            private_key,
            listen_port,
            mark,
        } => {
            writeln!(text, "private_key={}", hex(private_key.as_bytes()).as_str())?;
            writeln!(text, "listen_port={listen_port}")?;
            writeln!(text, "fwmark={mark}")
        }
        Change::Peer(peer) => {
            writeln!(text, "public_key={}", hex(peer.key.as_bytes()).as_str())?;
            if let Some(endpoint) = peer.endpoint {
                writeln!(text, "endpoint={endpoint}")?;
            }
            if let Some(keepalive) = peer.keepalive {
                let seconds = keepalive.map_or(0, |keepalive| keepalive.0);
                writeln!(text, "persistent_keepalive_interval={seconds}")?;
            }
            if peer.without_preshared {
                writeln!(text, "preshared_key={:064}", 0)?;
            }
            peer.add
                .iter()
                .try_for_each(|prefix| writeln!(text, "allowed_ip={prefix}"))?;
            // Last: a process that does not know it refuses what comes after it.
            let group = peer.group.as_ref();
            group.map_or(Ok(()), |group| {
                let name = group.as_ref().map_or("", LocationName::as_str);
                writeln!(text, "group={name}")
            })
        }
        Change::RemovePeer(key) => {
            writeln!(text, "public_key={}", hex(key.as_bytes()).as_str())?;
            writeln!(text, "remove=true")
        }
    }
}

fn parse(answer: &str) -> Result<WireGuard, UapiError> {
    let mut device = WireGuard::default();
    let mut peers: BTreeMap<PublicKey, WireGuardPeer> = BTreeMap::new();
    let mut peer = None;
    // A set is made of all of a peer's at once: one by one is what reading a large mesh would mostly be.
    let mut allowed_ips: Vec<Prefix> = Vec::new();
    let mut errno = None;
    for line in answer.lines().filter(|line| !line.is_empty()) {
        let malformed = || UapiError::Malformed {
            line: if line.contains("_key=") {
                "…_key=…".to_owned()
            } else {
                line.to_owned()
            },
        };
        let (name, value) = line.split_once('=').ok_or_else(malformed)?;
        let of_peer: Option<&mut WireGuardPeer> = peer.and_then(|key| peers.get_mut(&key));
        match (name, of_peer) {
            ("errno", _) => errno = Some(value.parse::<i32>().map_err(|_| malformed())?),
            ("private_key", _) => {
                let bytes = unhex(value).ok_or_else(malformed)?;
                device.public_key = (*bytes != [0; 32]).then(|| PrivateKey::new(*bytes).public());
            }
            ("listen_port", _) => device.listen_port = value.parse().map_err(|_| malformed())?,
            ("fwmark", _) => device.mark = value.parse().map_err(|_| malformed())?,
            ("public_key", of_peer) => {
                let key = PublicKey::new(*unhex(value).ok_or_else(malformed)?);
                if let Some(of_peer) = of_peer {
                    of_peer.allowed_ips = allowed_ips.drain(..).collect();
                }
                peers.insert(key, WireGuardPeer::default());
                peer = Some(key);
            }
            ("endpoint", Some(of_peer)) => {
                // A link-local one may come with the name of its device, which says nothing here.
                of_peer.endpoint = value.parse().ok();
            }
            ("preshared_key", Some(of_peer)) => of_peer.preshared = value.bytes().any(|digit| digit != b'0'),
            ("persistent_keepalive_interval", Some(of_peer)) => {
                let seconds: u16 = value.parse().map_err(|_| malformed())?;
                of_peer.keepalive = (seconds > 0).then_some(Keepalive(seconds));
            }
            // A group with a name that no location can have, made by another program, reads as none.
            ("group", Some(of_peer)) => of_peer.group = value.parse().ok(),
            ("allowed_ip", Some(_)) => allowed_ips.push(value.parse().map_err(|_| malformed())?),
            // Statistics, the protocol version, and what newer versions add.
            _ => {}
        }
    }
    if let Some(of_peer) = peer.and_then(|key| peers.get_mut(&key)) {
        of_peer.allowed_ips = allowed_ips.into_iter().collect();
    }
    match errno {
        Some(0) => {
            device.peers = peers;
            Ok(device)
        }
        Some(number) => Err(UapiError::Refused {
            errno: Errno::from_raw(number.abs()),
        }),
        None => Err(UapiError::Malformed { line: String::new() }),
    }
}

#[cfg(test)]
mod tests;
