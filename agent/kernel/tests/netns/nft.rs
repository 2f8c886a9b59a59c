use std::net::Ipv4Addr;

use spanwire_host::{AddressRange, NftSet, NftTable, Step};
use spanwire_kernel::{ApplyError, BackendChoice, NftError};
use spanwire_topology::{Family, Prefix};

use crate::lab::{Lab, json, lab, p, run};

const CHAINS: &str = "chain forward {
    type filter hook forward priority filter; policy accept;
    iifname { \"eth0\", \"eth1\" } ip daddr @remote counter accept
}
";

fn set(name: &str, family: Family, prefixes: &[&str]) -> NftSet {
    let ranges = prefixes.iter().map(|text| AddressRange::from(p::<Prefix>(text)));
    NftSet::new(name.to_owned(), family, ranges)
}

fn table(remote: &[&str]) -> NftTable {
    NftTable {
        name: "spanwire".to_owned(),
        sets: vec![set("remote", Family::V4, remote)],
        chains: CHAINS.to_owned(),
    }
}

/// Returns the number that the kernel gave to the table when it was made.
fn handle() -> String {
    json("nft -j list tables")["nftables"][1]["table"]["handle"].to_string()
}

#[test]
fn the_table_is_loaded_replaced_and_deleted_and_read_as_it_was_wanted() {
    lab(async |lab| {
        assert_eq!(lab.read().await.nft, None);
        // Adjacent networks are merged, so the kernel never lists what was loaded.
        for wanted in [table(&["10.0.0.0/9", "10.128.0.0/9"]), table(&["192.0.2.0/24"])] {
            lab.apply(vec![Step::SetNft(wanted.clone())]).await;
            assert_eq!(lab.read().await.nft, Some(wanted));
        }
        let listing = run("nft list ruleset");
        assert!(
            listing.contains("192.0.2.0/24") && !listing.contains("10.0.0.0"),
            "{listing}"
        );

        lab.apply(vec![Step::DeleteNft, Step::DeleteNft]).await;
        assert_eq!(lab.read().await.nft, None);
        assert_eq!(run("nft list ruleset"), "");
    });
}

#[test]
fn a_change_of_the_table_is_noticed_and_packets_and_other_tables_are_not_taken_for_one() {
    lab(async |lab| {
        let wanted = table(&["10.0.0.0/8"]);
        lab.apply(vec![Step::SetNft(wanted.clone())]).await;

        run("nft add table ip other && nft add chain ip other c && nft add rule ip other c counter");
        assert_eq!(lab.read().await.nft.as_ref(), Some(&wanted));

        for change in [
            "nft add element inet spanwire remote { 192.0.2.0/24 }",
            "nft flush chain inet spanwire forward",
            "nft add chain inet spanwire extra",
        ] {
            run(change);
            let found = lab.read().await.nft;
            assert_eq!(found, Some(NftTable::default()), "{change}");
            lab.apply(vec![Step::SetNft(wanted.clone())]).await;
            assert_eq!(lab.read().await.nft.as_ref(), Some(&wanted));
        }
        run("nft delete table inet spanwire");
        assert_eq!(lab.read().await.nft, None);
        assert_eq!(
            json("nft -j list table ip other")["nftables"][1]["table"]["name"],
            "other"
        );
    });
}

#[test]
fn a_table_that_nft_refuses_changes_nothing_and_its_words_are_kept() {
    lab(async |lab| {
        let wanted = table(&["10.0.0.0/8"]);
        lab.apply(vec![Step::SetNft(wanted)]).await;
        let before = run("nft list ruleset");

        let mut nonsense = table(&["10.0.0.0/8"]);
        nonsense.chains.push_str("nonsense!\n");
        let report = lab.kernel.apply(vec![Step::SetNft(nonsense)]).await;

        assert!(
            matches!(&report.failed[..], [(_, ApplyError::Nft(NftError::Failed(text)))] if text.contains("syntax error")),
            "{report:?}"
        );
        assert_eq!(run("nft list ruleset"), before);
        assert_eq!(lab.read().await.nft, Some(NftTable::default()));
    });
}

#[test]
fn an_agent_that_starts_knows_the_table_that_the_one_before_it_has_loaded() {
    lab(async |lab| {
        lab.apply(vec![Step::SetNft(large(1))]).await;
        let before = handle();
        // Elements alone, so the file is as it was.
        lab.apply(vec![Step::SetNft(large(2))]).await;
        assert_eq!(handle(), before);

        lab.kernel = lab.restarted(BackendChoice::Auto).await;
        assert_eq!(lab.read().await.nft, Some(large(2)));
        lab.apply(vec![Step::SetNft(large(3))]).await;
        assert_eq!(handle(), before, "it was changed, and not loaded");
        assert_eq!(lab.read().await.nft, Some(large(3)));
    });
}

#[test]
fn an_agent_that_starts_sees_what_was_changed_while_there_was_none() {
    lab(async |lab| {
        let wanted = table(&["10.0.0.0/8"]);
        for (change, seen) in [
            ("nft flush chain inet spanwire forward", NftTable::default()),
            ("nft add chain inet spanwire extra", NftTable::default()),
            (
                "copy=$(nft -s list table inet spanwire); nft delete table inet spanwire; echo \"$copy\" | nft -f -",
                NftTable::default(),
            ),
            (
                "nft add element inet spanwire remote { 192.0.2.0/24 }",
                table(&["10.0.0.0/8", "192.0.2.0/24"]),
            ),
            (
                "nft delete element inet spanwire remote { 10.0.0.0/8 }",
                table(&[]),
            ),
        ] {
            lab.apply(vec![Step::SetNft(wanted.clone())]).await;
            run(change);
            lab.kernel = lab.restarted(BackendChoice::Auto).await;
            assert_eq!(lab.read().await.nft, Some(seen), "{change}");
            lab.apply(vec![Step::SetNft(wanted.clone())]).await;
            assert_eq!(lab.read().await.nft.as_ref(), Some(&wanted), "{change}");
        }
        lab.apply(vec![Step::DeleteNft]).await;
        lab.kernel = lab.restarted(BackendChoice::Auto).await;
        assert_eq!(lab.read().await.nft, None);
    });
}

/// A table with sets of both families; `seed` says which addresses are in it.
fn large(seed: u32) -> NftTable {
    // One in fifty differs from seed to seed.
    let has = |i: u32| !(i * 7 + i / 3 + seed * u32::from(i % 50 == seed)).is_multiple_of(5);
    let numbers = || (1..1_500_u32).filter(|i| has(*i));
    let v4 = numbers().map(|i| Prefix::new(Ipv4Addr::from((10 << 24) + (i << 8)).into(), 24).unwrap());
    let v6 = numbers().map(|i| p::<Prefix>(&format!("fd00:{i:x}::/32")));
    // Up to the last address of all, which has none after it.
    let v6 = v6.chain([p("ff00::/8")].into_iter().filter(|_| seed.is_multiple_of(2)));
    NftTable {
        sets: vec![
            NftSet::new("remote".to_owned(), Family::V4, v4.map(AddressRange::from)),
            NftSet::new("remote6".to_owned(), Family::V6, v6.map(AddressRange::from)),
            set("other", Family::V4, &["192.0.2.0/24"]),
        ],
        ..table(&[])
    }
}

async fn set_table(lab: &mut Lab, wanted: &NftTable) {
    lab.apply(vec![Step::SetNft(wanted.clone())]).await;
    assert!(lab.read().await.nft.as_ref() == Some(wanted), "it is in force");
}

#[test]
fn elements_are_changed_in_the_table_that_is_there_and_then_it_is_as_if_it_had_been_loaded() {
    lab(async |lab| {
        set_table(lab, &large(0)).await;
        for seed in 1..6 {
            let before = handle();
            set_table(lab, &large(seed)).await;
            assert_eq!(handle(), before, "the table was not made again");
            let changed = run("nft -s list table inet spanwire");
            // Any transaction has the kernel asked, element by element.
            run("nft add table ip other; nft delete table ip other");
            assert!(
                lab.read().await.nft == Some(large(seed)),
                "it is found to be in force"
            );

            run("nft delete table inet spanwire");
            set_table(lab, &large(seed)).await;
            assert_eq!(run("nft -s list table inet spanwire"), changed);
            set_table(lab, &table(&["10.0.0.0/8"])).await;
            set_table(lab, &large(seed)).await;
        }
        let before = handle();
        let mut chains = large(5);
        chains.chains = chains.chains.replace("accept\n}", "drop\n}");
        set_table(lab, &chains).await;
        assert_eq!(handle(), before, "other rules are filled in");
    });
}

#[test]
fn what_other_programs_change_in_a_table_of_changed_elements_is_noticed_and_repaired() {
    lab(async |lab| {
        for change in [
            "nft delete element inet spanwire other { 192.0.2.0/24 }",
            "nft add element inet spanwire remote6 { fe00::/16 }",
            "nft flush set inet spanwire remote",
            "nft add rule inet spanwire forward counter",
            "nft 'add chain inet spanwire forward { type filter hook forward priority filter; policy drop; }'",
            "nft add set inet spanwire more '{ type ipv4_addr; }'",
            "nft 'add table inet spanwire { flags dormant; }'",
        ] {
            set_table(lab, &large(1)).await;
            set_table(lab, &large(2)).await;
            run(change);
            assert_eq!(lab.read().await.nft, Some(NftTable::default()), "{change}");
            set_table(lab, &large(2)).await;

            // Before the agent has looked.
            run(change);
            set_table(lab, &large(1)).await;
            let listing = run("nft -s list table inet spanwire");
            run("nft delete table inet spanwire");
            set_table(lab, &large(1)).await;
            assert_eq!(run("nft -s list table inet spanwire"), listing, "{change}");
        }
    });
}
