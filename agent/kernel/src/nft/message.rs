//! Messages to nf_tables (include/uapi/linux/netfilter/nf_tables.h).

use nix::libc::NFNL_SUBSYS_NFTABLES;

use crate::netlink::Request;

/// `NFPROTO_INET` of linux/netfilter.h, the family of Spanwire's table.
pub(crate) const INET: u8 = 1;

/// Marks attributes that hold others (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// Returns a request about objects of a family, 0 for all; `kind` is one of libc's `NFT_MSG_*`.
pub(crate) fn request(kind: i32, family: u8, attributes: &[u8]) -> Request {
    // `struct nfgenmsg`: the family, the version, and a number that is for batches.
    let mut body = vec![family, 0, 0, 0];
    body.extend_from_slice(attributes);
    Request {
        kind: u16::try_from(NFNL_SUBSYS_NFTABLES << 8 | kind).unwrap_or_default(),
        flags: 0,
        body,
    }
}

/// Adds an attribute.
pub(crate) fn push(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Adds an attribute that holds others.
pub(crate) fn push_nested(to: &mut Vec<u8>, kind: u16, attributes: &[u8]) {
    push(to, kind | NESTED, attributes);
}

/// Adds a name.
pub(crate) fn push_name(to: &mut Vec<u8>, kind: u16, name: &str) {
    push(to, kind, &[name.as_bytes(), &[0]].concat());
}
