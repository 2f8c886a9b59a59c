//! Filling the table again while its chains and sets stay where they are.
//!
//! A table that is deleted and made again in one transaction guards nothing for a moment. Its new rules hold as soon as the
//! generation changes (`nf_tables_commit` in net/netfilter/nf_tables_api.c), and the old ones do not any more. Interval sets
//! are looked up in an array that the kernel publishes later, at the end of the transaction (`nft_rbtree_commit`, seen in Linux
//! 6.18.44): until then a new set has no elements. In a large mesh, or where the committing process is preempted, that takes milliseconds.
//! The [decision](../../../../docs/decisions/0033-a-table-that-is-filled-again.md) has more.
//!
//! So nothing that rules look up is new when they begin to hold:
//!
//! 1. sets that are missing are made, with their elements;
//! 2. the others get what they lack, and lose what they are not to have (`elements.rs`): what is in them before and after
//!    is found in them at each moment;
//! 3. all rules are replaced in one transaction, in chains that packets meet before and after; what is left over goes.
//!
//! So it is with every table that an agent has loaded, also one of another version, one that something else has changed, and the one
//! that guards a node while it boots. Where the result is not as wanted, or the kernel refuses it because a chain of that name has
//! another hook, the table is replaced as a whole.

use std::{collections::BTreeSet, fmt::Write as _};

use spanwire_host::{NftSet, NftTable};

use super::{
    LOADS, Nft, SIGN,
    elements::{self, Change},
    following,
    frame::Frame,
    nft, pause, succeed,
};
use crate::error::NftError;

impl Nft {
    /// Makes the table that is there as wanted, if it is Spanwire's. Returns whether it is as wanted then.
    pub(super) async fn refill(&mut self, wanted: &NftTable) -> Result<bool, NftError> {
        let frame = self.frame().await?;
        let Some(frame) = frame.filter(|frame| frame.is_signed) else {
            return Ok(false);
        };
        let loaded = self.loaded.take().filter(|(_, loaded)| *loaded == frame);
        let has_rules = loaded.is_some_and(|(loaded, _)| is_same_but_for_elements(&loaded, wanted));
        self.known = None;
        self.remembered.forget();

        self.refill_sets(wanted, &frame).await?;
        if has_rules && self.is_filled(wanted, &frame).await? {
            return Ok(true);
        }
        let text = rules(wanted, &frame);
        for load in 0..LOADS {
            pause(load).await;
            let own = self.run_own(&text).await?;
            let frame = self.frame().await?;
            let read = self.generation().await?;
            let Some(frame) = frame.filter(|_| read == own) else {
                continue;
            };
            if !has_parts(&frame, wanted) || !self.has_elements(wanted).await? {
                return Ok(false);
            }
            self.is_made(own, wanted);
            self.remembered.write(wanted, &frame);
            self.loaded = Some((wanted.clone(), frame));
            return Ok(true);
        }
        Ok(false)
    }

    /// Notes that the table is as wanted, if it is and its rules are those that were there before its elements were changed.
    async fn is_filled(&mut self, wanted: &NftTable, frame: &Frame) -> Result<bool, NftError> {
        let generation = self.generation().await?;
        let is_as_before = self.frame().await?.is_some_and(|read| read == *frame);
        let is_filled = is_as_before && self.has_elements(wanted).await?;
        if !is_filled || self.generation().await? != generation {
            return Ok(false);
        }
        self.known = Some((generation, Some(wanted.clone())));
        self.remembered.write(wanted, frame);
        self.loaded = Some((wanted.clone(), frame.clone()));
        Ok(true)
    }

    /// Gives the table the sets that it lacks, and the others the elements that are wanted.
    async fn refill_sets(&mut self, wanted: &NftTable, frame: &Frame) -> Result<(), NftError> {
        let (mut missing, mut emptied, mut present) = (Vec::new(), Vec::new(), Vec::new());
        for set in &wanted.sets {
            if !frame.sets.contains(set.name()) {
                missing.push(set);
                continue;
            }
            let Some(there) = self.present(set).await? else {
                emptied.push(set);
                continue;
            };
            if there != *set {
                present.push((there, set));
            }
        }
        let mut changes = Vec::new();
        for (there, set) in &present {
            match Change::of(there, set) {
                Some(change) => changes.extend(change.in_parts()),
                None => emptied.push(*set),
            }
        }
        let made = sets(&wanted.name, &missing, &emptied);
        if !made.is_empty() {
            self.run_own(&made).await?;
        }
        for change in changes {
            self.change_own(change).await?;
        }
        Ok(())
    }

    /// Makes a change, once more where another program's transaction came before it.
    async fn change_own(&mut self, change: Change<'_>) -> Result<(), NftError> {
        let changes = [change];
        let mut result = Ok(());
        for load in 0..LOADS {
            pause(load).await;
            let generation = self.generation().await?;
            let own = following(generation);
            self.own_generation.extend(own);
            let requests = elements::transaction(&self.table, generation, &changes);
            result = self.socket.transaction(&requests).await;
            if result.is_ok() {
                self.is_followed(own);
                break;
            }
        }
        Ok(result?)
    }

    /// Has nft do something to the table. Returns the generation that this makes where no other transaction comes before it.
    async fn run_own(&mut self, text: &str) -> Result<u32, NftError> {
        let own = following(self.generation().await?);
        self.own_generation.extend(own);
        succeed(nft(&["-f", "-"], text).await?)?;
        if self.generation().await? == own {
            self.is_followed(own);
        }
        Ok(own)
    }
}

/// Whether two tables have the same sets and rules, whatever elements.
fn is_same_but_for_elements(one: &NftTable, other: &NftTable) -> bool {
    let kind = |set: &NftSet| (set.name().to_owned(), set.family());
    one.name == other.name
        && one.chains == other.chains
        && one.sets.iter().map(kind).eq(other.sets.iter().map(kind))
}

/// Returns what makes the sets that are missing and fills these others from nothing; empty where there are none.
fn sets(table: &str, missing: &[&NftSet], emptied: &[&NftSet]) -> String {
    let mut text = String::new();
    if !missing.is_empty() {
        let missing: String = missing.iter().map(ToString::to_string).collect();
        write!(text, "table inet {table} {{\n{missing}}}\n").expect("a String takes all");
    }
    for set in emptied {
        let name = set.name();
        writeln!(text, "flush set inet {table} {name}").expect("a String takes all");
        let ranges: Vec<String> = set.ranges().iter().map(ToString::to_string).collect();
        if !ranges.is_empty() {
            let ranges = ranges.join(", ");
            writeln!(text, "add element inet {table} {name} {{ {ranges} }}").expect("a String takes all");
        }
    }
    text
}

/// Returns what replaces all rules of a table, and deletes chains and sets that are not wanted. Chains that stay are named with
/// their hooks, and sets with their types: where one is another, nft refuses it all.
fn rules(wanted: &NftTable, frame: &Frame) -> String {
    let NftTable { name, sets, chains } = wanted;
    let (kept_chains, kept_sets) = parts(wanted);
    let mut text = format!("flush table inet {name}\n");
    let left = |what: &str, there: &BTreeSet<String>, kept: &BTreeSet<&str>| -> String {
        let left = there.iter().filter(|part| !kept.contains(part.as_str()));
        left.map(|part| format!("delete {what} inet {name} {part}\n"))
            .collect()
    };
    text += &left("chain", &frame.chains, &kept_chains);
    text += &left("set", &frame.sets, &kept_sets);
    let bare = |set: &NftSet| NftSet::new(set.name().to_owned(), set.family(), []).to_string();
    let sets: String = sets.iter().map(bare).collect();
    text + &format!("table inet {name} {{\n{sets}{chains}\tchain {SIGN} {{\n\t}}\n}}\n")
}

/// Whether the table has these chains and sets and no others.
fn has_parts(frame: &Frame, wanted: &NftTable) -> bool {
    let (chains, sets) = parts(wanted);
    let same = |there: &BTreeSet<String>, wanted: &BTreeSet<&str>| there.iter().eq(wanted.iter());
    same(&frame.chains, &chains) && same(&frame.sets, &sets)
}

/// Returns the names of the chains and of the sets that the table is to have.
fn parts(table: &NftTable) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let lines = table.chains.lines();
    let named = lines.filter_map(|line| line.trim_start().strip_prefix("chain "));
    let chains = named.filter_map(|rest| rest.split_whitespace().next());
    let sets = table.sets.iter().map(NftSet::name);
    (chains.chain([SIGN]).collect(), sets.collect())
}

#[cfg(test)]
mod tests {
    use spanwire_topology::{Family, Prefix};

    use super::*;

    fn set(name: &str, prefixes: &[&str]) -> NftSet {
        let ranges = prefixes.iter().map(|text| text.parse::<Prefix>().unwrap().into());
        NftSet::new(name.to_owned(), Family::V4, ranges)
    }

    fn frame(chains: &[&str], sets: &[&str]) -> Frame {
        let names = |names: &[&str]| names.iter().copied().map(str::to_owned).collect();
        let mut frame = Frame::of(Vec::new());
        (frame.chains, frame.sets) = (names(chains), names(sets));
        frame
    }

    fn wanted() -> NftTable {
        NftTable {
            name: "spanwire".to_owned(),
            sets: vec![set("settled4", &["10.0.0.0/24"])],
            chains: "\tchain stray {\n\t\ttype filter hook postrouting priority mangle; policy accept;\n\t\t\
                     ip daddr @settled4 jump strayed\n\t}\n\tchain strayed {\n\t\tdrop\n\t}\n"
                .to_owned(),
        }
    }

    #[test]
    fn rules_are_replaced_in_chains_and_beside_sets_that_stay() {
        let there = frame(
            &["enter", "made-by-spanwire-agent", "stray", "strayed"],
            &["private4", "settled4"],
        );
        let text = rules(&wanted(), &there);
        assert_eq!(
            text,
            format!(
                "flush table inet spanwire\n\
                 delete chain inet spanwire enter\n\
                 delete set inet spanwire private4\n\
                 table inet spanwire {{\n\
                 \tset settled4 {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t}}\n\
                 {}\tchain made-by-spanwire-agent {{\n\t}}\n}}\n",
                wanted().chains
            )
        );
    }

    #[test]
    fn only_what_is_missing_is_made_and_only_what_cannot_be_changed_is_emptied() {
        assert_eq!(sets("spanwire", &[], &[]), "");
        let (a, b, none) = (
            set("a4", &["10.0.0.0/24"]),
            set("b4", &["0.0.0.0/8", "10.0.0.0/8"]),
            set("c4", &[]),
        );
        assert_eq!(
            sets("spanwire", &[&a], &[&b, &none]),
            format!(
                "table inet spanwire {{\n{a}}}\nflush set inet spanwire b4\n\
                 add element inet spanwire b4 {{ 0.0.0.0/8, 10.0.0.0/8 }}\nflush set inet spanwire c4\n"
            )
        );
    }

    #[test]
    fn a_table_with_other_chains_or_sets_is_not_the_wanted_one() {
        let chains = ["made-by-spanwire-agent", "stray", "strayed"];
        assert!(has_parts(&frame(&chains, &["settled4"]), &wanted()));
        assert!(!has_parts(&frame(&chains[..2], &["settled4"]), &wanted()));
        assert!(!has_parts(&frame(&chains, &["far4", "settled4"]), &wanted()));
    }
}
