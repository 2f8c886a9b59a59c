//! A netlink socket that says many things before it listens.
//!
//! Every request asks for an acknowledgement, and up to [`WINDOW`] of them travel in one `sendmsg`: the kernel works
//! through them before the call returns, so thousands of routes cost dozens of system calls. Strict checking is on: the
//! kernel refuses what it would otherwise silently ignore, and filters dumps itself
//! (Documentation/userspace-api/netlink/intro.rst, "Strict checking"). The crate rtnetlink does neither.
//!
//! What has gone wrong in other people's code, and is dealt with here:
//!
//! * answers to a request that was given up must not be taken for the next one's: the sequence numbers differ;
//! * a dump during which the table changed is flagged (`NLM_F_DUMP_INTR`) and worthless: it is repeated;
//! * a dump's own error arrives in the payload of `NLMSG_DONE`;
//! * one foreign object that cannot be parsed must not hide all others.

use std::{io, time::Duration};

use netlink_packet_core::{Emitable, NetlinkBuffer, Parseable};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::{
    errno::Errno,
    libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR},
    sys::socket::{setsockopt, sockopt},
};
use thiserror::Error;

/// Requests per `sendmsg`. Each answer takes about 1 KiB of the socket's receive buffer, which holds 208 KiB by the
/// default of `net.core.rmem_default`.
const WINDOW: usize = 96;

/// Bytes per `sendmsg`: below the default `net.core.wmem_default` of 208 KiB, less what the kernel adds.
const WINDOW_BYTES: usize = 128 << 10;

/// The kernel gives at most 32 KiB per message of a dump (`netlink_dump`); acknowledgements are smaller.
const RECEIVE_BYTES: usize = 64 << 10;

/// A table that changes during each of so many dumps is being flooded; the caller tries again later.
const DUMP_ATTEMPTS: usize = 8;

/// The kernel answers within the call; only a machine in deep trouble takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why talking to the kernel failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink socket failed")]
    Socket(#[source] io::Error),
    /// No answer within [`PATIENCE`].
    #[error("the kernel did not answer a netlink request in {} s", PATIENCE.as_secs())]
    Silent,
    /// The kernel said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The table changed during each attempt to read it.
    #[error("the kernel's table changed during each of {DUMP_ATTEMPTS} attempts to read it")]
    Restless,
    /// The answer is not what the protocol says.
    #[error("the kernel's answer to a netlink request is malformed: {0}")]
    Malformed(&'static str),
}

/// The kernel's no to one request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{}{text}", errno.desc(), if text.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own explanation; often empty.
    pub text: String,
}

/// One request, without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Message type.
    pub(crate) kind: u16,
    /// Flags besides REQUEST, ACK and DUMP.
    pub(crate) flags: i32,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(kind: u16, flags: i32, message: &impl Emitable) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self { kind, flags, body }
    }

    /// Returns the request as it goes to the kernel.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.emit(0, 1, &mut bytes);
        bytes
    }

    fn emit(&self, flags: i32, sequence: u32, to: &mut Vec<u8>) {
        let length = HEADER + self.body.len();
        to.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        to.extend_from_slice(&self.kind.to_ne_bytes());
        let flags = u16::try_from(self.flags | flags | NLM_F_REQUEST).unwrap_or(0);
        to.extend_from_slice(&flags.to_ne_bytes());
        to.extend_from_slice(&sequence.to_ne_bytes());
        to.extend_from_slice(&0_u32.to_ne_bytes());
        to.extend_from_slice(&self.body);
        to.resize(to.len().next_multiple_of(4), 0);
    }
}

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Message type.
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    /// The socket that caused a notification; 0 for the kernel itself.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Makes a message as if from the kernel.
    #[cfg(test)]
    pub(crate) fn new(kind: u16, body: Vec<u8>) -> Self {
        let (flags, sequence, port) = (0, 0, 0);
        Self {
            kind,
            flags,
            sequence,
            port,
            body,
        }
    }

    /// Returns the message as a `T`; `None`, with a trace, where it is none: others may own things we cannot read.
    pub(crate) fn parse<T: Parseable<[u8]>>(&self) -> Option<T> {
        T::parse(&self.body)
            .inspect_err(|error| tracing::debug!(kind = self.kind, %error, "skipped a netlink message"))
            .ok()
    }
}

/// Splits what one `recvmsg` gave into messages.
pub(crate) fn messages(mut bytes: &[u8]) -> Result<Vec<Message>, NetlinkError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let buffer = NetlinkBuffer::new_checked(bytes).map_err(|_| NetlinkError::Malformed("length"))?;
        let length = buffer.length() as usize;
        found.push(Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            port: buffer.port_number(),
            body: bytes[HEADER..length].to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// Returns the attributes in `bytes`; stops at the first that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A socket for requests of one netlink protocol.
pub(crate) struct Socket {
    socket: TokioSocket,
    sequence: u32,
    port: u32,
}

impl Socket {
    /// Opens a socket of `protocol`, one of libc's `NETLINK_*`.
    pub(crate) fn open(protocol: i32) -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(protocol as isize).map_err(NetlinkError::Socket)?;
        let inner = socket.socket_mut();
        let port = inner.bind_auto().map_err(NetlinkError::Socket)?.port_number();
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Socket)?;
        inner.set_cap_ack(true).map_err(NetlinkError::Socket)?;
        inner.set_ext_ack(true).map_err(NetlinkError::Socket)?;
        inner
            .set_netlink_get_strict_chk(true)
            .map_err(NetlinkError::Socket)?;
        Ok(Self {
            socket,
            sequence: 0,
            port,
        })
    }

    /// Returns the port by which a notification says that a change was made by this socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Makes all the requests and gives the kernel's answer to each, in order.
    pub(crate) async fn requests(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            let mut count = 0;
            for request in rest.iter().take(WINDOW) {
                if count > 0 && bytes.len() + request.body.len() > WINDOW_BYTES {
                    break;
                }
                self.sequence = self.sequence.wrapping_add(1);
                request.emit(NLM_F_ACK, self.sequence, &mut bytes);
                count += 1;
            }
            self.send(&bytes).await?;
            results.extend(self.acknowledgements(first, count).await?);
            rest = &rest[count..];
        }
        Ok(results)
    }

    /// Makes the requests of one transaction of nf_tables, of which the first begins and the last ends it: all that is asked
    /// for between comes into force, or nothing.
    pub(crate) async fn transaction(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        // Of the others only a refusal is heard, and not every kernel acknowledges the end.
        let acknowledged = requests.len().saturating_sub(2);
        let mut bytes = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if index == acknowledged { NLM_F_ACK } else { 0 };
            request.emit(flags, self.sequence, &mut bytes);
        }
        self.send(&bytes).await?;
        loop {
            for message in self.receive().await? {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index < requests.len() && i32::from(message.kind) == NLMSG_ERROR {
                    outcome(&message)?;
                    if index == acknowledged {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes one request and gives what the kernel answers besides the acknowledgement.
    pub(crate) async fn get(&mut self, request: &Request) -> Result<Vec<Message>, NetlinkError> {
        let (messages, _) = self.exchange(request, NLM_F_ACK).await?;
        Ok(messages)
    }

    /// Reads a table.
    pub(crate) async fn dump(&mut self, request: &Request) -> Result<Vec<Message>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (messages, interrupted) = self.exchange(request, NLM_F_DUMP).await?;
            if !interrupted {
                return Ok(messages);
            }
        }
        Err(NetlinkError::Restless)
    }

    async fn exchange(
        &mut self,
        request: &Request,
        flags: i32,
    ) -> Result<(Vec<Message>, bool), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        request.emit(flags, self.sequence, &mut bytes);
        self.send(&bytes).await?;
        let mut answer = Vec::new();
        let mut interrupted = false;
        loop {
            for message in self.receive().await? {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    NLMSG_ERROR | NLMSG_DONE => {
                        outcome(&message)?;
                        return Ok((answer, interrupted));
                    }
                    _ => answer.push(message),
                }
            }
        }
    }

    async fn acknowledgements(
        &mut self,
        first: u32,
        count: usize,
    ) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        let mut results = vec![None; count];
        let mut missing = count;
        while missing > 0 {
            for message in self.receive().await? {
                let index = message.sequence.wrapping_sub(first) as usize;
                let answers = i32::from(message.kind) == NLMSG_ERROR;
                if let Some(slot @ None) = results.get_mut(index).filter(|_| answers) {
                    *slot = Some(outcome(&message));
                    missing -= 1;
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket.send(bytes).await.map_err(NetlinkError::Socket)?;
        Ok(())
    }

    async fn receive(&self) -> Result<Vec<Message>, NetlinkError> {
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer))
            .await
            .map_err(|_| NetlinkError::Silent)?
            .map_err(NetlinkError::Socket)?;
        messages(&buffer)
    }
}

/// Returns what an `NLMSG_ERROR` or `NLMSG_DONE` says.
fn outcome(message: &Message) -> Result<(), Refusal> {
    let code = message.body.get(..4).and_then(|bytes| bytes.try_into().ok());
    let code = code.map_or(0, i32::from_ne_bytes);
    if code >= 0 {
        return Ok(());
    }
    // Behind the code of an error stands the header of the request, which NETLINK_CAP_ACK keeps short.
    let offset = if i32::from(message.kind) == NLMSG_ERROR {
        4 + HEADER
    } else {
        4
    };
    let text = if message.flags & NLM_F_ACK_TLVS == 0 {
        None
    } else {
        attributes(message.body.get(offset..).unwrap_or_default())
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
    };
    Err(Refusal {
        errno: Errno::from_raw(-code),
        text: text.map_or_else(String::new, |(_, text)| {
            String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
        }),
    })
}

/// A socket that hears what changes.
pub(crate) struct Ears(TokioSocket);

impl Ears {
    /// Hears the multicast `groups` of `protocol`.
    pub(crate) fn open(protocol: i32, groups: &[u32]) -> Result<Self, NetlinkError> {
        /// Enough for some thousand route changes between two looks; more is reported as lost, which is a change too.
        const BUFFER: usize = 4 << 20;
        let mut socket = TokioSocket::new(protocol as isize).map_err(NetlinkError::Socket)?;
        let inner = socket.socket_mut();
        inner.bind_auto().map_err(NetlinkError::Socket)?;
        for group in groups {
            inner.add_membership(*group).map_err(NetlinkError::Socket)?;
        }
        setsockopt(inner, sockopt::RcvBufForce, &BUFFER)
            .map_err(|errno| NetlinkError::Socket(errno.into()))?;
        Ok(Self(socket))
    }

    /// Returns the next notifications; `None` when the kernel had to drop some.
    pub(crate) async fn hear(&self) -> Result<Option<Vec<Message>>, NetlinkError> {
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        match self.0.recv(&mut buffer).await {
            Ok(()) => messages(&buffer).map(Some),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(None),
            Err(error) => Err(NetlinkError::Socket(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &[u8]) -> Request {
        Request {
            kind: 24,
            flags: 0x100,
            body: body.to_vec(),
        }
    }

    #[test]
    fn what_is_cut_off_or_lies_about_its_length_is_malformed_and_never_a_panic() {
        let bytes = [request(&[1, 2, 3]).bytes(), request(&[]).bytes()].concat();
        assert_eq!(messages(&bytes).unwrap().len(), 2);
        assert_eq!(messages(&bytes).unwrap()[0].body, [1, 2, 3]);
        for length in (1..bytes.len()).filter(|length| *length != 20) {
            // The padding behind the first message may be missing.
            assert_eq!(messages(&bytes[..length]).is_ok(), length == 19, "{length}");
        }
        let mut lie = bytes;
        lie[0] = 3;
        assert!(messages(&lie).is_err());
    }

    #[test]
    fn attributes_end_where_one_is_cut_off() {
        let bytes = [6, 0, 1, 0, 7, 8, 0, 0, 9, 0, 2, 0x80, 1];
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &[7, 8][..])]);
        assert_eq!(attributes(&[0; 8]).count(), 0);
    }

    #[test]
    fn a_refusal_has_the_kernels_own_words() {
        let mut body = (-17_i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([9, 0, 1, 0]);
        body.extend(b"why?\0\0\0\0");
        let message = Message {
            kind: 2,
            flags: NLM_F_ACK_TLVS,
            sequence: 1,
            port: 0,
            body,
        };
        let refusal = outcome(&message).unwrap_err();
        assert_eq!((refusal.errno, refusal.text.as_str()), (Errno::EEXIST, "why?"));
        assert_eq!(refusal.to_string(), "File exists: why?");
    }
}
