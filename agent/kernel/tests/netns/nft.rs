use spanwire_host::{NftTable, Step};
use spanwire_kernel::{ApplyError, BackendChoice, NftError};

use crate::lab::{json, lab, run};

fn table(elements: &str) -> NftTable {
    NftTable {
        text: format!(
            "table inet spanwire {{
               set remote {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {elements} }}; }}
               chain forward {{
                 type filter hook forward priority filter; policy accept;
                 ip daddr @remote counter accept
               }}
             }}"
        ),
    }
}

#[test]
fn the_table_is_loaded_replaced_and_deleted_and_read_as_it_was_wanted() {
    lab(async |lab| {
        assert_eq!(lab.read().await.nft, None);
        // Adjacent networks are merged, so the kernel never lists what was loaded.
        for wanted in [table("10.0.0.0/9, 10.128.0.0/9"), table("192.0.2.0/24")] {
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
        let wanted = table("10.0.0.0/8");
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
            assert_eq!(found, Some(NftTable { text: String::new() }), "{change}");
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
        let wanted = table("10.0.0.0/8");
        lab.apply(vec![Step::SetNft(wanted)]).await;
        let before = run("nft list ruleset");

        let report = lab.kernel.apply(vec![Step::SetNft(table("nonsense!"))]).await;

        assert!(
            matches!(&report.failed[..], [(_, ApplyError::Nft(NftError::Failed(text)))] if text.contains("syntax error")),
            "{report:?}"
        );
        assert_eq!(run("nft list ruleset"), before);
        assert_eq!(lab.read().await.nft, Some(NftTable { text: String::new() }));
    });
}

#[test]
fn after_a_restart_the_table_counts_as_unknown_until_it_is_loaded_once_more() {
    lab(async |lab| {
        let wanted = table("10.0.0.0/8");
        lab.apply(vec![Step::SetNft(wanted.clone())]).await;

        lab.kernel = lab.restarted(BackendChoice::Auto).await;

        assert_eq!(lab.read().await.nft, Some(NftTable { text: String::new() }));
        lab.apply(vec![Step::SetNft(wanted.clone())]).await;
        assert_eq!(lab.read().await.nft, Some(wanted));
    });
}
