//! An interface's alias (IFLA_IFALIAS), by rtnetlink(7): neither an ioctl nor, in every mount namespace, sysfs has it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// Bytes of nlmsghdr and of ifinfomsg.
const HEADER: usize = 16;
const INFO: usize = 16;
/// An answer with all attributes of a link is far below.
const ROOM: usize = 64 * 1024;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_IFALIAS: u16 = 20;

/// The alias of an interface of this network namespace; empty when it has none.
pub(crate) fn read(name: &str) -> io::Result<String> {
    let (kind, answer) = ask(RTM_GETLINK, NLM_F_REQUEST, name, &[])?;
    if kind != RTM_NEWLINK {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let text = attribute(answer.get(INFO..).unwrap_or_default(), IFLA_IFALIAS).unwrap_or_default();
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Gives an interface of this network namespace an alias.
pub(crate) fn set(name: &str, alias: &str) -> io::Result<()> {
    let mut attribute = Vec::new();
    let length = u16::try_from(4 + alias.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    attribute.extend(length.to_ne_bytes());
    attribute.extend(IFLA_IFALIAS.to_ne_bytes());
    attribute.extend(alias.bytes());
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    ask(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, name, &attribute).map(drop)
}

/// One request about a link and the kernel's answer to it, without its header; an error if it is one.
fn ask(kind: u16, flags: u16, name: &str, attributes: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let index = if_nametoindex(name)?;
    let mut request = Vec::new();
    let length = u32::try_from(HEADER + INFO + attributes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; 4]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(attributes);

    let socket = open()?;
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; ROOM];
    let received = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(received);
    let kind = number(&answer, 4).ok_or(io::ErrorKind::InvalidData)?;
    let body = answer.split_off(HEADER.min(received));
    if kind == NLMSG_ERROR {
        let errno = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        match errno {
            Some(0) => {}
            Some(errno) => return Err(io::Error::from_raw_os_error(-errno)),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok((kind, body))
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkRoute),
    )?)
}

/// The value of the first attribute of this kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(number(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if number(attributes, 2)? == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_broken_ones_are_none() {
        let [one, two] = [1u16, IFLA_IFALIAS].map(u16::to_ne_bytes);
        let [five, seven] = [5u16, 7].map(u16::to_ne_bytes);
        let padded = [&five[..], &one, b"x", &[0; 3], &seven, &two, b"abc"].concat();
        assert_eq!(attribute(&padded, IFLA_IFALIAS), Some(&b"abc"[..]));
        assert_eq!(attribute(&padded[..14], IFLA_IFALIAS), None);
        assert_eq!(attribute(&[0; 8], IFLA_IFALIAS), None);
        assert_eq!(attribute(&[], IFLA_IFALIAS), None);
    }

    #[test]
    fn the_loopback_is_no_kept_interface() {
        assert_ne!(read("lo").unwrap(), crate::tun::MARK);
        assert!(read("no-such-link").is_err());
    }
}
