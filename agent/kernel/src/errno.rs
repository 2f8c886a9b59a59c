//! What the kernel's error numbers mean for an operation, decided here and nowhere else.

use nix::errno::Errno;

/// An operation that the kernel was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    DeleteLink,
    ChangeLink,
    AddAddress,
    DeleteAddress,
    SetRoute,
    DeleteRoute,
    AddRule,
    DeleteRule,
    ReadTable,
    AddWireGuard,
    AddVxlan,
    SetEntry,
    DeleteEntry,
}

/// The class of an error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrnoClass {
    /// It is already as requested.
    Settled,
    /// This kernel cannot do it at all.
    Unsupported,
    /// It failed.
    Failed,
}

/// Returns what the refusal of `operation` with `errno` means.
pub(crate) fn classify(operation: Operation, errno: Errno) -> ErrnoClass {
    match (operation, errno) {
        // rtnl_dellink: no such device. Addresses go with their device, so theirs are gone too (inet_rtm_deladdr).
        (Operation::DeleteLink | Operation::DeleteAddress, Errno::ENODEV)
        // inet_rtm_deladdr, inet6_addr_del: the device has no such address.
        | (Operation::DeleteAddress, Errno::EADDRNOTAVAIL)
        // inet_rtm_newaddr, inet6_addr_add: the device has the address.
        | (Operation::AddAddress, Errno::EEXIST)
        // fib_table_delete, ip6_route_del: no such route, or no such table. Routes vanish with their device.
        | (Operation::DeleteRoute, Errno::ESRCH)
        // fib_nl_newrule: a rule that says the same stands at the same priority.
        | (Operation::AddRule, Errno::EEXIST)
        // fib_nl_delrule: no such rule.
        | (Operation::DeleteRule, Errno::ENOENT)
        // neigh_delete, vxlan_fdb_delete: no such entry.
        | (Operation::DeleteEntry, Errno::ENOENT)
        // Strict dumps of a routing table that was never used (inet_dump_fib, inet6_dump_fib).
        | (Operation::ReadTable, Errno::ENOENT)
        // Reading IPv6 where it is switched off at boot.
        | (Operation::ReadTable | Operation::DeleteRoute | Operation::DeleteRule, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) => ErrnoClass::Settled,
        // rtnl_newlink: unknown device type, also after the kernel tried to load a module.
        (Operation::AddWireGuard | Operation::AddVxlan, Errno::EOPNOTSUPP) => ErrnoClass::Unsupported,
        (
            Operation::DeleteLink
            | Operation::ChangeLink
            | Operation::AddAddress
            | Operation::DeleteAddress
            | Operation::SetRoute
            | Operation::DeleteRoute
            | Operation::AddRule
            | Operation::DeleteRule
            | Operation::ReadTable
            | Operation::AddWireGuard
            | Operation::AddVxlan
            | Operation::SetEntry
            | Operation::DeleteEntry,
            _,
        ) => ErrnoClass::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_is_deleted_and_there_is_added_and_nothing_else_is_forgiven() {
        let settled = [
            (Operation::DeleteLink, Errno::ENODEV),
            (Operation::DeleteAddress, Errno::ENODEV),
            (Operation::DeleteAddress, Errno::EADDRNOTAVAIL),
            (Operation::AddAddress, Errno::EEXIST),
            (Operation::DeleteRoute, Errno::ESRCH),
            (Operation::DeleteRoute, Errno::EAFNOSUPPORT),
            (Operation::DeleteRoute, Errno::EOPNOTSUPP),
            (Operation::AddRule, Errno::EEXIST),
            (Operation::DeleteRule, Errno::ENOENT),
            (Operation::DeleteEntry, Errno::ENOENT),
            (Operation::DeleteRule, Errno::EAFNOSUPPORT),
            (Operation::DeleteRule, Errno::EOPNOTSUPP),
            (Operation::ReadTable, Errno::ENOENT),
            (Operation::ReadTable, Errno::EAFNOSUPPORT),
            (Operation::ReadTable, Errno::EOPNOTSUPP),
        ];
        let operations = [
            Operation::DeleteLink,
            Operation::ChangeLink,
            Operation::AddAddress,
            Operation::DeleteAddress,
            Operation::SetRoute,
            Operation::DeleteRoute,
            Operation::AddRule,
            Operation::DeleteRule,
            Operation::ReadTable,
            Operation::AddWireGuard,
            Operation::AddVxlan,
            Operation::SetEntry,
            Operation::DeleteEntry,
        ];
        for operation in operations {
            for errno in (1..134).map(Errno::from_raw) {
                let expected = if settled.contains(&(operation, errno)) {
                    ErrnoClass::Settled
                } else if matches!(operation, Operation::AddWireGuard | Operation::AddVxlan)
                    && errno == Errno::EOPNOTSUPP
                {
                    ErrnoClass::Unsupported
                } else {
                    ErrnoClass::Failed
                };
                assert_eq!(classify(operation, errno), expected, "{operation:?} {errno}");
            }
        }
    }
}
