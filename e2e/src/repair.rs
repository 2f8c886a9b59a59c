//! What is deleted by hand comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{machine::Machine, wait::wait_until};

/// Two seconds, and the time that it takes to look.
pub const SOON_REPAIRED: Duration = Duration::from_millis(2500);

/// Deletes something that is there, which is as it was before within that time.
pub fn comes_back(
    machine: &Machine<'_>,
    what: &str,
    delete: &str,
    look: &str,
    within: Duration,
) -> Result<()> {
    let before = machine.sh(look).with_context(|| format!("{what}: before"))?;
    ensure!(!before.trim().is_empty(), "{what}: there is none");
    machine.sh(delete).with_context(|| format!("{what}: deleting"))?;
    let since = Instant::now();
    wait_until(&format!("{what} is back"), within, || {
        let now = machine.sh(look)?;
        ensure!(now == before, "after {:?}:\n{before}\n{now}", since.elapsed());
        Ok(true)
    })
}

/// What leaders and followers have alike comes back.
pub fn on_every_node(node: &Machine<'_>) -> Result<()> {
    // Through which leader depends on whom this node took for dead meanwhile.
    let routes = "ip -o route show table all proto 151 | sed -E 's/ via [^ ]+//' | sort";
    let a_route = "set -- $(ip -o route show table 51830 | grep -vE 'unreachable|blackhole' | head -1); ip route del $1 table 51830 dev $3 2>/dev/null || ip route del $1 table 51830";
    comes_back(node, "a route", a_route, routes, SOON_REPAIRED)?;
    let a_rule = "set -- $(ip rule | grep 'lookup 51830' | head -1); ip rule del pref ${1%:}";
    comes_back(
        node,
        "a rule",
        a_rule,
        "ip rule | grep -E 'lookup 5183[01]'",
        SOON_REPAIRED,
    )?;
    // In an order of their own: the kernel has sets and chains in that in which they were made.
    let table = "nft list table inet spanwire | sed -E '1d; $d; s/counter packets.*//' | \
        awk -v RS= -v ORS='\\0' 1 | sort -z | tr '\\0' '\\n'";
    comes_back(
        node,
        "the nft table",
        "nft delete table inet spanwire",
        table,
        SOON_REPAIRED,
    )?;
    // From one listing: rules have other handles when the table is filled again.
    let one_rule = "t=$(nft -a list table inet spanwire); \
        h=$(echo \"$t\" | grep -m1 -oE 'notrack.*handle [0-9]+|snat.*handle [0-9]+' | grep -oE '[0-9]+$'); \
        c=$(echo \"$t\" | awk -v h=\"$h\" '/^\tchain/{c=$2} $NF==h && c{print c; exit}'); \
        nft delete rule inet spanwire $c handle $h";
    comes_back(node, "a rule of the nft table", one_rule, table, SOON_REPAIRED)
}
