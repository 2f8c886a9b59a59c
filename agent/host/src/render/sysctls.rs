use std::{collections::BTreeMap, net::IpAddr};

use spanwire_topology::{Family, Plan, Role};

use crate::{HostFacts, LinkName, Sysctl, resolve::Resolved};

/// Returns the kernel settings without which packets of the mesh would be dropped.
///
/// rp_filter takes the larger of `all` and the device's own value (ip-sysctl.rst), so 2, loose, on the device is loose
/// whatever `all` says. The devices of the hop need it since a leader hears its followers' LAN addresses there, and a
/// follower remote ones before it has a route to them.
///
/// Policies of IPsec (ip-xfrm(8)) take packets behind routing, whatever device they are routed to, and drop what arrives without
/// it. Not on Spanwire's own devices: `disable_xfrm` is for what leaves, which IPv6 does not have, and `disable_policy` for what arrives.
///
/// Linux that forwards IPv6 is deaf to router advertisements where `accept_ra` is 1, and forgets the default routes that it
/// has learnt from them (`addrconf_fixup_forwarding`, net/ipv6/addrconf.c). So IPv6 is forwarded only where IPv6 is routed,
/// and where it was not forwarded before, devices that heed advertisements go on to do so with `accept_ra` 2, which
/// [`diff`](crate::diff()) sets first.
pub(super) fn sysctls(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> BTreeMap<Sysctl, String> {
    let mut sysctls = BTreeMap::new();
    let mut set = |sysctl: Sysctl, value: &str| {
        sysctls.insert(sysctl, value.to_owned());
    };
    for link in &resolved.hops {
        set(Sysctl(format!("net/ipv4/conf/{link}/rp_filter")), "2");
    }
    let v6 = facts.tunnels(Family::V6) && resolved.uses(Family::V6);
    if resolved.underlay.is_some() {
        past_ipsec(&facts.owned.hop_link, v6, &mut set);
    }
    // The device keeps what was the default when it was made.
    if resolved.underlay.is_some() && v6 {
        let hop = &facts.owned.hop_link;
        set(Sysctl(format!("net/ipv6/conf/{hop}/disable_ipv6")), "0");
    }
    set(Sysctl("net/ipv4/conf/all/src_valid_mark".to_owned()), "1");
    if !matches!(plan.role, Role::Leader(_)) {
        return sysctls;
    }
    set(Sysctl("net/ipv4/ip_forward".to_owned()), "1");
    if let (Some(tunnel), true) = (&plan.tunnel, facts.public_key.is_some()) {
        let own = &facts.owned.link;
        set(Sysctl(format!("net/ipv4/conf/{own}/rp_filter")), "2");
        past_ipsec(own, v6, &mut set);
        // The device keeps what was the default when it was made.
        let overlay = tunnel.addresses.iter().any(IpAddr::is_ipv6);
        if overlay && facts.tunnels(Family::V6) {
            set(Sysctl(format!("net/ipv6/conf/{own}/disable_ipv6")), "0");
        }
    }
    if !resolved.forwards(plan, Family::V6) {
        return sysctls;
    }
    set(Sysctl::ipv6_forwarding(), "1");
    if facts.ipv6_forwarded {
        return sysctls;
    }
    // Once it is 2, an inventory no longer says that it is 1, and nothing asks for it; no setting is ever reset.
    for (name, _) in facts
        .links
        .iter()
        .filter(|(_, link)| link.advertisements && !link.cni)
    {
        set(Sysctl(format!("net/ipv6/conf/{name}/accept_ra")), "2");
    }
    sysctls
}

fn past_ipsec(own: &LinkName, v6: bool, set: &mut impl FnMut(Sysctl, &str)) {
    for name in ["disable_xfrm", "disable_policy"] {
        set(Sysctl(format!("net/ipv4/conf/{own}/{name}")), "1");
    }
    if v6 {
        set(Sysctl(format!("net/ipv6/conf/{own}/disable_policy")), "1");
    }
}
