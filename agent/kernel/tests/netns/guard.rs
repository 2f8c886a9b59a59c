//! What the table keeps from packets while it is loaded.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use spanwire_host::{AddressRange, NftSet, NftTable, Step};
use spanwire_kernel::BackendChoice;
use spanwire_topology::{Family, Prefix};

use crate::lab::{json, lab, p, run};

/// How often the table is loaded.
const LOADS: u32 = 24;

/// A table that drops what is sent to settled networks, and everything that is not sent to known ones. Each number is another
/// table: in rules, in a set, and in what that has besides.
fn table(number: u32) -> NftTable {
    let networks = |first: u32| {
        let all = (0..1_500_u32).map(move |i| Ipv4Addr::from((first << 24) + (i << 9)));
        all.map(|address| AddressRange::from(Prefix::new(address.into(), 24).unwrap()))
    };
    let set = |name: &str, ranges: &mut dyn Iterator<Item = AddressRange>| {
        NftSet::new(name.to_owned(), Family::V4, ranges)
    };
    // A few others, or more than go into one transaction.
    let more = [0, 1, 2, 1_200][number as usize % 4];
    let more = networks(11).take(more);
    let mut sets = vec![
        set("settled4", &mut networks(10).chain(more)),
        set("known4", &mut networks(12)),
    ];
    let mut private = String::new();
    if number.is_multiple_of(2) {
        sets.push(set(
            "private4",
            &mut [AddressRange::from(p::<Prefix>("10.77.0.2/32"))].into_iter(),
        ));
        private = "ip daddr @private4 counter drop".to_owned();
    }
    NftTable {
        name: "spanwire".to_owned(),
        sets,
        chains: format!(
            "chain stray {{\n type filter hook postrouting priority mangle; policy accept;\n \
             oifname != {{ \"a\", \"b{number}\" }} ip daddr @settled4 jump strayed\n {private}\n }}\n\
             chain known {{\n type filter hook output priority mangle; policy accept;\n \
             ip daddr @known4 accept\n ip daddr 12.0.0.0/8 drop\n }}\n\
             chain strayed {{\n drop\n }}\n"
        ),
    }
}

/// Sends to an address all the time.
struct Flood {
    stop: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Flood {
    fn start(to: &'static str) -> Self {
        let [passed, dropped] = [0, 0].map(|count| Arc::new(AtomicU64::new(count)));
        let stop = Arc::new(AtomicBool::new(false));
        let counts = (Arc::clone(&passed), Arc::clone(&dropped), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (passed, dropped, stop) = counts;
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            while !stop.load(Ordering::Relaxed) {
                // What nft drops is not permitted.
                let count = match socket.send_to(b"x", (to, 9)) {
                    Ok(_) => &passed,
                    Err(_) => &dropped,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            passed,
            dropped,
            thread,
        }
    }

    /// Returns how many packets passed, and how many did not.
    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        (
            self.passed.load(Ordering::Relaxed),
            self.dropped.load(Ordering::Relaxed),
        )
    }
}

/// A neighbour behind which everything is, and that takes nothing.
fn net() {
    run(
        "ip link set lo up && ip link add out0 type veth peer name far0 && ip link set out0 up && ip link set far0 up && \
         ip addr add 192.0.2.1/24 dev out0 && ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:99 dev out0 && \
         ip route add default via 192.0.2.2",
    );
}

#[test]
fn no_packet_passes_or_is_lost_while_other_rules_and_sets_are_loaded() {
    lab(async |lab| {
        net();
        lab.apply(vec![Step::SetNft(table(0))]).await;
        let settled = Flood::start("10.0.2.7");
        let known = Flood::start("12.0.2.7");
        for number in 1..=LOADS {
            if number.is_multiple_of(10) {
                // As after a boot with a guard: the agent knows nothing of the table that is there.
                std::fs::remove_file(lab.folder.path().join("nft-table.json")).unwrap();
                lab.kernel = lab.restarted(BackendChoice::Auto).await;
            }
            lab.apply(vec![Step::SetNft(table(number))]).await;
        }
        let (passed, dropped) = settled.finish();
        let (got, lost) = known.finish();
        assert!(dropped > 1_000 && got > 1_000, "{dropped} and {got} were sent");
        assert_eq!((passed, lost), (0, 0), "of {dropped} and {got}");
    });
}

#[test]
fn a_table_that_is_filled_again_is_as_if_it_had_been_loaded() {
    fn words(listing: &str) -> Vec<String> {
        // Of chains and sets the kernel keeps the order in which they were made.
        let mut parts: Vec<String> = listing.split("\n\n").map(|part| part.trim().to_owned()).collect();
        parts.sort();
        parts
    }
    let handle = || json("nft -j list tables")["nftables"][1]["table"]["handle"].to_string();
    let listing = || words(&run("nft -s list table inet spanwire | sed '1d;$d'"));
    lab(async move |lab| {
        let mut loaded = Vec::new();
        for number in 0..6 {
            lab.apply(vec![Step::DeleteNft, Step::SetNft(table(number))])
                .await;
            loaded.push(listing());
        }
        let before = handle();
        for number in [0, 1, 5, 2, 4, 3, 0] {
            lab.apply(vec![Step::SetNft(table(number))]).await;
            assert!(lab.read().await.nft == Some(table(number)), "{number}");
            assert_eq!(listing(), loaded[number as usize], "{number}");
            // An agent that knows nothing of it, as after a boot with a guard, or one of another version.
            std::fs::remove_file(lab.folder.path().join("nft-table.json")).unwrap();
            lab.kernel = lab.restarted(BackendChoice::Auto).await;
            assert!(lab.read().await.nft != Some(table(number)), "{number}");
        }
        for damage in [
            "nft add chain inet spanwire extra '{ type filter hook input priority 0; policy drop; }'",
            "nft flush table inet spanwire",
            "nft flush set inet spanwire settled4",
            "nft add chain inet spanwire stray '{ policy drop; }'",
            "nft add table inet spanwire '{ flags dormant; }'",
            "nft add set inet spanwire more '{ type ipv4_addr; }'",
        ] {
            run(damage);
            lab.apply(vec![Step::SetNft(table(1))]).await;
            assert_eq!(listing(), loaded[1], "{damage}");
        }
        assert_eq!(handle(), before, "it is the same table");
        // A chain that is somewhere else can only be made again.
        run(
            "nft 'flush table inet spanwire; delete chain inet spanwire stray; \
             add chain inet spanwire stray { type filter hook postrouting priority 7; }'",
        );
        lab.apply(vec![Step::SetNft(table(1))]).await;
        assert_ne!(handle(), before);
        assert_eq!(listing(), loaded[1]);
    });
}

/// An address of a VPN comes and goes.
#[test]
fn a_set_that_was_empty_is_filled_and_emptied_and_all_rules_stay() {
    let with = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| AddressRange::from(p::<Prefix>(range)));
        let mut table = table(0);
        table.sets[2] = NftSet::new("private4".to_owned(), Family::V4, ranges);
        table
    };
    // With the handles of rules, which the kernel gives out once.
    let rules = || {
        let listing = run("nft -a -t list table inet spanwire");
        assert!(listing.contains("@private4"), "{listing}");
        listing
    };
    lab(async move |lab| {
        lab.apply(vec![Step::SetNft(with(&[]))]).await;
        let before = rules();
        for ranges in [
            &["10.77.0.2/32"][..],
            &["10.77.0.0/30", "10.78.0.1/32"],
            &[],
            &["0.0.0.0/8"],
        ] {
            lab.apply(vec![Step::SetNft(with(ranges))]).await;
            assert!(lab.read().await.nft == Some(with(ranges)), "{ranges:?}");
            assert_eq!(rules(), before, "{ranges:?}");
        }
    });
}
