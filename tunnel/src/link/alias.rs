//! An interface's alias (IFLA_IFALIAS), by rtnetlink(7): neither an ioctl nor, in every mount namespace, sysfs has it.

use std::{io, os::fd::AsRawFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// An answer with all attributes of a link is far below.
const ROOM: usize = 64 * 1024;

/// What is known of an interface by its name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Label {
    /// Empty when it has none.
    pub(crate) alias: String,
    /// A tun has a carrier while a process holds it.
    pub(crate) carrier: bool,
}

/// Returns what an interface of this network namespace says of itself.
pub(crate) fn read(name: &str) -> io::Result<Label> {
    let Some(RouteNetlinkMessage::NewLink(link)) = ask(RouteNetlinkMessage::GetLink(link(name)?), 0)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut label = Label::default();
    for attribute in link.attributes {
        if let LinkAttribute::Carrier(carrier) = attribute {
            label.carrier = carrier != 0;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            label.alias = alias;
        }
    }
    Ok(label)
}

/// Gives an interface of this network namespace an alias.
pub(crate) fn set(name: &str, alias: &str) -> io::Result<()> {
    let mut link = link(name)?;
    link.attributes.push(LinkAttribute::IfAlias(alias.into()));
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

fn link(name: &str) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(name)?;
    Ok(link)
}

/// Sends one request and returns the kernel's answer to it; `None` when that is a mere acknowledgement.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(request));
    request.finalize();
    let mut buffer = vec![0; request.buffer_len().max(ROOM)];
    request.serialize(&mut buffer);

    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkRoute),
    )?;
    send(
        socket.as_raw_fd(),
        &buffer[..request.buffer_len()],
        MsgFlags::empty(),
    )?;
    let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = NetlinkMessage::deserialize(&buffer[..received]).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = &answer.payload
        && error.code.is_some()
    {
        return Err(error.to_io());
    }
    let NetlinkPayload::InnerMessage(answer) = answer.payload else {
        return Ok(None);
    };
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_no_kept_interface() {
        let lo = read("lo").unwrap();
        assert_ne!(lo.alias, crate::tun::MARK);
        assert!(read("no-such-link").is_err());
    }
}
