//! The firewalls of others, as far as packets that are forwarded meet them, and on leaders those for the machine itself.
//!
//! Base chains of nf_tables are found by netlink, which costs little where kube-proxy has thousands of others; their
//! rules, and those of the chains that they lead to, are listed by `nft -j`. Both are done only when the generation number
//! of nf_tables has moved. A chain that cannot be listed is named, and decides what it decided when it was listed last, or
//! nothing. What cannot be read of others is taken to decide nothing.
//!
//! Rules of Spanwire's in such a chain carry its table's name as their comment. They are written so that iptables-nft lists
//! and keeps them as any of its own (`-A FORWARD -i spanwire0 -m comment --comment spanwire -j ACCEPT`).

mod extensions;
mod judged;
mod legacy;
mod listing;
mod marks;
mod matches;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    sync::Arc,
};

use nix::libc::{NFT_MSG_GETCHAIN, NFT_MSG_GETTABLE};
use spanwire_host::{ChainName, Filter, FilterRule, Match, Pass, TableFamily, Unread, Verdict};

pub(crate) use self::legacy::legacy;
use self::matches::Sets;
use crate::{
    error::{NftError, chain},
    netlink::{Message, NetlinkError, attributes},
    nft::{Nft, message::request, nft, succeed},
    watched::{Found, HEADER, Hook, Subject, Watched, family},
};

/// More chains than firewalls have between their base chain and a rule that ends all; what lies beyond is not looked at,
/// since each costs a call of `nft`.
const CHAINS: usize = 32;

/// Sets with more elements are not looked at: they are lists of what is bad in the internet, and each packet of the mesh that is
/// judged would be looked for in all of it.
const ELEMENTS: usize = 10_000;

/// How often chains are listed until no other program changes nf_tables meanwhile, while one of them cannot be.
const READINGS: usize = 3;

/// Whether `nft` takes the name without quotes, which it does not know for chains.
fn nameable(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(plain)
}

fn is_nameable(chain: &ChainName) -> bool {
    nameable(&chain.table) && nameable(&chain.chain)
}

impl Nft {
    /// Returns the base chains that were found last.
    pub(crate) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// What others filter packets for this machine by is of no concern any more.
    pub(crate) fn forget_inputs(&mut self) {
        self.filters.remove(&Hook::Input);
        self.watched.forget(Hook::Input);
    }

    /// Returns what others filter packets by at a hook, in nf_tables, and adds what of it cannot be listed.
    pub(crate) async fn filters(&mut self, hook: Hook, unread: &mut BTreeSet<Unread>) -> Arc<Vec<Filter>> {
        let found = match self.found(hook).await {
            Ok(found) => found,
            Err(cause) => {
                let what = "the chains of nf_tables".to_owned();
                unread.insert(Unread { what, cause });
                // As of a single chain: what was found last holds.
                let known = self.filters.get(&hook);
                known.map(|(_, found)| found.clone()).unwrap_or_default()
            }
        };
        unread.extend(found.unread.iter().map(|(chain, cause)| Unread {
            what: format!("the rules of the chain {chain}"),
            cause: cause.clone(),
        }));
        found.filters
    }

    async fn found(&mut self, hook: Hook) -> Result<Found, String> {
        let mut generation = self.generation().await.ok();
        if let Some((Some(read), found)) = self.filters.get(&hook)
            && Some(*read) == generation
        {
            return Ok(found.clone());
        }
        let mut read = self.read_filters(hook, generation).await;
        for _ in 1..READINGS {
            let is_whole = read.as_ref().is_ok_and(|(found, _)| found.unread.is_empty());
            let now = self.generation().await.ok();
            // A table or chain that has just gone is no longer asked for.
            if is_whole || now == generation {
                break;
            }
            generation = now;
            read = self.read_filters(hook, generation).await;
        }
        let (found, is_fleeting) = read?;
        // Elements that come and go by themselves move no generation, nor does what keeps nft from listing a chain.
        let is_lasting = !is_fleeting && found.unread.keys().all(|name| !is_nameable(name));
        let generation = generation.filter(|_| is_lasting);
        self.filters.insert(hook, (generation, found.clone()));
        Ok(found)
    }

    /// Also returns whether they may change without notice.
    async fn read_filters(&mut self, hook: Hook, generation: Option<u32>) -> Result<(Found, bool), String> {
        let bases = self.base_chains(hook, generation).await;
        let bases = bases.map_err(|error| chain(&error))?;
        self.watched.set(hook, bases.keys().cloned().collect());
        let locked = if bases.is_empty() {
            BTreeSet::new()
        } else {
            self.locked_tables().await.map_err(|error| chain(&error))?
        };
        let mut filters = Vec::new();
        let mut unread = BTreeMap::new();
        let mut is_fleeting = false;
        for (name, base) in bases {
            if !is_nameable(&name) {
                unread.insert(name, "its name is none that nft can list".to_owned());
                continue;
            }
            match self.filter(name.clone(), base.drops).await {
                Ok((mut filter, fleeting)) => {
                    is_fleeting |= fleeting;
                    (filter.priority, filter.links) = (base.priority, base.links);
                    filter.is_locked = locked.contains(&(filter.name.family, filter.name.table.clone()));
                    filters.push(filter);
                }
                Err(error) => {
                    // A version of nft that lacks what a host's own has, say. What was found last of the chain holds until
                    // it can be listed again: to take none for granted would take away what lets the mesh through.
                    let known = self.filters.get(&hook).into_iter();
                    let mut known = known.flat_map(|(_, found)| found.filters.iter());
                    filters.extend(known.find(|filter| filter.name == name).cloned());
                    unread.insert(name, chain(&error));
                }
            }
        }
        let filters = Arc::new(filters);
        Ok((Found { filters, unread }, is_fleeting))
    }

    /// Returns the tables that only the program that made them may change, as long as it runs (`NFT_TABLE_F_OWNER`).
    async fn locked_tables(&mut self) -> Result<BTreeSet<(TableFamily, String)>, NetlinkError> {
        const OWNER: u32 = 2;
        let tables = self.socket.dump(&request(NFT_MSG_GETTABLE, 0, &[])).await?;
        let locked = |message: &Message| {
            let family = family(message)?;
            // NFTA_TABLE_NAME, NFTA_TABLE_FLAGS.
            let found: BTreeMap<u16, &[u8]> = attributes(message.body.get(HEADER..)?).collect();
            let flags = u32::from_be_bytes((*found.get(&2)?).try_into().ok()?);
            let name = found.get(&1)?;
            let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name));
            (flags & OWNER != 0).then(|| (family, name.into_owned()))
        };
        Ok(tables.iter().filter_map(locked).collect())
    }

    /// Returns the base chains of others at a hook, in order.
    async fn base_chains(
        &mut self,
        hook: Hook,
        generation: Option<u32>,
    ) -> Result<BTreeMap<ChainName, Subject>, NetlinkError> {
        self.read_bases(generation).await?;
        let others = self.bases_at(hook).filter(|(name, _)| !self.is_own_table(name));
        Ok(others.collect())
    }

    async fn read_bases(&mut self, generation: Option<u32>) -> Result<(), NetlinkError> {
        // Of all hooks at once: a dump has kube-proxy's thousands of chains, too.
        if self
            .bases
            .as_ref()
            .is_none_or(|(read, _)| Some(*read) != generation)
        {
            let chains = self.socket.dump(&request(NFT_MSG_GETCHAIN, 0, &[])).await?;
            let bases = chains.iter().filter_map(Subject::of);
            let bases = bases.filter(|subject| subject.hook.is_some() && subject.filters);
            self.bases = Some((generation.unwrap_or_default(), bases.collect()));
        }
        Ok(())
    }

    /// Returns the base chains at a hook that were read last, Spanwire's among them.
    fn bases_at(&self, hook: Hook) -> impl Iterator<Item = (ChainName, Subject)> {
        let bases = self.bases.iter().flat_map(|(_, bases)| bases);
        let base = |subject: &Subject| {
            let name = ChainName {
                family: subject.family,
                table: subject.table.clone(),
                chain: subject.chain.clone()?,
            };
            Some((name, subject.clone()))
        };
        let here = bases.filter(move |subject| subject.hook == Some(hook));
        here.filter_map(base)
    }

    fn is_own_table(&self, name: &ChainName) -> bool {
        name.family == TableFamily::Inet && name.table == self.table
    }

    /// Reads a base chain and those that it is certain to lead to for some packets; and whether they ask sets that change
    /// without notice.
    async fn filter(&mut self, name: ChainName, drops: bool) -> Result<(Filter, bool), NftError> {
        let mut sets = Sets::new();
        let mut is_fleeting = false;
        let mut chains: BTreeMap<String, Vec<FilterRule>> = BTreeMap::new();
        let mut wanted = VecDeque::from([name.chain.clone()]);
        while let Some(chain) = wanted.pop_front().filter(|_| chains.len() < CHAINS) {
            if chains.contains_key(&chain) {
                continue;
            }
            let (family, table) = (name.family, &name.table);
            // One at a time: nft 1.0.6 finds no other chains than that of the first command.
            let text = list("chain", family, table, &chain).await?;
            let extensions = if listing::has_extensions(&text) {
                let chain = ChainName {
                    family,
                    table: table.clone(),
                    chain: chain.clone(),
                };
                // Without it they are not known to hold or not.
                self.extensions(&chain).await.unwrap_or_default()
            } else {
                BTreeMap::new()
            };
            let most = if self.is_own_table(&name) {
                usize::MAX
            } else {
                ELEMENTS
            };
            is_fleeting |= read_sets(&name, &text, &mut sets, most).await;
            let mut rules = listing::rules(&text, &self.table, &extensions, &sets);
            if family == TableFamily::Bridge {
                rules
                    .iter_mut()
                    .flat_map(|rule| &mut rule.matches)
                    .for_each(of_port);
            }
            // A call that may or may not happen decides nothing, whatever it leads to.
            let certain = rules
                .iter()
                .filter(|rule| !rule.matches.contains(&Match::Unknown));
            wanted.extend(certain.filter_map(|rule| match &rule.verdict {
                Verdict::Jump(next) | Verdict::Goto(next) => Some(next.clone()),
                Verdict::Continue | Verdict::Accept | Verdict::Drop | Verdict::Return | Verdict::Unknown => {
                    None
                }
            }));
            chains.insert(chain, rules);
        }
        let filter = Filter {
            rules: chains.remove(&name.chain).unwrap_or_default(),
            name,
            is_legacy: false,
            is_locked: false,
            priority: 0,
            links: None,
            drops,
            chains,
        };
        Ok((filter, is_fleeting))
    }

    /// Has rules in a chain of another program that accept these, where they have an effect, and no others of Spanwire's;
    /// in one transaction.
    pub(crate) async fn open_passage(
        &mut self,
        chain: &ChainName,
        passes: &BTreeSet<Pass>,
    ) -> Result<(), NftError> {
        self.filters.remove(&Hook::Forward);
        let (filter, _) = self.filter(chain.clone(), true).await?;
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

/// Lists a chain, set or map. In JSON its name may be any, which in nft's own words it may not, being one of them or a number.
async fn list(kind: &str, family: TableFamily, table: &str, name: &str) -> Result<String, NftError> {
    let family = family.to_string();
    let object = serde_json::json!({ kind: { "family": family, "table": table, "name": name } });
    let command = serde_json::json!({ "nftables": [{ "list": object }] });
    // With -t it does not read the elements of all sets of the table.
    let terse = if kind == "chain" { "-jt" } else { "-j" };
    succeed(nft(&[terse, "-f", "-"], &command.to_string()).await?)
}

/// Of a bridge the devices are its ports: which of them lead to pods is not known.
fn of_port(found: &mut Match) {
    if let Match::Any { of, .. } = found {
        of.iter_mut().flatten().for_each(of_port);
    } else if matches!(found, Match::Device { .. }) {
        *found = Match::Unknown;
    }
}

/// Reads the sets and maps that a listing names, where they are not known yet: each is a call of `nft`. Returns whether the elements
/// of one come and go by themselves. What cannot be read is not known to hold or not.
async fn read_sets(of: &ChainName, text: &str, known: &mut Sets, most: usize) -> bool {
    let ChainName { family, table, .. } = of;
    let (sets, maps) = listing::named(text);
    let kinds = [("set", sets), ("map", maps)];
    let named = kinds
        .into_iter()
        .flat_map(|(kind, names)| names.into_iter().map(move |name| (kind, name)));
    let mut is_fleeting = false;
    for (kind, name) in named {
        if known.contains_key(&name) {
            continue;
        }
        let listed = list(kind, *family, table, &name).await;
        let elements = listed.ok().and_then(|text| listing::elements(&text));
        if let Some((elements, fleeting)) = elements.filter(|(elements, _)| elements.len() <= most) {
            is_fleeting |= fleeting;
            known.insert(name, elements);
        }
    }
    is_fleeting
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

#[cfg(test)]
mod netns;
