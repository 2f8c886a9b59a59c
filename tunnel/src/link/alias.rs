//! An interface's alias (IFLA_IFALIAS), by rtnetlink(7): neither an ioctl nor, in every mount namespace, sysfs has it.

use std::io;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use nix::net::if_::if_nametoindex;

use crate::rtnetlink::RouteSocket;

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
    let Some(RouteNetlinkMessage::NewLink(link)) =
        RouteSocket::open()?.ask(RouteNetlinkMessage::GetLink(link(name)?), 0)?
    else {
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
    RouteSocket::open()?
        .ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
        .map(drop)
}

fn link(name: &str) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(name)?;
    Ok(link)
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
