use spanwire_host::{Rule, RuleAction, RuleSelector, Step, TableId};
use spanwire_kernel::ApplyError;
use spanwire_topology::Family;

use crate::lab::{json, lab, link, p, run};

fn rules(family: Family) -> Vec<Rule> {
    let (from, to) = match family {
        Family::V4 => ("10.0.0.0/8", "192.0.2.1"),
        Family::V6 => ("fd00::/8", "2001:db8::1"),
    };
    let none = RuleSelector::default;
    let selectors = [
        (none(), RuleAction::Nop),
        (
            RuleSelector {
                iif: Some(link("sw0")),
                ..none()
            },
            RuleAction::Lookup(TableId(51_831)),
        ),
        (
            RuleSelector {
                mark: Some((0x2000, 0x2000, true)),
                ..none()
            },
            RuleAction::Lookup(TableId(51_830)),
        ),
        (
            RuleSelector {
                mark: Some((0, 0x2000, false)),
                ..none()
            },
            RuleAction::Lookup(TableId(100)),
        ),
        (
            RuleSelector {
                from: Some(p(from)),
                to: Some(p(to)),
                ..none()
            },
            RuleAction::Goto(32_766),
        ),
        (
            RuleSelector {
                to: Some(p(to)),
                protocol: Some(6),
                dport: Some(6443),
                ..none()
            },
            RuleAction::Goto(2_115),
        ),
        (
            RuleSelector {
                protocol: Some(17),
                sport: Some(53),
                ..none()
            },
            RuleAction::Lookup(TableId(254)),
        ),
    ];
    (2_100..)
        .zip(selectors)
        .map(|(priority, (selector, action))| Rule {
            family,
            priority,
            selector,
            action,
        })
        .collect()
}

#[test]
fn every_rule_is_read_as_it_was_added_and_goes_when_deleted() {
    lab(async |lab| {
        let all: Vec<Rule> = [Family::V4, Family::V6].into_iter().flat_map(rules).collect();
        let add = || all.iter().cloned().map(Step::AddRule).collect();
        lab.apply(add()).await;
        lab.apply(add()).await;
        assert_eq!(lab.read().await.rules, all.iter().cloned().collect());
        assert_eq!(json("ip -j rule").as_array().unwrap().len(), 3 + all.len() / 2);

        for (index, rule) in all.iter().enumerate() {
            lab.apply(vec![
                Step::DeleteRule(rule.clone()),
                Step::DeleteRule(rule.clone()),
            ])
            .await;
            assert_eq!(lab.read().await.rules, all[index + 1..].iter().cloned().collect());
        }
    });
}

#[test]
fn ip_shows_the_rules_that_were_asked_for() {
    lab(async |lab| {
        lab.apply(rules(Family::V4).into_iter().map(Step::AddRule).collect())
            .await;
        let listed = run("ip rule | sed -n '/^21/p'").replace('\t', " ");
        assert_eq!(
            listed.lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                "2100: from all nop proto 151",
                "2101: from all iif sw0 [detached] lookup 51831 proto 151",
                "2102: not from all fwmark 0x2000/0x2000 lookup 51830 proto 151",
                "2103: from all fwmark 0/0x2000 lookup 100 proto 151",
                "2104: from 10.0.0.0/8 to 192.0.2.1 goto 32766 proto 151",
                "2105: from all to 192.0.2.1 ipproto tcp dport 6443 goto 2115 [unresolved] proto 151",
                "2106: from all ipproto udp sport 53 lookup main proto 151",
            ]
        );
    });
}

#[test]
fn rules_of_others_are_not_seen_and_stay_inside_and_outside_of_the_band() {
    lab(async |lab| {
        run("ip rule add from 10.7.0.0/16 lookup 7 pref 2100");
        run("ip rule add from 10.8.0.0/16 lookup 8 pref 2099");
        run("ip rule add from 10.8.0.0/16 lookup 8 pref 2116 proto 151");
        let before = run("ip rule; ip -6 rule");

        let own = rules(Family::V4);
        lab.apply(own.iter().cloned().map(Step::AddRule).collect()).await;
        assert_eq!(lab.read().await.rules, own.iter().cloned().collect());
        lab.apply(own.into_iter().map(Step::DeleteRule).collect()).await;

        assert_eq!(run("ip rule; ip -6 rule"), before);
    });
}

#[test]
fn an_inverted_mark_with_company_is_refused_before_it_means_something_else() {
    lab(async |lab| {
        let rule = Rule {
            family: Family::V4,
            priority: 2_100,
            selector: RuleSelector {
                mark: Some((1, 1, true)),
                iif: Some(link("sw0")),
                ..RuleSelector::default()
            },
            action: RuleAction::Nop,
        };
        let report = lab.kernel.apply(vec![Step::AddRule(rule)]).await;
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::Inexpressible)]),
            "{report:?}"
        );
    });
}
