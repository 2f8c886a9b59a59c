//! What the firewalls of a node do with a packet, by the agent's reading of their rules.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ruling {
    /// No chain drops it.
    Accepted,
    /// One drops or rejects it.
    Dropped,
    /// That depends on what is not known of it, or chains cannot be read; so does what a newer agent says.
    #[serde(other)]
    Unknown,
}

/// What an agent says of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// What becomes of the packet.
    pub verdict: Ruling,
    /// The rule or policy that decides, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The hook at which it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The family of its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Its chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The handle of the rule; none of a policy, and of iptables-legacy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u64>,
    /// It is one of iptables-legacy.
    #[serde(default)]
    pub legacy: bool,
    /// It is Spanwire's.
    #[serde(default)]
    pub own: bool,
    /// Why nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Firewall {
    /// Whether the packet ends here.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.verdict == Ruling::Dropped
    }

    /// Whether a rule decides by what is not known of the packet.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.verdict == Ruling::Unknown && self.why.is_none()
    }

    /// Returns what to do about a packet that ends at this node.
    #[must_use]
    pub fn remedy(&self, node: &str) -> String {
        let by = self.by.as_deref().unwrap_or("its firewall");
        if self.own {
            return format!(
                "the firewall of {node} drops it by {by}, which is Spanwire's: its sender has no business with its destination, or it \
                 comes or leaves by a way that is none of the mesh; `kubectl describe meshnode {node}` says what is in the way"
            );
        }
        let show = match (&self.family, &self.table, &self.chain) {
            (Some(family), Some(_), Some(chain)) if self.legacy => {
                let program = if family == "ip6" {
                    "ip6tables-legacy"
                } else {
                    "iptables-legacy"
                };
                format!("`{program} -S {chain}`")
            }
            (Some(family), Some(table), Some(chain)) => {
                format!("`nft -a list chain {family} {table} {chain}`")
            }
            _ => "`nft -a list ruleset`".to_owned(),
        };
        format!(
            "the firewall of {node} drops it by {by}: {show} on {node} shows it; have the program that made it accept packets of the \
             mesh, and see what `kubectl describe meshnode {node}` says of it"
        )
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("a rule");
        match (self.verdict, &self.why) {
            (Ruling::Accepted, _) => f.write_str("accepted"),
            (Ruling::Dropped, _) => write!(f, "dropped by {by}"),
            (Ruling::Unknown, Some(why)) => write!(f, "not known: {why}"),
            (Ruling::Unknown, None) => write!(f, "not known: {by} decides by what the addresses do not say"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As agents answer it.
    fn read(text: &str) -> Firewall {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_an_agent_answers_is_said_in_words() {
        let policy = read(
            r#"{"verdict": "dropped", "by": "the policy of the chain FORWARD (ip filter)", "hook": "forward", "family": "ip",
                "table": "filter", "chain": "FORWARD", "rule": null, "legacy": false, "own": false, "later": 1}"#,
        );
        assert!(policy.drops());
        assert_eq!(
            policy.to_string(),
            "dropped by the policy of the chain FORWARD (ip filter)"
        );
        let remedy = policy.remedy("a1");
        assert!(
            remedy.contains("`nft -a list chain ip filter FORWARD` on a1"),
            "{remedy}"
        );
        let legacy = Firewall {
            legacy: true,
            ..policy.clone()
        };
        assert!(legacy.remedy("a1").contains("`iptables-legacy -S FORWARD`"));
        let own = Firewall { own: true, ..policy };
        assert!(own.remedy("a1").contains("which is Spanwire's"));
        for (text, said) in [
            (r#"{"verdict": "accepted"}"#, "accepted"),
            (
                r#"{"verdict": "unknown", "why": "no netlink"}"#,
                "not known: no netlink",
            ),
            (
                r#"{"verdict": "unknown", "by": "rule 7 of the chain INPUT (ip filter)"}"#,
                "not known: rule 7 of the chain INPUT (ip filter) decides by what the addresses do not say",
            ),
            (
                r#"{"verdict": "of a later version"}"#,
                "not known: a rule decides by what the addresses do not say",
            ),
        ] {
            let firewall = read(text);
            assert!(!firewall.drops(), "{text}");
            assert_eq!(firewall.is_in_doubt(), said.ends_with("do not say"), "{text}");
            assert_eq!(firewall.to_string(), said);
        }
    }
}
