//! What the kernel's error numbers mean for what was asked, decided here and nowhere else.

use nix::errno::Errno;

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    DeleteLink,
    ChangeLink,
    AddAddress,
    DeleteAddress,
    SetRoute,
    DeleteRoute,
    AddRule,
    DeleteRule,
    ReadTable,
    MakeWireGuard,
}

/// What a refusal amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It is already as wished.
    Settled,
    /// This kernel cannot do it at all.
    Unsupported,
    /// It failed.
    Failed,
}

/// What the refusal of `wish` with `errno` means.
pub(crate) fn meaning(wish: Wish, errno: Errno) -> Meaning {
    match (wish, errno) {
        // rtnl_dellink: no such device. Addresses go with their device, so theirs are gone too (inet_rtm_deladdr).
        (Wish::DeleteLink | Wish::DeleteAddress, Errno::ENODEV)
        // inet_rtm_deladdr, inet6_addr_del: the device has no such address.
        | (Wish::DeleteAddress, Errno::EADDRNOTAVAIL)
        // inet_rtm_newaddr, inet6_addr_add: the device has the address.
        | (Wish::AddAddress, Errno::EEXIST)
        // fib_table_delete, ip6_route_del: no such route, or no such table. Routes vanish with their device.
        | (Wish::DeleteRoute, Errno::ESRCH)
        // fib_nl_newrule: a rule that says the same stands at the same priority.
        | (Wish::AddRule, Errno::EEXIST)
        // fib_nl_delrule: no such rule.
        | (Wish::DeleteRule, Errno::ENOENT)
        // Strict dumps of a routing table that nobody has used yet (inet_dump_fib, inet6_dump_fib).
        | (Wish::ReadTable, Errno::ENOENT)
        // Reading IPv6 where it is switched off at boot.
        | (Wish::ReadTable | Wish::DeleteRoute | Wish::DeleteRule, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) => Meaning::Settled,
        // rtnl_newlink: unknown device type, also after the kernel tried to load a module.
        (Wish::MakeWireGuard, Errno::EOPNOTSUPP) => Meaning::Unsupported,
        (
            Wish::DeleteLink
            | Wish::ChangeLink
            | Wish::AddAddress
            | Wish::DeleteAddress
            | Wish::SetRoute
            | Wish::DeleteRoute
            | Wish::AddRule
            | Wish::DeleteRule
            | Wish::ReadTable
            | Wish::MakeWireGuard,
            _,
        ) => Meaning::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_is_deleted_and_there_is_added_and_nothing_else_is_forgiven() {
        let settled = [
            (Wish::DeleteLink, Errno::ENODEV),
            (Wish::DeleteAddress, Errno::ENODEV),
            (Wish::DeleteAddress, Errno::EADDRNOTAVAIL),
            (Wish::AddAddress, Errno::EEXIST),
            (Wish::DeleteRoute, Errno::ESRCH),
            (Wish::DeleteRoute, Errno::EAFNOSUPPORT),
            (Wish::DeleteRoute, Errno::EOPNOTSUPP),
            (Wish::AddRule, Errno::EEXIST),
            (Wish::DeleteRule, Errno::ENOENT),
            (Wish::DeleteRule, Errno::EAFNOSUPPORT),
            (Wish::DeleteRule, Errno::EOPNOTSUPP),
            (Wish::ReadTable, Errno::ENOENT),
            (Wish::ReadTable, Errno::EAFNOSUPPORT),
            (Wish::ReadTable, Errno::EOPNOTSUPP),
        ];
        let wishes = [
            Wish::DeleteLink,
            Wish::ChangeLink,
            Wish::AddAddress,
            Wish::DeleteAddress,
            Wish::SetRoute,
            Wish::DeleteRoute,
            Wish::AddRule,
            Wish::DeleteRule,
            Wish::ReadTable,
            Wish::MakeWireGuard,
        ];
        for wish in wishes {
            for errno in (1..134).map(Errno::from_raw) {
                let expected = if settled.contains(&(wish, errno)) {
                    Meaning::Settled
                } else if (wish, errno) == (Wish::MakeWireGuard, Errno::EOPNOTSUPP) {
                    Meaning::Unsupported
                } else {
                    Meaning::Failed
                };
                assert_eq!(meaning(wish, errno), expected, "{wish:?} {errno}");
            }
        }
    }
}
