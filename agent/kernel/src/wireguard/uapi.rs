//! WireGuard in a process: its cross-platform userspace protocol, and the control socket that makes devices.
//!
//! A conversation is one `get=1` or `set=1` on a fresh connection: implementations differ in whether they serve a second
//! one (<https://www.wireguard.com/xplatform/>). The answer ends with `errno=N` and an empty line (`uapi/answer.rs`).

mod answer;

use std::{
    fmt::Write as _,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::errno::Errno;
use spanwire_host::{LinkName, WireGuard};
use spanwire_topology::LocationName;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};
use zeroize::Zeroizing;

use self::answer::{AllowedIps, acknowledge, parse};
use super::{
    Change, PARKING, PrivateKey,
    hex::{hex, unhex},
    peer_stats::Stats,
};
use crate::error::UapiError;

/// A device of 10,000 allowed IPs is set up in well under a second; a process that takes longer is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for what changes nothing, and can be asked again: meanwhile the agent does nothing else.
const READING: Duration = Duration::from_secs(2);
/// One that did not answer the last time.
const HANGING: Duration = Duration::from_millis(500);

/// How long the device's socket may take to appear after `up` was answered, and how often to look.
const APPEARANCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(5));

/// An answer longer than this is no WireGuard's: a million allowed IPs.
const LONGEST_ANSWER: u64 = 64 << 20;

/// What a device in a mesh of some locations answers takes this many bytes at most.
const USUAL_ANSWER: usize = 16 << 10;

/// What is known of the process from the conversations before.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Of its device, as they were last read.
    allowed_ips: AllowedIps,
    /// It did not answer in time.
    hangs: bool,
}

impl Process {
    /// Returns whether it did not answer the last time.
    pub(crate) fn hangs(&self) -> bool {
        self.hangs
    }

    /// Talks to it, for so long at most, or only for a moment where it did not answer before.
    async fn bounded<T>(
        &mut self,
        path: &Path,
        patience: Duration,
        talk: impl Future<Output = io::Result<T>>,
    ) -> Result<T, UapiError> {
        let patience = if self.hangs { HANGING } else { patience };
        let result = bounded(path, patience, talk).await;
        self.hangs = matches!(result, Err(UapiError::Silent { .. }));
        result
    }
}

/// Asks on the control socket for a device, or to remove one.
pub(crate) async fn control(
    process: &mut Process,
    path: &Path,
    verb: &str,
    name: &LinkName,
) -> Result<(), UapiError> {
    let request = format!("{verb} {name}");
    let mut answer = String::new();
    let talk = async {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        stream.read_line(&mut answer).await
    };
    process.bounded(path, PATIENCE, talk).await?;
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

/// Reads how a device is set up, and its counters. Of allowed IPs that are as they were only their text is compared.
pub(crate) async fn read(process: &mut Process, path: &Path) -> Result<(WireGuard, Stats), UapiError> {
    let answer = converse(process, path, READING, GET).await?;
    parse(&answer, SystemTime::now(), &mut process.allowed_ips)
}

/// Whether a device is served at the socket.
pub(crate) async fn answers(process: &mut Process, path: &Path) -> bool {
    let answer = converse(process, path, READING, GET).await;
    answer.is_ok_and(|answer| acknowledge(&answer).is_ok())
}

/// Reads the private key of a device; `None` where it has none.
pub(crate) async fn read_private_key(
    process: &mut Process,
    path: &Path,
) -> Result<Option<PrivateKey>, UapiError> {
    let answer = converse(process, path, PATIENCE, GET).await?;
    acknowledge(&answer)?;
    let line = answer.lines().find_map(|line| line.strip_prefix("private_key="));
    let key = line.and_then(unhex).filter(|key| **key != [0; 32]);
    Ok(key.map(|key| PrivateKey::new(*key)))
}

/// Whether peers can be put into groups, which spanwire-tunnel alone has, since a version. It is asked without a change to
/// anything: a peer that is not there is to be updated, but not made.
pub(crate) async fn has_groups(process: &mut Process, path: &Path) -> Result<bool, UapiError> {
    let key = hex(PARKING.as_bytes());
    let question = format!("set=1\npublic_key={}\nupdate_only=true\ngroup=\n\n", key.as_str());
    match acknowledge(&converse(process, path, READING, question.as_bytes()).await?) {
        Ok(()) => Ok(true),
        Err(UapiError::Refused { errno: Errno::EINVAL }) => Ok(false),
        Err(error) => Err(error),
    }
}

const GET: &[u8] = b"get=1\n\n";
/// What has spanwire-tunnel start handshakes as soon as peers can be reached, and not with the first packet.
const EAGER: &[u8] = b"set=1\neager=true\n\n";

/// Makes the changes in one conversation, after one that has the process start handshakes at once where it can.
pub(crate) async fn change(process: &mut Process, path: &Path, changes: &[Change]) -> Result<(), UapiError> {
    let reaches = |change: &Change| match change {
        Change::Device { .. } => true,
        Change::Peer(peer) => peer.endpoint.is_some(),
        Change::RemovePeer(_) => false,
    };
    if changes.iter().any(reaches) {
        match acknowledge(&converse(process, path, PATIENCE, EAGER).await?) {
            // Others have no such key.
            Ok(()) | Err(UapiError::Refused { errno: Errno::EINVAL }) => {}
            Err(error) => return Err(error),
        }
    }
    let answer = converse(process, path, PATIENCE, request(changes).as_bytes()).await?;
    acknowledge(&answer)
}

async fn converse(
    process: &mut Process,
    path: &Path,
    patience: Duration,
    request: &[u8],
) -> Result<Zeroizing<String>, UapiError> {
    let mut answer = Zeroizing::new(Vec::with_capacity(USUAL_ANSWER));
    let talk = async {
        let mut stream = UnixStream::connect(path).await?.take(LONGEST_ANSWER);
        // A process that refuses a line may hang up before the last one is sent, and has said why.
        let sent = stream.get_mut().write_all(request).await;
        while stream.read_buf(&mut *answer).await? > 0 && !answer.ends_with(b"\n\n") {}
        if answer.is_empty() { sent } else { Ok(()) }
    };
    process.bounded(path, patience, talk).await?;
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

async fn bounded<T>(
    path: &Path,
    patience: Duration,
    talk: impl Future<Output = io::Result<T>>,
) -> Result<T, UapiError> {
    let path = path.to_owned();
    match timeout(patience, talk).await {
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
            match &peer.preshared {
                Some(Some(key)) => writeln!(text, "preshared_key={}", hex(key.as_bytes()).as_str())?,
                Some(None) => writeln!(text, "preshared_key={:064}", 0)?,
                None => {}
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

#[cfg(test)]
mod tests;
