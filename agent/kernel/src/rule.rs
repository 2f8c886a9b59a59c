//! Routing policy rules.
//!
//! A rule can be inverted only as a whole (`FIB_RULE_INVERT`), so an inverted mark stands alone.

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_route::{
    route::RouteProtocol,
    rule::{RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage, RulePortRange},
};
use nix::libc::{NLM_F_CREATE, NLM_F_EXCL, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE};
use spanwire_host::{LinkName, OtherRule, Rule, RuleAction, RuleSelector, TableId};
use spanwire_topology::{Family, Prefix};

use crate::{
    address::family,
    errno::{ErrnoClass, Operation, classify},
    netlink::{Message, NetlinkError, Request, Socket},
};

/// A rule as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedRule {
    pub(crate) family: Family,
    pub(crate) priority: u32,
    pub(crate) protocol: u8,
    /// The rule in our terms; `None` when it says what ours never do.
    pub(crate) rule: Option<Rule>,
    /// The rule as one of another program; `None` where it ends no look-up that could concern the mesh.
    pub(crate) other: Option<OtherRule>,
}

/// Reads all rules of a family.
pub(crate) async fn rules(socket: &mut Socket, of: Family) -> Result<Vec<ObservedRule>, NetlinkError> {
    let mut message = RuleMessage::default();
    message.header.family = family(of);
    match socket.dump(&Request::new(RTM_GETRULE, 0, &message)).await {
        Err(NetlinkError::Refused(refusal))
            if classify(Operation::ReadTable, refusal.errno) == ErrnoClass::Settled =>
        {
            Ok(Vec::new())
        }
        other => Ok(other?.iter().filter_map(|message| observe(message, of)).collect()),
    }
}

fn observe(message: &Message, of: Family) -> Option<ObservedRule> {
    let message: RuleMessage = message.parse()?;
    let (mut priority, mut protocol) = (0, 0);
    for attribute in &message.attributes {
        if let RuleAttribute::Priority(found) = attribute {
            priority = *found;
        } else if let RuleAttribute::Protocol(found) = attribute {
            protocol = u8::from(*found);
        }
    }
    Some(ObservedRule {
        family: of,
        priority,
        protocol,
        rule: ours(&message, of, priority),
        other: other(&message, of, (priority, protocol)),
    })
}

fn ours(message: &RuleMessage, of: Family, priority: u32) -> Option<Rule> {
    let mut selector = RuleSelector::default();
    let (mut table, mut goto, mut mark, mut mask) = (u32::from(message.header.table), 0, 0, 0);
    for attribute in &message.attributes {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "whatever else a rule says, ours do not"
        )]
        match attribute {
            RuleAttribute::Table(found) => table = *found,
            RuleAttribute::Goto(found) => goto = *found,
            RuleAttribute::FwMark(found) => mark = *found,
            RuleAttribute::FwMask(found) => mask = *found,
            RuleAttribute::Iifname(name) => selector.iif = Some(LinkName::new(name)?),
            RuleAttribute::Source(address) => {
                selector.from = Some(Prefix::new(*address, message.header.src_len).ok()?);
            }
            RuleAttribute::Destination(address) => {
                selector.to = Some(Prefix::new(*address, message.header.dst_len).ok()?);
            }
            RuleAttribute::IpProtocol(protocol) => {
                selector.protocol = Some(u8::try_from(i32::from(*protocol)).ok()?);
            }
            RuleAttribute::SourcePortRange(range) => selector.sport = Some(one(*range)?),
            RuleAttribute::DestinationPortRange(range) => selector.dport = Some(one(*range)?),
            // No suppression: every rule has -1.
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::Priority(_)
            | RuleAttribute::Protocol(_) => {}
            RuleAttribute::Other(other) if is_whole_port(other) => {}
            _ => return None,
        }
    }
    let inverted = message.header.flags.contains(RuleFlags::Invert);
    if mask != 0 {
        selector.mark = Some((mark, mask, inverted));
    }
    if inverted && !invertible(&selector) {
        return None;
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the kernel's actions we use three"
    )]
    let action = match message.header.action {
        Action::ToTable => RuleAction::Lookup(TableId(table)),
        Action::Goto => RuleAction::Goto(goto),
        Action::Nop => RuleAction::Nop,
        _ => return None,
    };
    Some(Rule {
        family: of,
        priority,
        selector,
        action,
    })
}

/// Returns what a rule of another program takes, at the least; what else it selects by only narrows that.
fn other(message: &RuleMessage, of: Family, (priority, protocol): (u32, u8)) -> Option<OtherRule> {
    /// The routing table `local`, which has the addresses of the machine alone.
    const LOCAL: u32 = 255;
    let mut table = u32::from(message.header.table);
    let mut rule = OtherRule {
        family: of,
        priority,
        protocol,
        from: None,
        to: None,
        iif: None,
        mark: None,
        inverted: message.header.flags.contains(RuleFlags::Invert),
        table: None,
        forbids: matches!(
            message.header.action,
            Action::Blackhole | Action::Unreachable | Action::Prohibit
        ),
    };
    let (mut mark, mut mask) = (0, 0);
    for attribute in &message.attributes {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the others only narrow what it takes"
        )]
        match attribute {
            RuleAttribute::Table(found) => table = *found,
            RuleAttribute::FwMark(found) => mark = *found,
            RuleAttribute::FwMask(found) => mask = *found,
            RuleAttribute::Iifname(name) => rule.iif = LinkName::new(name),
            RuleAttribute::Source(address) => rule.from = Prefix::new(*address, message.header.src_len).ok(),
            RuleAttribute::Destination(address) => {
                rule.to = Prefix::new(*address, message.header.dst_len).ok()
            }
            // Sockets that are bound to a device, and devices of a VRF.
            RuleAttribute::Oifname(_) => return None,
            RuleAttribute::L3MDev(true) => return None,
            _ => {}
        }
    }
    rule.mark = (mask != 0).then_some((mark, mask));
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else it does ends the look-up"
    )]
    match message.header.action {
        Action::Nop => None,
        Action::ToTable if table == LOCAL => None,
        Action::ToTable => Some(OtherRule {
            table: Some(TableId(table)),
            ..rule
        }),
        _ => Some(rule),
    }
}

/// Whether an attribute is the mask of a port with all its bits, which Linux dumps from 6.14 on (FRA_SPORT_MASK,
/// FRA_DPORT_MASK).
fn is_whole_port(attribute: &DefaultNla) -> bool {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    matches!(attribute.kind(), 28 | 29) && value == [0xff, 0xff]
}

fn one(range: RulePortRange) -> Option<u16> {
    (range.start == range.end).then_some(range.start)
}

/// Whether nothing but the mark selects, so that inverting the rule inverts the mark.
fn invertible(selector: &RuleSelector) -> bool {
    let only = RuleSelector {
        mark: selector.mark,
        ..RuleSelector::default()
    };
    selector.mark.is_some() && *selector == only
}

/// Whether the kernel can say this rule.
pub(crate) fn expressible(rule: &Rule) -> bool {
    !matches!(rule.selector.mark, Some((_, _, true))) || invertible(&rule.selector)
}

/// Returns the request that adds a rule.
pub(crate) fn add(protocol: u8, rule: &Rule) -> Request {
    Request::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &message(protocol, rule))
}

/// Returns the request that removes a rule.
pub(crate) fn delete(protocol: u8, rule: &Rule) -> Request {
    Request::new(RTM_DELRULE, 0, &message(protocol, rule))
}

fn message(protocol: u8, rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let selector = &rule.selector;
    message.header.family = family(rule.family);
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(RouteProtocol::from(protocol)),
    ];
    let add = &mut message.attributes;
    match rule.action {
        RuleAction::Lookup(table) => {
            message.header.action = Action::ToTable;
            add.push(RuleAttribute::Table(table.0));
        }
        RuleAction::Goto(priority) => {
            message.header.action = Action::Goto;
            add.push(RuleAttribute::Goto(priority));
        }
        RuleAction::Nop => message.header.action = Action::Nop,
    }
    if let Some((value, mask, inverted)) = selector.mark {
        add.extend([RuleAttribute::FwMark(value), RuleAttribute::FwMask(mask)]);
        if inverted {
            message.header.flags = RuleFlags::Invert;
        }
    }
    if let Some(from) = selector.from {
        message.header.src_len = from.length();
        add.push(RuleAttribute::Source(from.address()));
    }
    if let Some(to) = selector.to {
        message.header.dst_len = to.length();
        add.push(RuleAttribute::Destination(to.address()));
    }
    let port = |port: u16| RulePortRange {
        start: port,
        end: port,
    };
    add.extend(
        selector
            .iif
            .iter()
            .map(|name| RuleAttribute::Iifname(name.to_string())),
    );
    add.extend(
        selector
            .protocol
            .map(|number| RuleAttribute::IpProtocol(i32::from(number).into())),
    );
    add.extend(
        selector
            .sport
            .map(|number| RuleAttribute::SourcePortRange(port(number))),
    );
    add.extend(
        selector
            .dport
            .map(|number| RuleAttribute::DestinationPortRange(port(number))),
    );
    message
}
