//! The firewalls of others, as far as packets that are forwarded meet them in nf_tables.
//!
//! Base chains at the forward hook are found by netlink, which costs little where kube-proxy has thousands of others; their
//! rules, and those of the chains that they lead to, are listed by `nft -j`. Both are done only when the generation number
//! of nf_tables has moved. What cannot be listed is taken to decide nothing.
//!
//! Rules of Spanwire's in such a chain carry its table's name as their comment. They are written so that iptables-nft lists
//! and keeps them as any of its own (`-A FORWARD -i spanwire0 -m comment --comment spanwire -j ACCEPT`).

mod listing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    sync::Arc,
};

use nix::libc::{NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN};
use spanwire_host::{ChainName, Filter, FilterRule, Match, Pass, TableFamily, Verdict};

use crate::{
    error::NftError,
    netlink::{Message, NetlinkError, Request},
    nft::{Nft, nft, succeed},
    watched::{HEADER, Subject, Watched},
};

/// More chains than firewalls have between their base chain and a rule that ends all; what lies beyond is not looked at,
/// since each costs a call of `nft`.
const CHAINS: usize = 32;

/// Whether `nft` takes the name without quotes, which it does not know for chains.
fn nameable(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(plain)
}

impl Nft {
    /// Returns the base chains that were found last.
    pub(crate) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// Returns what others filter forwarded packets by.
    pub(crate) async fn filters(&mut self) -> Arc<Vec<Filter>> {
        let generation = self.generation().await.ok();
        if let (Some((known, filters)), Some(generation)) = (&self.filters, generation)
            && *known == generation
        {
            return Arc::clone(filters);
        }
        match self.read_filters().await {
            Ok(filters) => {
                let filters = Arc::new(filters);
                self.filters = generation.map(|generation| (generation, Arc::clone(&filters)));
                filters
            }
            Err(error) => {
                // A table that has just gone, or a version of nft that lacks what a host's own has.
                // What was found last holds until it can be listed again: to take none for granted would take away what lets
                // the mesh through.
                tracing::debug!(error, "the firewalls of others cannot be listed");
                let known = self.filters.as_ref();
                known.map(|(_, filters)| Arc::clone(filters)).unwrap_or_default()
            }
        }
    }

    async fn read_filters(&mut self) -> Result<Vec<Filter>, String> {
        let bases = self.base_chains().await.map_err(|error| error.to_string())?;
        self.watched.set(bases.keys().cloned().collect());
        let mut filters = Vec::new();
        for (name, drops) in bases {
            filters.push(
                self.filter(name, drops)
                    .await
                    .map_err(|error| error.to_string())?,
            );
        }
        Ok(filters)
    }

    /// Returns the base chains of others at the forward hook, each with whether its policy is to drop; in order.
    async fn base_chains(&mut self) -> Result<BTreeMap<ChainName, bool>, NetlinkError> {
        let subsystem = u16::try_from(NFNL_SUBSYS_NFTABLES << 8).unwrap_or_default();
        let request = Request {
            kind: subsystem | u16::try_from(NFT_MSG_GETCHAIN).unwrap_or_default(),
            flags: 0,
            body: vec![0; HEADER],
        };
        let chains = self.socket.dump(&request).await?;
        let base = |message: &Message| {
            let subject = Subject::of(message).filter(|subject| subject.is_forward)?;
            let name = ChainName {
                family: subject.family,
                table: subject.table,
                chain: subject.chain?,
            };
            let own = name.family == TableFamily::Inet && name.table == self.table;
            (!own && nameable(&name.table) && nameable(&name.chain)).then_some((name, subject.drops))
        };
        Ok(chains.iter().filter_map(base).collect())
    }

    /// Reads a base chain and those that it is certain to lead to for some packets.
    async fn filter(&mut self, name: ChainName, drops: bool) -> Result<Filter, NftError> {
        let mut chains: BTreeMap<String, Vec<FilterRule>> = BTreeMap::new();
        let mut wanted = VecDeque::from([name.chain.clone()]);
        while let Some(chain) = wanted.pop_front().filter(|_| chains.len() < CHAINS) {
            if chains.contains_key(&chain) {
                continue;
            }
            let (family, table) = (name.family, &name.table);
            let command = format!("list chain {family} {table} {chain}");
            // One at a time: nft 1.0.6 finds no other chains than that of the first command.
            let text = succeed(nft(&["-j", "-t", &command], "").await?)?;
            let rules = listing::rules(&text, &self.table);
            // A call that may or may not happen decides nothing, whatever it leads to.
            let certain = rules
                .iter()
                .filter(|rule| !rule.matches.contains(&Match::Unknown));
            wanted.extend(certain.filter_map(|rule| match &rule.verdict {
                Verdict::Jump(next) | Verdict::Goto(next) => Some(next.clone()).filter(|next| nameable(next)),
                Verdict::Continue | Verdict::Accept | Verdict::Drop | Verdict::Return | Verdict::Unknown => {
                    None
                }
            }));
            chains.insert(chain, rules);
        }
        Ok(Filter {
            rules: chains.remove(&name.chain).unwrap_or_default(),
            name,
            drops,
            chains,
        })
    }

    /// Has rules in a chain of another program that accept these, where they have an effect, and no others of Spanwire's;
    /// in one transaction.
    pub(crate) async fn open_passage(
        &mut self,
        chain: &ChainName,
        passes: &BTreeSet<Pass>,
    ) -> Result<(), NftError> {
        self.filters = None;
        let filter = self.filter(chain.clone(), true).await?;
        let mut commands = String::new();
        for rule in filter.rules.iter().filter(|rule| rule.own.is_some()) {
            writeln!(commands, "delete rule {chain} handle {}", rule.handle).expect("a String takes all");
        }
        let comment = &self.table;
        for pass in passes {
            match filter.place(passes) {
                Some(handle) => write!(commands, "insert rule {chain} handle {handle} "),
                None => write!(commands, "add rule {chain} "),
            }
            .expect("a String takes all");
            writeln!(commands, "{pass} counter accept comment \"{comment}\"").expect("a String takes all");
        }
        succeed(nft(&["-f", "-"], &commands).await?).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nft_would_read_otherwise_are_left_alone() {
        assert!(nameable("cali-FORWARD") && nameable("_x") && nameable("f2b.ssh/1"));
        assert!(
            !nameable("") && !nameable("1a") && !nameable("a b") && !nameable("a;b") && !nameable("a\"b")
        );
    }
}
