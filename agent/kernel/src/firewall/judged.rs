//! The chains that one packet meets, read for it: those of others, and Spanwire's own as they are in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_host::{Elsewhere, Filter, FilterRule, MarkChange, Match, Passing, Stage, Verdict};

use super::{is_nameable, legacy};
use crate::{nft::Nft, watched::Hook};

impl Hook {
    fn of_stage(stage: Stage) -> Self {
        match stage {
            Stage::Input => Self::Input,
            Stage::Forward => Self::Forward,
            Stage::Elsewhere(Elsewhere::Ingress) => Self::Ingress,
            Stage::Elsewhere(Elsewhere::Prerouting) => Self::Prerouting,
            Stage::Elsewhere(Elsewhere::Output) => Self::Output,
            Stage::Elsewhere(Elsewhere::Postrouting) => Self::Postrouting,
            Stage::Elsewhere(Elsewhere::Egress) => Self::Egress,
            Stage::Elsewhere(Elsewhere::FromPods) => Self::FromPorts,
            Stage::Elsewhere(Elsewhere::ToPods) => Self::ToPorts,
        }
    }
}

impl Nft {
    /// Returns the chains that a packet meets, in order.
    ///
    /// # Errors
    /// What cannot be read. Then nothing is known of any packet.
    pub(crate) async fn chains_for(&mut self, packet: &Passing) -> Result<Vec<(Stage, Vec<Filter>)>, String> {
        let mut known: BTreeMap<Hook, Vec<Filter>> = BTreeMap::new();
        let mut chains = Vec::new();
        for stage in packet.stages() {
            let hook = Hook::of_stage(stage);
            let filters = match known.get(&hook) {
                Some(filters) => filters.clone(),
                None => self.all_filters(hook).await?,
            };
            known.insert(hook, filters.clone());
            chains.push((stage, filters));
        }
        Ok(chains)
    }

    async fn all_filters(&mut self, hook: Hook) -> Result<Vec<Filter>, String> {
        let generation = self.generation().await.ok();
        let is_followed = self.filters.contains_key(&hook);
        let found = self.found(hook).await?;
        if let Some((chain, cause)) = found.unread.iter().find(|(chain, _)| is_nameable(chain)) {
            return Err(format!("the rules of the chain {chain} cannot be read: {cause}"));
        }
        let mut filters = found.filters.to_vec();
        // Of a node that does not lead changes there are of no concern.
        if hook == Hook::Input && !is_followed {
            self.forget_inputs();
        }
        self.read_bases(generation)
            .await
            .map_err(|error| error.to_string())?;
        let bases: Vec<_> = self.bases_at(hook).collect();
        for (name, base) in bases {
            if self.is_own_table(&name) {
                let read = self.filter(name, base.drops).await;
                let (own, _) = read.map_err(|error| error.to_string())?;
                filters.push(Filter {
                    priority: base.priority,
                    ..own
                });
            } else if !is_nameable(&name) {
                let rules = vec![unread()];
                filters.push(Filter {
                    name,
                    is_legacy: false,
                    is_locked: false,
                    priority: base.priority,
                    links: base.links,
                    drops: base.drops,
                    rules,
                    chains: BTreeMap::new(),
                });
            }
        }
        let mut failed = BTreeSet::new();
        filters.extend(legacy(hook, &mut failed));
        match failed.first() {
            Some(failed) => Err(format!("{} cannot be read: {}", failed.what, failed.cause)),
            None => Ok(filters),
        }
    }
}

/// What stands for rules that cannot be listed.
fn unread() -> FilterRule {
    FilterRule {
        handle: 0,
        comment: Some("its name is none that nft can list".to_owned()),
        own: None,
        matches: vec![Match::Unknown],
        verdict: Verdict::Unknown,
        marks: MarkChange::ANY,
        untracks: None,
    }
}
