//! The nft table, by the command `nft` (docs/decisions/0002-nft-by-its-command.md).
//!
//! What the kernel lists is never the text that was loaded: sets are sorted and merged, names are resolved. So right after
//! a load, and before any other transaction, the listing is remembered, and from then on the table is intact as long as the kernel still lists the same,
//! counters left out. Listing thousands of elements costs tens of milliseconds; it is done only when the generation
//! number of nf_tables has moved (`NFT_MSG_GETGEN`), which any change does.
//!
//! After a restart nothing is remembered, so the table is loaded once more. That is one transaction: no packet sees a
//! state between.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    libc::{NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFT_MSG_NEWGEN},
    sys::memfd::{MFdFlags, memfd_create},
};
use spanwire_host::NftTable;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    error::{NftError, ReadError},
    netlink::{Message, NetlinkError, Request, Socket, attributes},
    watched::{Known, Watched},
};

/// The empty chain by which a table is known to be Spanwire's, whatever else is in it.
const SIGN: &str = "made-by-spanwire-agent";

/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// How often the table is loaded at most until no other program interferes. One load and listing takes some milliseconds, in a large
/// mesh a tenth of a second; kube-proxy, the busiest of neighbours, has a transaction a second.
const LOADS: usize = 8;

/// Returns what `nft -f` is given to replace the table with this name by `wanted` in one transaction, so that it is known to
/// be Spanwire's afterwards.
#[must_use]
pub fn script(name: &str, wanted: &NftTable) -> String {
    format!(
        "table inet {name}\ndelete table inet {name}\n{}\ntable inet {name} {{\n\tchain {SIGN} {{\n\t}}\n}}\n",
        wanted.text
    )
}

/// The nft table of the machine.
pub(crate) struct Nft {
    pub(crate) table: String,
    pub(crate) socket: Socket,
    /// What others filter forwarded packets by.
    pub(crate) filters: Known,
    /// What others filter packets for this machine by.
    pub(crate) inputs: Known,
    pub(crate) watched: Watched,
    /// The generation that the last load of our own made, unless another program's transaction came between.
    pub(crate) own_generation: Arc<AtomicU32>,
    /// The wanted text in force and the listing right after it was loaded.
    loaded: Option<(NftTable, String)>,
    /// What was last read, and at which generation.
    known: Option<(u32, Option<NftTable>)>,
}

impl Nft {
    pub(crate) fn open(table: &str) -> Result<Self, NetlinkError> {
        Ok(Self {
            table: table.to_owned(),
            socket: Socket::open(NETLINK_NETFILTER)?,
            filters: None,
            inputs: None,
            watched: Watched::default(),
            own_generation: Arc::default(),
            loaded: None,
            known: None,
        })
    }

    /// Reads the table, if there is one, with the text in force; the text is empty where that is not known.
    pub(crate) async fn read(&mut self) -> Result<Option<NftTable>, ReadError> {
        let generation = self.generation().await;
        let generation = generation.map_err(ReadError::netlink("the generation of nf_tables"))?;
        if let Some((known, table)) = &self.known
            && *known == generation
        {
            return Ok(table.clone());
        }
        let table = self.listing().await?.map(|listing| match &self.loaded {
            Some((wanted, loaded)) if *loaded == listing => wanted.clone(),
            _ => NftTable { text: String::new() },
        });
        self.known = Some((generation, table.clone()));
        Ok(table)
    }

    /// Replaces the table, in one transaction.
    pub(crate) async fn load(&mut self, wanted: NftTable) -> Result<(), NftError> {
        self.load_beside(wanted, async || ()).await
    }

    /// Loads the table until no transaction of another program comes between the load and the listing that is remembered:
    /// one that changed the table would be taken for what was loaded. `others` is what tests have other programs do there.
    async fn load_beside(&mut self, wanted: NftTable, others: impl AsyncFn()) -> Result<(), NftError> {
        let text = script(&self.table, &wanted);
        (self.known, self.loaded) = (None, None);
        for _ in 0..LOADS {
            let own = self.generation().await.ok().map(following);
            // Without it everything is read once more, and right all the same.
            self.own_generation
                .store(own.unwrap_or_default(), Ordering::Relaxed);
            succeed(nft(&["-f", "-"], &text).await?)?;
            others().await;
            let listing = self.listing().await?;
            let listed = self.generation().await.ok();
            let (Some(listing), Some(own)) = (listing, own.filter(|own| listed == Some(*own))) else {
                continue;
            };
            self.loaded = Some((wanted.clone(), listing));
            self.known = Some((own, Some(wanted)));
            // No other table was changed by it.
            let others = self.filters.iter_mut().chain(&mut self.inputs);
            for (read, _) in others.filter(|(read, _)| following(*read) == own) {
                *read = own;
            }
            return Ok(());
        }
        Err(NftError::Disturbed)
    }

    /// Removes the table, if there is one.
    pub(crate) async fn delete(&mut self) -> Result<(), NftError> {
        let name = &self.table;
        (self.known, self.loaded) = (None, None);
        // Adding what is there changes nothing; and then there is something to delete.
        let text = format!("table inet {name}\ndelete table inet {name}\n");
        succeed(nft(&["-f", "-"], &text).await?).map(|_| ())
    }

    /// Whether a table of our name is there that is not ours.
    pub(crate) async fn foreign(&mut self) -> Result<bool, NftError> {
        let sign = format!("\tchain {SIGN} {{");
        let listing = self.listing().await?;
        Ok(listing.is_some_and(|listing| !listing.lines().any(|line| line == sign)))
    }

    async fn listing(&self) -> Result<Option<String>, NftError> {
        let output = nft(&["-s", "-nn", "list", "table", "inet", &self.table], "").await?;
        if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("No such file") {
            return Ok(None);
        }
        succeed(output).map(Some)
    }

    pub(crate) async fn generation(&mut self) -> Result<u32, NetlinkError> {
        let subsystem = u16::try_from(NFNL_SUBSYS_NFTABLES << 8).unwrap_or_default();
        let request = Request {
            kind: subsystem | u16::try_from(NFT_MSG_GETGEN).unwrap_or_default(),
            flags: 0,
            body: vec![0; HEADER],
        };
        let answer = self.socket.get(&request).await?;
        let number = answer.iter().find_map(generation);
        number.ok_or(NetlinkError::Malformed("no generation"))
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

    use spanwire_testbed as testbed;

    use super::*;

    fn run(script: &str) -> String {
        testbed::Command::shell(script).run()
    }

    /// Loads the table while another program does this, so often at most, right after each load.
    fn load_beside(
        script: &'static str,
        times: usize,
        test: impl FnOnce(Result<(), NftError>, Option<String>) + Send + 'static,
    ) {
        testbed::isolated(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut nft = Nft::open("spanwire").unwrap();
                let wanted = NftTable {
                    text: "table inet spanwire { set remote { type ipv4_addr; elements = { 10.0.0.1 }; }; }"
                        .to_owned(),
                };
                let left = Cell::new(times);
                let others = async || {
                    if let Some(less) = left.get().checked_sub(1) {
                        left.set(less);
                        run(script);
                    }
                };
                let loaded = nft.load_beside(wanted, others).await;
                let read = nft.read().await.unwrap();
                test(loaded, read.map(|table| table.text));
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
                assert!(read.is_some_and(|text| text.contains("10.0.0.1")));
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
                assert_eq!(read.as_deref(), Some(""));
            },
        );
    }
}
