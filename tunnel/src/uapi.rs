//! The WireGuard configuration protocol (<https://www.wireguard.com/xplatform/>), as `wg` speaks it.
//!
//! `line` reads one `key=value`, [`Session`] strings lines into `get` and `set` operations on a device, `get` writes the
//! answer, [`server`] moves the bytes. A `set` takes effect line by line, as it does in wireguard-go: memory does not grow
//! with the request, and an error leaves what came before it in force.

use std::{fmt, io, time::Instant};

use nix::errno::Errno;
use thiserror::Error;

use crate::{
    device::{Device, DeviceIdentity, Wire},
    id::PeerId,
    key::PublicKey,
    uapi::line::{DeviceLine, PeerLine},
};

pub(crate) mod get;
pub(crate) mod line;
pub(crate) mod restore;
pub mod server;

/// What a device's configuration changes outside the device.
pub trait Ports: Wire {
    /// Returns the UDP port in use, or the one that will be; zero when any will do.
    fn listen_port(&self) -> u16;
    /// Returns whether what is sent leaves: the interface is up, and the port was available.
    fn is_open(&self) -> bool;
    /// Listens on another port; zero picks one.
    fn set_listen_port(&mut self, port: u16) -> io::Result<()>;
    /// Returns the mark on the device's own packets; zero is none.
    fn fwmark(&self) -> u32;
    /// Puts another mark on the device's own packets.
    fn set_fwmark(&mut self, mark: u32) -> io::Result<()>;
}

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum UapiError {
    /// A line without `=`. It is not repeated, for it may be a secret.
    #[error("a line is key=value, one of {length} bytes has no =")]
    Syntax {
        /// The line's length.
        length: usize,
    },
    /// A key that does not exist there.
    #[error("no such key here: {key}")]
    UnknownKey {
        /// The key.
        key: UnknownKey,
    },
    /// A value its key cannot have. Secrets are not repeated.
    #[error("invalid value of {key}")]
    InvalidValue {
        /// The key.
        key: &'static str,
    },
    /// A `get` that goes on after its first line.
    #[error("a get has no lines")]
    TrailingLine,
    /// More peers than message indices.
    #[error("no room for more peers")]
    TooManyPeers,
    /// A listen port that is not available.
    #[error("cannot listen on port {port}")]
    ListenPort {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A mark that cannot be set.
    #[error("cannot set the mark {mark}")]
    Fwmark {
        /// The mark.
        mark: u32,
        /// Why.
        source: io::Error,
    },
}

impl UapiError {
    /// Returns the number in the answer: negative, as `wg` expects it.
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Syntax { .. } => Errno::EPROTO as i32,
            Self::UnknownKey { .. } | Self::InvalidValue { .. } | Self::TrailingLine => Errno::EINVAL as i32,
            Self::TooManyPeers => Errno::ENOSPC as i32,
            Self::ListenPort { source, .. } | Self::Fwmark { source, .. } => {
                source.raw_os_error().unwrap_or(Errno::EIO as i32)
            }
        };
        -errno
    }
}

/// What stands before a line's `=` and is no key there. It may be a secret in a wrong place, which is not repeated: that has
/// digits or capitals, and a key of this protocol has neither.
#[derive(Clone, PartialEq, Eq)]
pub struct UnknownKey(Option<String>);

impl UnknownKey {
    fn new(key: &str) -> Self {
        const LONGEST: usize = 40;
        let is_word = |c: u8| c.is_ascii_lowercase() || c == b'_';
        let is_key = key.len() <= LONGEST && key.bytes().all(is_word);
        Self(is_key.then(|| key.into()))
    }
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(key) => write!(f, "{key:?}"),
            None => f.write_str("not repeated, for it may be a secret"),
        }
    }
}

impl fmt::Debug for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a line made of a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// No answer yet.
    More,
    /// Not now: the same line again, when others are done.
    Wait,
    /// Not all of it yet: the same line again, when packets have had their turn.
    Again,
    /// This, and the next operation may come.
    Answer(String),
    /// This is no UAPI client: close the connection.
    HangUp,
    /// Another process wants to take over, by this version of [`crate::handover`].
    HandOver(String),
}

/// One client's operations, line by line.
#[derive(Debug, Default)]
pub struct Session {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Get(get::Answer),
    Set(Section),
    /// The operation has failed and is answered; the rest of it is passed over.
    Failed,
}

#[derive(Clone, Copy, Debug)]
enum Section {
    Device,
    Peer(Subject),
}

/// The peer that a section speaks of.
#[derive(Clone, Copy, Debug)]
struct Subject {
    key: PublicKey,
    /// `None` when the section has no effect: the device's own key, a removed peer, an update of no peer.
    id: Option<PeerId>,
    created: bool,
}

impl Session {
    /// Returns whether the next line begins an operation.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Returns whether an operation is under way that others must not change anything for.
    pub fn is_under_way(&self) -> bool {
        match &self.state {
            State::Set(_) => true,
            State::Get(answer) => answer.is_begun(),
            State::Idle | State::Failed => false,
        }
    }

    /// Takes a line without its end; `device` is all its shards.
    pub fn handle_line(
        &mut self,
        now: Instant,
        line: &str,
        device: &mut [&mut Device],
        ports: &mut impl Ports,
    ) -> Reply {
        match (&mut self.state, line) {
            (State::Idle, "get=1") => self.state = State::Get(get::Answer::default()),
            (State::Idle, "set=1") => self.state = State::Set(Section::Device),
            (State::Idle, _) => {
                return match line.strip_prefix("hand-over=") {
                    Some(version) => Reply::HandOver(version.into()),
                    None => Reply::HangUp,
                };
            }
            (State::Get(answer), "") => {
                let shards: Vec<&Device> = device.iter().map(|shard| &**shard).collect();
                let Some(text) = answer.step(&shards, ports) else {
                    return Reply::Again;
                };
                self.state = State::Idle;
                return Reply::Answer(text + "errno=0\n\n");
            }
            (State::Get(_), _) => return self.fail(&UapiError::TrailingLine),
            (State::Set(section), "") => {
                section.end(now, device, ports);
                self.state = State::Idle;
                return Reply::Answer("errno=0\n\n".into());
            }
            (State::Set(section), _) => match section.handle_line(now, line, device, ports) {
                Ok(reply) => return reply,
                Err(error) => {
                    section.end(now, device, ports);
                    return self.fail(&error);
                }
            },
            (State::Failed, "") => self.state = State::Idle,
            (State::Failed, _) => {}
        }
        Reply::More
    }

    /// Ends the session: the client is gone; what it set so far stays.
    pub fn handle_end(&mut self, now: Instant, device: &mut [&mut Device], ports: &mut impl Ports) {
        if let State::Set(section) = &mut self.state {
            section.end(now, device, ports);
        }
        self.state = State::Failed;
    }

    fn fail(&mut self, error: &UapiError) -> Reply {
        tracing::warn!(error = error as &dyn std::error::Error, "configuration refused");
        self.state = State::Failed;
        Reply::Answer(format!("errno={}\n\n", error.errno()))
    }
}

impl Section {
    fn handle_line(
        &mut self,
        now: Instant,
        line: &str,
        device: &mut [&mut Device],
        ports: &mut impl Ports,
    ) -> Result<Reply, UapiError> {
        let (key, value) = line
            .split_once('=')
            .ok_or(UapiError::Syntax { length: line.len() })?;
        if key == "public_key" {
            let key = line::public_key(value)?;
            self.end(now, device, ports);
            let mut subject = Subject {
                key,
                id: None,
                created: false,
            };
            *self = Self::Peer(subject);
            if !device.iter().any(|shard| shard.is_own_key(key)) {
                subject = Subject::find(now, key, device)?;
                *self = Self::Peer(subject);
            }
            return Ok(Reply::More);
        }
        match self {
            Self::Device => set_device(now, DeviceLine::parse(key, value)?, device, ports)?,
            Self::Peer(subject) => {
                subject.set(now, &PeerLine::parse(key, value)?, device);
            }
        }
        Ok(Reply::More)
    }

    fn end(&mut self, now: Instant, device: &mut [&mut Device], ports: &mut impl Ports) {
        if let Self::Peer(subject) = self
            && let Some(id) = subject.id(device)
        {
            for shard in device {
                shard.settle(now, id, ports);
            }
        }
    }
}

fn set_device(
    now: Instant,
    line: DeviceLine,
    device: &mut [&mut Device],
    ports: &mut impl Ports,
) -> Result<(), UapiError> {
    match line {
        DeviceLine::PrivateKey(key) => {
            let identity = key.map(DeviceIdentity::new);
            for shard in device {
                shard.set_identity(now, identity.clone(), ports);
            }
        }
        DeviceLine::ListenPort(port) => {
            let before = (ports.listen_port(), ports.is_open());
            ports
                .set_listen_port(port)
                .map_err(|source| UapiError::ListenPort { port, source })?;
            for shard in device {
                shard.set_port(ports.listen_port());
                if ports.is_open() && !before.1 {
                    shard.handle_up(now, ports);
                } else if ports.listen_port() != before.0 {
                    shard.handle_moved(now, ports);
                }
            }
        }
        DeviceLine::Fwmark(mark) => {
            ports
                .set_fwmark(mark)
                .map_err(|source| UapiError::Fwmark { mark, source })?;
            device.iter_mut().for_each(|shard| shard.handle_mark());
        }
        DeviceLine::Eager(eager) => device.iter_mut().for_each(|shard| shard.set_eager(eager)),
        DeviceLine::ReplacePeers => device.iter_mut().for_each(|shard| shard.remove_all_peers(now)),
    }
    Ok(())
}

impl Subject {
    /// Returns the peer with this key, which is added if there is none.
    fn find(now: Instant, key: PublicKey, device: &mut [&mut Device]) -> Result<Self, UapiError> {
        let created = device.iter().all(|shard| shard.peer(key).is_none());
        let mut id = None;
        for shard in device {
            id = Some(shard.add_peer(now, key).ok_or(UapiError::TooManyPeers)?);
        }
        Ok(Self { key, id, created })
    }

    /// Returns its id, unless another client has removed it: then another peer may have the id.
    fn id(&self, device: &[&mut Device]) -> Option<PeerId> {
        let has = |id: &PeerId| {
            device
                .first()
                .is_some_and(|tables| tables.peer(self.key) == Some(*id))
        };
        self.id.filter(has)
    }

    fn set(&mut self, now: Instant, line: &PeerLine, device: &mut [&mut Device]) {
        let Some(id) = self.id(device) else { return };
        if matches!(line, PeerLine::Remove) || (matches!(line, PeerLine::UpdateOnly) && self.created) {
            self.id = None;
        }
        for shard in device {
            match line {
                _ if self.id.is_none() => shard.remove_peer(id),
                PeerLine::UpdateOnly | PeerLine::Remove | PeerLine::ProtocolVersion => {}
                PeerLine::PresharedKey(key) => shard.set_preshared(now, id, key.clone()),
                PeerLine::Endpoint(endpoint) => shard.set_endpoint(id, *endpoint),
                PeerLine::Keepalive(seconds) => shard.set_keepalive(now, id, *seconds),
                PeerLine::ReplaceAllowedIps => shard.disallow_all(id),
                PeerLine::Allow(prefix) => shard.allow(id, *prefix),
                PeerLine::Disallow(prefix) => shard.disallow(id, *prefix),
                PeerLine::Group(group) => shard.set_group(id, group.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{device::ShardIndex, uapi::restore::RestoredPorts};

    #[test]
    fn the_answer_about_thousands_of_peers_is_written_step_by_step() {
        const PEERS: usize = 3000;
        let (now, mut ports) = (Instant::now(), RestoredPorts::default());
        let mut shards: Vec<_> = ShardIndex::all(3)
            .map(|index| Device::shard(index, 1420))
            .collect();
        let mut device: Vec<_> = shards.iter_mut().collect();
        let mut session = Session::default();
        let mut reply = |line: &str| session.handle_line(now, line, &mut device, &mut ports);
        reply("set=1");
        for number in 1..=PEERS {
            reply(&format!("public_key={number:064x}"));
        }
        assert_eq!(reply(""), Reply::Answer("errno=0\n\n".into()));
        reply("get=1");
        let mut steps = 0;
        let answer = loop {
            match reply("") {
                Reply::Answer(answer) => break answer,
                Reply::Again => {}
                reply @ (Reply::More | Reply::Wait | Reply::HangUp | Reply::HandOver(_)) => {
                    panic!("{reply:?}")
                }
            }
            steps += 1;
        };
        assert!(steps >= 10, "{steps} steps");
        let keys: Vec<_> = answer
            .lines()
            .filter(|line| line.starts_with("public_key="))
            .collect();
        assert_eq!(keys.len(), PEERS);
        let whole = get::render(&device.iter().map(|shard| &**shard).collect::<Vec<_>>(), &ports);
        assert_eq!(answer, whole + "errno=0\n\n");
        assert!(session.is_idle());
    }

    #[test]
    fn what_is_said_of_a_wrong_line_has_no_key_in_it() {
        let hex = "0a".repeat(32);
        let base64 = "CgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo";
        for line in [
            format!("private_key {hex}"),
            format!("{hex}="),
            format!("{base64}="),
            format!("private_key={hex}0"),
            format!("PrivateKey={hex}"),
        ] {
            let mut device = Device::new(1420);
            let mut section = Section::Device;
            let error = section
                .handle_line(
                    Instant::now(),
                    &line,
                    &mut [&mut device],
                    &mut RestoredPorts::default(),
                )
                .expect_err("it is wrong");
            let said = format!("{error} {error:?}");
            assert!(!said.contains("0a0a") && !said.contains("CgoK"), "{said}");
        }
    }
}
