use std::collections::BTreeSet;

use spanwire_topology::{Family, Prefix};

use super::*;

fn set(prefixes: &[&str]) -> NftSet {
    let ranges = prefixes.iter().map(|text| text.parse::<Prefix>().unwrap().into());
    NftSet::new("s".to_owned(), Family::V4, ranges)
}

fn table(prefixes: &[&str]) -> NftTable {
    NftTable {
        name: "spanwire".to_owned(),
        sets: vec![set(prefixes)],
        chains: String::new(),
    }
}

fn texts(ranges: &[&AddressRange]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

#[test]
fn what_differs_goes_and_comes_as_whole_ranges() {
    let before = table(&["10.0.0.0/24", "10.0.2.0/24", "10.0.4.0/24", "10.0.9.0/24"]);
    let after = table(&[
        "10.0.0.0/24",
        "10.0.2.0/24",
        "10.0.3.0/24",
        "10.0.5.0/24",
        "10.0.9.0/24",
    ]);
    let changes = changes(&before, &after).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(texts(&changes[0].remove), ["10.0.2.0/24", "10.0.4.0/24"]);
    assert_eq!(texts(&changes[0].add), ["10.0.2.0/23", "10.0.5.0/24"]);
}

#[test]
fn a_table_that_differs_in_more_than_a_few_elements_is_loaded() {
    let plain = || table(&["10.0.0.0/24"]);
    let none = |before: &NftTable, after: &NftTable| changes(before, after).is_none();
    assert!(none(&plain(), &plain()), "nothing is to change");
    assert!(none(&NftTable::default(), &plain()) && none(&plain(), &NftTable::default()));
    for other in [&[][..], &["0.0.0.0/8"]] {
        assert!(
            none(&plain(), &table(other)) && none(&table(other), &plain()),
            "{other:?}"
        );
    }
    let mut chains = table(&["10.0.1.0/24"]);
    chains.chains = "chain c { }".to_owned();
    let mut family = plain();
    family.sets[0] = NftSet::new("s".to_owned(), Family::V6, []);
    let mut name = plain();
    name.sets[0] = NftSet::new(
        "t".to_owned(),
        Family::V4,
        plain().sets[0].ranges().iter().copied(),
    );
    let mut one_more = table(&["10.0.1.0/24"]);
    one_more.sets.push(set(&["10.0.0.0/24"]));
    for other in [chains, family, name, one_more] {
        assert!(none(&plain(), &other) && none(&other, &plain()), "{other:?}");
    }
    let many: Vec<String> = (0..=MOST)
        .map(|i| format!("11.{}.{}.1/32", i / 250, i % 250))
        .collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.insert(0, "10.0.0.0/24");
    assert!(none(&plain(), &table(&many)));
    many.pop();
    assert!(!none(&plain(), &table(&many)));
}

#[test]
fn the_end_before_the_first_is_no_element_and_what_cannot_be_read_is_none() {
    let mut list = Vec::new();
    let point = |address: &str, is_end| Point {
        address: address.parse().unwrap(),
        is_end,
    };
    let elements = [
        point("10.0.1.0", true),
        point("0.0.0.0", true),
        point("10.0.0.0", false),
    ];
    for element in elements {
        push_nested(&mut list, ITEM, &element.element());
    }
    push_nested(&mut list, ITEM, &[1, 2, 3]);
    let mut body = vec![0; HEADER];
    push_nested(&mut body, LIST[2], &list);
    let found = points(&[Message::new(0, body)]);
    assert_eq!(found, [point("10.0.0.0", false), point("10.0.1.0", true)]);
}

#[test]
fn ranges_are_read_from_their_bounds_and_nothing_else_is() {
    let point = |(address, is_end): (&str, bool)| Point {
        address: address.parse().unwrap(),
        is_end,
    };
    let read = |bounds: &[(&str, bool)], family| {
        let points: Vec<Point> = bounds.iter().copied().map(point).collect();
        ranges(&points, family)
    };
    let whole = table(&["10.0.0.0/8", "192.0.2.1/32", "255.255.255.255/32"]);
    let bounds: Vec<Point> = whole.sets[0].ranges().iter().flat_map(Point::of).collect();
    assert_eq!(
        ranges(&bounds, Family::V4).as_deref(),
        Some(whole.sets[0].ranges())
    );
    assert_eq!(read(&[], Family::V6), Some(Vec::new()));
    assert_eq!(
        read(&[("10.0.0.0", false)], Family::V6),
        None,
        "of another family"
    );
    for bounds in [
        [("10.0.0.0", false), ("11.0.0.0", false)],
        [("10.0.0.0", true), ("11.0.0.0", false)],
        [("10.0.0.0", false), ("::1", true)],
        [("10.0.0.0", false), ("10.0.0.0", true)],
    ] {
        assert_eq!(read(&bounds, Family::V4), None, "{bounds:?}");
    }
}

#[test]
fn many_ranges_are_changed_in_parts_none_of_which_takes_away_what_stays() {
    // Every range begins where it did; two of three are longer afterwards, or shorter.
    let address = |i: u32| IpAddr::from(std::net::Ipv4Addr::from((10 << 24) + (i << 8)));
    let of = |length: u32| {
        let length = move |i: u32| if i.is_multiple_of(3) { 2 } else { length };
        let ranges =
            (0..2_000).map(move |i| AddressRange::between(address(4 * i), Some(address(4 * i + length(i)))));
        NftSet::new("s".to_owned(), Family::V4, ranges.flatten())
    };
    let firsts =
        |ranges: &[AddressRange]| -> Vec<IpAddr> { ranges.iter().map(AddressRange::first).collect() };
    for (before, after) in [(of(1), of(3)), (of(3), of(1))] {
        let parts = Change::of(&before, &after).unwrap().in_parts();
        assert_eq!(parts.len(), 6, "1,333 go and 1,333 come");
        let mut ranges = before.ranges().to_vec();
        for part in &parts {
            assert!(
                part.size() <= MOST + 1,
                "a range and what becomes of it stay together"
            );
            let gone: BTreeSet<_> = part.remove.iter().copied().collect();
            ranges.retain(|range| !gone.contains(range));
            ranges.extend(part.add.iter().copied().copied());
            ranges.sort();
            assert_eq!(firsts(&ranges), firsts(before.ranges()));
        }
        assert!(ranges == after.ranges());
    }
    // What reaches the last address overlaps all that follows.
    let last = NftSet::new(
        "s".to_owned(),
        Family::V4,
        AddressRange::between(address(0), None),
    );
    for (before, after) in [(&last, &of(1)), (&of(1), &last)] {
        assert_eq!(Change::of(before, after).unwrap().in_parts().len(), 1);
    }
}
