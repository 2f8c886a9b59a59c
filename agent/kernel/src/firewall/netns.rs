//! What cannot be listed.

use spanwire_testbed as testbed;

use super::*;

fn run(script: &str) {
    testbed::Command::shell(script).run();
}

/// Has a base chain be there that `nft` does not list, as one of a program that is newer: by its own words it does not exist.
async fn add_unlisted(nft: &mut Nft, table: &str) {
    let generation = nft.generation().await.unwrap();
    nft.read_bases(Some(generation)).await.unwrap();
    let (_, bases) = nft.bases.as_mut().unwrap();
    bases.push(Subject {
        family: TableFamily::Ip,
        table: table.to_owned(),
        chain: Some("f".to_owned()),
        hook: Some(Hook::Forward),
        filters: true,
        drops: true,
        priority: 0,
        links: None,
    });
}

async fn forward(nft: &mut Nft) -> (Vec<String>, Vec<String>) {
    let mut unread = BTreeSet::new();
    let filters = nft.filters(Hook::Forward, &mut unread).await;
    let names = filters.iter().map(|filter| filter.name.to_string());
    let unread = unread.into_iter().map(|unread| unread.what);
    (names.collect(), unread.collect())
}

fn with_nft(test: impl AsyncFnOnce(Nft) + Send + 'static) {
    testbed::isolated(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let state = tempfile::tempdir().unwrap();
            test(Nft::open("spanwire", state.path()).unwrap()).await;
        });
    });
}

fn unlisted() -> Vec<String> {
    vec!["the rules of the chain ip newer f".to_owned()]
}

const OLDER: &str = "nft 'table ip older { chain f { type filter hook forward priority 1; policy drop; }; }'";

#[test]
fn a_chain_that_cannot_be_listed_is_named_and_the_others_are_read() {
    with_nft(async |mut nft| {
        run(OLDER);
        add_unlisted(&mut nft, "newer").await;
        let older = vec!["ip older f".to_owned()];
        assert_eq!(forward(&mut nft).await, (older.clone(), unlisted()));
        assert_eq!(forward(&mut nft).await, (older.clone(), unlisted()), "once more");
        run("nft add rule ip older f accept");
        assert_eq!(forward(&mut nft).await, (older, vec![]), "it is gone");
    });
}

#[test]
fn what_was_listed_of_a_chain_holds_while_it_cannot_be() {
    with_nft(async |mut nft| {
        run(OLDER);
        run("nft 'table ip newer { chain f { type filter hook forward priority 0; policy drop; }; }'");
        let both = vec!["ip newer f".to_owned(), "ip older f".to_owned()];
        assert_eq!(forward(&mut nft).await, (both.clone(), vec![]));
        run("nft delete table ip newer; nft add rule ip older f accept");
        add_unlisted(&mut nft, "newer").await;
        assert_eq!(forward(&mut nft).await, (both, unlisted()));
        let filters = nft.filters(Hook::Forward, &mut BTreeSet::new()).await;
        let rules: Vec<usize> = filters.iter().map(|filter| filter.rules.len()).collect();
        assert_eq!(rules, [0, 1], "the other is followed meanwhile");
        run("nft add rule ip older f accept");
        assert_eq!(forward(&mut nft).await, (vec!["ip older f".to_owned()], vec![]));
    });
}

#[test]
fn a_chain_whose_name_nft_does_not_take_is_named() {
    with_nft(async |mut nft| {
        run(r#"echo '{"nftables": [
                 {"add": {"table": {"family": "ip", "name": "a b"}}},
                 {"add": {"chain": {"family": "ip", "table": "a b", "name": "f", "type": "filter", "hook": "forward",
                                    "prio": 0, "policy": "drop"}}}]}' | nft -j -f -"#);
        let unnamed = vec!["the rules of the chain ip a b f".to_owned()];
        assert_eq!(forward(&mut nft).await, (vec![], unnamed));
    });
}
