//! The nft table, by the command `nft` (docs/decisions/0002-nft-by-its-command.md).
//!
//! What the kernel has is never the text that was loaded: names are resolved, rules compiled. So right after a load, and
//! before any other transaction, what it has besides the elements of sets is remembered (`nft/frame.rs`). From then on the
//! table is intact as long as the kernel has the same, and the elements that were loaded (`nft/elements.rs`). Thousands of
//! elements take milliseconds to read; that is done only when the generation number of nf_tables has moved
//! (`NFT_MSG_GETGEN`), which any change does.
//!
//! Where some elements are all that is to change they alone are changed, in a transaction that the kernel refuses if
//! another one came before it; the table is then known to be intact without being read.
//!
//! Where more is to change the table is filled again (`nft/refill.rs`): one that is deleted and made again guards nothing for a
//! moment, even in one transaction.
//!
//! What was loaded is written into a file (`nft/remembered.rs`), so that an agent that starts knows it and changes nothing. Where that
//! says nothing of the table it is filled once more.

mod elements;
mod frame;
pub(crate) mod message;
mod refill;
mod remembered;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    libc::{NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFT_MSG_NEWGEN},
    sys::memfd::{MFdFlags, memfd_create},
};
use spanwire_host::NftTable;
use tokio::{io::AsyncWriteExt as _, process::Command};

use self::{frame::Frame, message::request, remembered::Remembered};
use crate::{
    error::{NftError, ReadError},
    netlink::{Message, NetlinkError, Socket, attributes},
    watched::{HEADER, Known, Subject, Watched},
};

/// The empty chain by which a table is known to be Spanwire's, whatever else is in it.
const SIGN: &str = "made-by-spanwire-agent";

/// How often the table is loaded at most until no other program interferes. One load takes some milliseconds, in a large
/// mesh tenths of a second; kube-proxy, the busiest of neighbours, has a transaction a second.
const LOADS: u32 = 8;
/// How long it is left alone after the second load that another program interfered with, twice as long after each further one:
/// when a node boots many have transactions in the same moment.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns what `nft -f` is given to replace the table with this name by `wanted` in one transaction, so that it is known to
/// be Spanwire's afterwards.
#[must_use]
pub fn script(name: &str, wanted: &NftTable) -> String {
    format!(
        "table inet {name}\ndelete table inet {name}\n{wanted}\ntable inet {name} {{\n\tchain {SIGN} {{\n\t}}\n}}\n"
    )
}

/// The nft table of the machine.
pub(crate) struct Nft {
    pub(crate) table: String,
    pub(crate) socket: Socket,
    /// What others filter packets by.
    pub(crate) filters: Known,
    /// The base chains that there were at a generation.
    pub(crate) bases: Option<(u32, Vec<Subject>)>,
    pub(crate) watched: Watched,
    /// The generations that the last load of our own made, unless another program's transaction came between.
    pub(crate) own_generation: OwnGenerations,
    /// The wanted table in force, and what the kernel had besides its elements right after it was loaded.
    loaded: Option<(NftTable, Frame)>,
    /// What the agent before has loaded.
    remembered: Remembered,
    /// What was last read, and at which generation.
    known: Option<(u32, Option<NftTable>)>,
}

impl Nft {
    pub(crate) fn open(table: &str, state: &Path) -> Result<Self, NetlinkError> {
        Ok(Self {
            table: table.to_owned(),
            socket: Socket::open(NETLINK_NETFILTER)?,
            filters: Known::new(),
            bases: None,
            watched: Watched::default(),
            own_generation: OwnGenerations::default(),
            loaded: None,
            remembered: Remembered::open(state),
            known: None,
        })
    }

    /// Reads the table, if there is one: as the wanted one that is in force, as an empty one where that is not known.
    pub(crate) async fn read(&mut self) -> Result<Option<NftTable>, ReadError> {
        let generation = self.generation().await;
        let generation = generation.map_err(ReadError::netlink("the generation of nf_tables"))?;
        if let Some((known, table)) = &self.known
            && *known == generation
        {
            return Ok(table.clone());
        }
        let table = self.intact().await;
        let table = table.map_err(ReadError::netlink("the nft table"))?;
        self.known = Some((generation, table.clone()));
        Ok(table)
    }

    async fn intact(&mut self) -> Result<Option<NftTable>, NetlinkError> {
        let Some(frame) = self.frame().await? else {
            return Ok(None);
        };
        if self.loaded.is_none()
            && let Some(table) = self.remembered.table(&frame).cloned()
        {
            let table = self.with_elements(&table).await?;
            self.loaded = table.clone().map(|table| (table, frame));
            return Ok(Some(table.unwrap_or_default()));
        }
        let loaded = self.loaded.as_ref().filter(|(_, loaded)| *loaded == frame);
        let wanted = loaded.map(|(wanted, _)| wanted.clone()).unwrap_or_default();
        let intact = self.has_elements(&wanted).await?;
        Ok(Some(if intact { wanted } else { NftTable::default() }))
    }

    /// Changes elements of the table's sets where that is all that is to change, else fills the table again. Where there is none, or
    /// it cannot be filled, it is made in one transaction.
    pub(crate) async fn load(&mut self, wanted: NftTable) -> Result<(), NftError> {
        if self.change(&wanted).await {
            return Ok(());
        }
        match self.refill(&wanted).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the nft table was not filled again, and is replaced");
            }
        }
        self.load_beside(wanted, async || ()).await
    }

    /// Changes elements of the table that is known to be intact. Returns whether it is as wanted then.
    async fn change(&mut self, wanted: &NftTable) -> bool {
        let Some((generation, Some(present))) = &self.known else {
            return false;
        };
        let Some(changes) = elements::changes(present, wanted) else {
            return false;
        };
        let own = following(*generation);
        self.own_generation.set(own);
        let requests = elements::transaction(&self.table, *generation, &changes);
        let changed = self.socket.transaction(&requests).await;
        if let Err(error) = changed {
            // Mostly another program's transaction has come before it; the table is filled again then.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the elements of the nft table were not changed"
            );
            return false;
        }
        if let Some((loaded, _)) = &mut self.loaded {
            loaded.clone_from(wanted);
        }
        self.is_made(own, wanted);
        true
    }

    /// Loads the table until no transaction of another program comes between the load and the reading that is remembered:
    /// one that changed the table would be taken for what was loaded. `others` is what tests have other programs do there.
    async fn load_beside(&mut self, wanted: NftTable, others: impl AsyncFn()) -> Result<(), NftError> {
        let text = script(&self.table, &wanted);
        (self.known, self.loaded) = (None, None);
        self.remembered.forget();
        for load in 0..LOADS {
            pause(load).await;
            let own = self.generation().await.ok().map(following);
            // Without it everything is read once more, and right all the same.
            self.own_generation.set(own.unwrap_or_default());
            succeed(nft(&["-f", "-"], &text).await?)?;
            others().await;
            let frame = self.frame().await?;
            let read = self.generation().await.ok();
            let (Some(frame), Some(own)) = (frame, own.filter(|own| read == Some(*own))) else {
                continue;
            };
            self.is_made(own, &wanted);
            self.remembered.write(&wanted, &frame);
            self.loaded = Some((wanted, frame));
            return Ok(());
        }
        Err(NftError::Disturbed)
    }

    /// The table is this one at this generation, which a transaction of our own has made.
    fn is_made(&mut self, own: u32, table: &NftTable) {
        self.known = Some((own, Some(table.clone())));
        self.is_followed(own);
    }

    /// A transaction of our own has made this generation: no other table was changed by it.
    fn is_followed(&mut self, own: u32) {
        let others = self.filters.values_mut();
        for (read, _) in others.filter(|(read, _)| read.map(following) == Some(own)) {
            *read = Some(own);
        }
    }

    /// Removes the table, if there is one.
    pub(crate) async fn delete(&mut self) -> Result<(), NftError> {
        let name = &self.table;
        (self.known, self.loaded) = (None, None);
        self.remembered.remove();
        // Adding what is there changes nothing; and then there is something to delete.
        let text = format!("table inet {name}\ndelete table inet {name}\n");
        succeed(nft(&["-f", "-"], &text).await?).map(|_| ())
    }

    /// Removes the file by which the next agent knows the table.
    pub(crate) fn forget(&mut self) {
        self.remembered.remove();
    }

    /// Whether a table of our name is there that is not ours.
    pub(crate) async fn foreign(&mut self) -> Result<bool, NetlinkError> {
        Ok(self.frame().await?.is_some_and(|frame| !frame.is_signed))
    }

    pub(crate) async fn generation(&mut self) -> Result<u32, NetlinkError> {
        let answer = self.socket.get(&request(NFT_MSG_GETGEN, 0, &[])).await?;
        let number = answer.iter().find_map(generation);
        number.ok_or(NetlinkError::Malformed("no generation"))
    }
}

/// The generations that transactions of our own make, one after the other. Copies are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnGenerations(Arc<AtomicU64>);

impl OwnGenerations {
    /// It is this one alone.
    fn set(&self, only: u32) {
        self.store(only, only);
    }

    /// It is this one too, if it comes right after the others; else it alone.
    fn extend(&self, last: u32) {
        let (first, before) = self.range();
        self.store(if following(before) == last { first } else { last }, last);
    }

    /// Whether this is one of them.
    pub(crate) fn contains(&self, generation: u32) -> bool {
        let (first, last) = self.range();
        generation.wrapping_sub(first) <= last.wrapping_sub(first)
    }

    fn range(&self) -> (u32, u32) {
        let both = self.0.load(Ordering::Relaxed);
        ((both >> 32) as u32, both as u32)
    }

    fn store(&self, first: u32, last: u32) {
        self.0
            .store(u64::from(first) << 32 | u64::from(last), Ordering::Relaxed);
    }
}

/// Returns the generation after this one; there is no generation 0 (`nf_tables_commit` in net/netfilter/nf_tables_api.c).
fn following(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// Returns the generation that a transaction made, from the message that ends the notifications of it.
pub(crate) fn new_generation(message: &Message) -> Option<u32> {
    let kind = u16::try_from(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN).unwrap_or_default();
    (message.kind == kind).then(|| generation(message)).flatten()
}

fn generation(message: &Message) -> Option<u32> {
    const NFTA_GEN_ID: u16 = 1;
    let (_, number) = attributes(message.body.get(HEADER..)?).find(|(kind, _)| *kind == NFTA_GEN_ID)?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

/// Leaves nf_tables alone before a load that others have disturbed more than once.
async fn pause(load: u32) {
    if let Some(more) = load.checked_sub(2) {
        tokio::time::sleep(PAUSE * (1 << more)).await;
    }
}

pub(crate) async fn nft(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    // nft writes a listing piece by piece. Into a pipe each of thousands of pieces would wake this process up.
    let mut listing = memfd_create(c"nft", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|errno| NftError::Run(errno.into()))?;
    let mut child = Command::new("nft")
        .args(arguments)
        // What it says is looked at.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(listing.try_clone().map_err(NftError::Run)?)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Run)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A child that stops reading says why on its standard error.
            let _explained_on_stderr = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let mut output = output.map_err(NftError::Run)?;
    output.stdout = contents(&mut listing).map_err(NftError::Run)?;
    Ok(output)
}

fn contents(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn succeed(output: Output) -> Result<String, NftError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(NftError::Failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

#[cfg(test)]
mod netns {
    use std::cell::Cell;

    use spanwire_host::NftSet;
    use spanwire_testbed as testbed;
    use spanwire_topology::{Family, Prefix};

    use super::*;

    fn run(script: &str) -> String {
        testbed::Command::shell(script).run()
    }

    fn table(remote: &[&str]) -> NftTable {
        let ranges = remote.iter().map(|text| text.parse::<Prefix>().unwrap().into());
        NftTable {
            name: "spanwire".to_owned(),
            sets: vec![NftSet::new("remote".to_owned(), Family::V4, ranges)],
            chains: String::new(),
        }
    }

    /// Loads the table while another program does this, so often at most, right after each load.
    fn load_beside(
        script: &'static str,
        times: usize,
        test: impl FnOnce(Result<(), NftError>, Option<NftTable>) + Send + 'static,
    ) {
        testbed::isolated(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let state = tempfile::tempdir().unwrap();
                let mut nft = Nft::open("spanwire", state.path()).unwrap();
                let wanted = table(&["10.0.0.1/32"]);
                let left = Cell::new(times);
                let others = async || {
                    if let Some(less) = left.get().checked_sub(1) {
                        left.set(less);
                        run(script);
                    }
                };
                let loaded = nft.load_beside(wanted, others).await;
                let read = nft.read().await.unwrap();
                test(loaded, read);
            });
        });
    }

    #[test]
    fn what_another_program_changes_right_after_a_load_is_not_taken_for_what_was_loaded() {
        for change in [
            "nft add element inet spanwire remote '{ 192.0.2.1 }'",
            "nft delete table inet spanwire",
            "nft flush ruleset",
        ] {
            load_beside(change, 1, |loaded, read| {
                assert!(loaded.is_ok(), "{loaded:?}");
                assert_eq!(read, Some(table(&["10.0.0.1/32"])));
                let listing = run("nft list table inet spanwire");
                assert!(
                    listing.contains("10.0.0.1") && !listing.contains("192.0.2.1"),
                    "{listing}"
                );
            });
        }
    }

    #[test]
    fn a_table_that_is_changed_after_every_load_is_not_known_to_be_intact() {
        load_beside(
            "nft add element inet spanwire remote '{ 192.0.2.1 }'",
            usize::MAX,
            |loaded, read| {
                assert!(matches!(loaded, Err(NftError::Disturbed)), "{loaded:?}");
                assert_eq!(read, Some(NftTable::default()));
            },
        );
    }
}
