//! Reads the policies of IPsec, as `ip xfrm policy` shows them.

use std::{collections::BTreeSet, net::IpAddr};

use nix::libc::NETLINK_XFRM;
use spanwire_host::IpsecPolicy;
use spanwire_topology::Prefix;

use crate::netlink::{Message, NetlinkError, Request, Socket, attributes};

/// `XFRM_MSG_GETPOLICY` (include/uapi/linux/xfrm.h).
const GET_POLICY: u16 = 0x15;

/// Returns those for what leaves. A kernel without IPsec has none, and what cannot be read is none.
pub(crate) async fn policies() -> BTreeSet<IpsecPolicy> {
    let read = read().await;
    let messages = read.inspect_err(|error| tracing::debug!(%error, "IPsec's policies are not known"));
    messages.iter().flatten().filter_map(leaving).collect()
}

async fn read() -> Result<Vec<Message>, NetlinkError> {
    let request = Request {
        kind: GET_POLICY,
        flags: 0,
        body: Vec::new(),
    };
    Socket::open(NETLINK_XFRM)?.dump(&request).await
}

/// Returns what `struct xfrm_userpolicy_info` and its attributes say; `None` for what arrives, and for a policy that is for some
/// protocol, port, device or mark: packets of the mesh are any, and bear none.
fn leaving(message: &Message) -> Option<IpsecPolicy> {
    /// Lengths of that structure, and of `struct xfrm_user_tmpl`.
    const POLICY: usize = 168;
    const TEMPLATE: usize = 64;
    const OUT: u8 = 1;
    const BLOCK: u8 = 1;
    const XFRMA_TMPL: u16 = 5;
    const XFRMA_MARK: u16 = 21;
    const XFRMA_IF_ID: u16 = 31;

    let body = &message.body;
    let (direction, action) = (*body.get(160)?, *body.get(161)?);
    let is_narrow = |range: std::ops::Range<usize>| body.get(range).is_none_or(|bytes| bytes != [0; 8]);
    // Ports with their masks; protocol, padding and device; the user.
    let narrow = is_narrow(32..40) || is_narrow(44..52) || *body.get(52..56)? != [0; 4];
    if direction != OUT || narrow {
        return None;
    }
    let family = u16::from_ne_bytes(body.get(40..42)?.try_into().ok()?);
    let network = |at: usize, length: u8| Prefix::new(address(family, body.get(at..at + 16)?)?, length).ok();
    let mut takes = action == BLOCK;
    for (kind, value) in attributes(body.get(POLICY..)?) {
        match kind {
            // With an optional one (`level use`) packets may pass as they are.
            XFRMA_TMPL => takes |= value.chunks_exact(TEMPLATE).any(|template| template[50] == 0),
            XFRMA_MARK if value.get(..4)? != [0; 4] => return None,
            XFRMA_IF_ID if value != [0; 4] => return None,
            _ => {}
        }
    }
    Some(IpsecPolicy {
        priority: u32::from_ne_bytes(body.get(152..156)?.try_into().ok()?),
        from: network(16, *body.get(43)?)?,
        to: network(0, *body.get(42)?)?,
        takes,
    })
}

fn address(family: u16, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        nix::libc::AF_INET => Some(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?.into()),
        nix::libc::AF_INET6 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy for what leaves from 10.1.0.0/16 to 10.2.3.0/24, after changes to its bytes, with these attributes.
    fn policy(changes: &[(usize, u8)], with: &[(u16, &[u8])]) -> Option<(String, bool)> {
        let mut body = vec![0; 168];
        body[0..4].copy_from_slice(&[10, 2, 3, 0]);
        body[16..20].copy_from_slice(&[10, 1, 0, 0]);
        body[40..42].copy_from_slice(&2_u16.to_ne_bytes());
        (body[42], body[43], body[160]) = (24, 16, 1);
        body[152..156].copy_from_slice(&7_u32.to_ne_bytes());
        for (at, byte) in changes {
            body[*at] = *byte;
        }
        for (kind, value) in with {
            let length = u16::try_from(4 + value.len()).unwrap();
            body.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
            body.extend_from_slice(value);
        }
        let IpsecPolicy {
            priority,
            from,
            to,
            takes,
        } = leaving(&Message::new(0x13, body))?;
        Some((format!("{priority} {from} {to}"), takes))
    }

    #[test]
    fn a_policy_takes_what_it_wraps_or_blocks_and_lets_the_rest_pass() {
        let of = |takes| Some(("7 10.1.0.0/16 10.2.3.0/24".to_owned(), takes));
        let template = [0; 64];
        let mut optional = template;
        optional[50] = 1;
        assert_eq!(policy(&[], &[]), of(false));
        assert_eq!(policy(&[(161, 1)], &[]), of(true));
        assert_eq!(policy(&[], &[(5, &template)]), of(true));
        assert_eq!(policy(&[], &[(5, &optional)]), of(false));
        assert_eq!(policy(&[], &[(5, &[optional, template].concat())]), of(true));
        assert_eq!(policy(&[], &[(21, &[0; 8]), (5, &template)]), of(true));
    }

    #[test]
    fn what_is_for_some_packets_only_or_for_what_arrives_is_left_out() {
        for at in [33, 35, 37, 39, 44, 48, 52] {
            assert_eq!(policy(&[(at, 6)], &[]), None, "{at}");
        }
        for direction in [0, 2] {
            assert_eq!(policy(&[(160, direction)], &[]), None, "{direction}");
        }
        assert_eq!(policy(&[], &[(21, &[1, 0, 0, 0, 0xff, 0, 0, 0])]), None, "a mark");
        assert_eq!(policy(&[], &[(31, &[1, 0, 0, 0])]), None, "a device of its own");
        assert_eq!(policy(&[(40, 9)], &[]), None, "of no family");
        assert!(leaving(&Message::new(0x13, vec![0; 160])).is_none());
    }
}
