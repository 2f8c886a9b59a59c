use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spanwire_host::{Route, RouteKey, RouteKind, Step, TableId};
use spanwire_kernel::ApplyError;

use crate::lab::{json, lab, link, p, run};

const T: TableId = TableId(51_830);
const RETURN: TableId = TableId(51_831);

/// A LAN with addresses of both families, and a second device.
fn lan() {
    run("ip link add lan type veth peer name far && ip link set lan up && ip link set far up");
    run("ip addr add 10.1.0.5/24 dev lan && ip addr add fd01::5/64 dev lan nodad");
}

fn key(table: TableId, prefix: &str, metric: u32) -> RouteKey {
    RouteKey {
        table,
        prefix: p(prefix),
        metric,
    }
}

fn route(kind: RouteKind) -> Route {
    Route { kind, mtu: None }
}

fn unicast(dev: &str, via: Option<&str>, onlink: bool, src: Option<&str>) -> Route {
    route(RouteKind::Unicast {
        dev: link(dev),
        via: via.map(p),
        onlink,
        src: src.map(p),
    })
}

/// Every kind of route, in both families.
fn kinds() -> [(&'static str, u32, Vec<Route>); 2] {
    let with_mtu = |mut route: Route| {
        route.mtu = Some(1300);
        route
    };
    let v4 = vec![
        unicast("lan", None, false, None),
        unicast("lan", None, false, Some("10.1.0.5")),
        unicast("lan", Some("10.1.0.1"), false, None),
        unicast("lan", Some("192.0.2.1"), true, Some("10.1.0.5")),
        with_mtu(unicast("far", Some("10.9.9.9"), true, None)),
        route(RouteKind::Throw),
        route(RouteKind::Unreachable),
        route(RouteKind::Blackhole),
    ];
    let v6 = vec![
        unicast("lan", None, false, None),
        unicast("lan", None, false, Some("fd01::5")),
        unicast("lan", Some("fd01::1"), false, None),
        unicast("lan", Some("2001:db8::1"), true, Some("fd01::5")),
        with_mtu(unicast("far", Some("fd09::9"), true, None)),
        route(RouteKind::Throw),
        route(RouteKind::Unreachable),
        route(RouteKind::Blackhole),
    ];
    [("10.20.0.0/16", 10, v4), ("fd20::/64", 10, v6)]
}

#[test]
fn every_kind_of_route_is_read_as_it_was_set_and_replaces_every_other() {
    lab(async |lab| {
        lan();
        for (prefix, metric, kinds) in kinds() {
            let key = key(T, prefix, metric);
            for (from, to) in kinds.iter().flat_map(|a| kinds.iter().map(move |b| (a, b))) {
                lab.apply(vec![
                    Step::SetRoute(key, from.clone()),
                    Step::SetRoute(key, to.clone()),
                ])
                .await;
                assert_eq!(
                    *lab.read().await.routes,
                    [(key, to.clone())].into(),
                    "{from:?} replaced"
                );
            }
            lab.apply(vec![Step::DeleteRoute(key), Step::DeleteRoute(key)])
                .await;
            assert_eq!(*lab.read().await.routes, BTreeMap::new());
        }
    });
}

#[test]
fn ip_shows_the_routes_that_were_asked_for() {
    lab(async |lab| {
        lan();
        let onlink = unicast("lan", Some("192.0.2.1"), true, Some("10.1.0.5"));
        lab.apply(vec![
            Step::SetRoute(key(T, "10.20.0.0/16", 10), onlink),
            Step::SetRoute(key(T, "10.20.0.0/16", 20), route(RouteKind::Unreachable)),
            Step::SetRoute(key(RETURN, "10.1.0.9", 0), unicast("lan", None, false, None)),
            Step::SetRoute(key(T, "fd20::/64", 20), route(RouteKind::Throw)),
        ])
        .await;

        let listed = json("ip -j -d route show table 51830");
        assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
        let first = &listed[0];
        assert_eq!(
            [
                &first["type"],
                &first["dst"],
                &first["gateway"],
                &first["dev"],
                &first["prefsrc"],
                &first["protocol"]
            ],
            ["unicast", "10.20.0.0/16", "192.0.2.1", "lan", "10.1.0.5", "151"]
        );
        assert_eq!(
            (&first["metric"], &first["flags"][0]),
            (&10.into(), &"onlink".into())
        );
        assert_eq!(
            (&listed[1]["type"], &listed[1]["metric"]),
            (&"unreachable".into(), &20.into())
        );
        let listed = json("ip -j -d route show table 51831");
        assert_eq!(
            [&listed[0]["dst"], &listed[0]["dev"], &listed[0]["scope"]],
            ["10.1.0.9", "lan", "link"]
        );
        let listed = json("ip -6 -j -d route show table 51830");
        assert_eq!(
            (&listed[0]["type"], &listed[0]["metric"]),
            (&"throw".into(), &20.into())
        );
    });
}

#[test]
fn routes_of_others_are_not_seen_and_stay() {
    lab(async |lab| {
        lan();
        run("ip route add 10.30.0.0/16 dev lan table 51830");
        run("ip -6 route add fd30::/64 dev lan table 51830");
        run("ip route add 10.31.0.0/16 dev lan proto 151");
        run("ip route add 10.20.0.0/16 dev far metric 5 table 51832 proto 151");
        // The kernel adds the route to a link-local address when it has found no duplicate of it.
        run("while ip -6 address show tentative | grep -q inet6; do sleep 0.1; done");
        let before = run("ip route show table all; ip -6 route show table all");

        let key = key(T, "10.20.0.0/16", 0);
        lab.apply(vec![Step::SetRoute(key, route(RouteKind::Throw))])
            .await;
        assert_eq!(*lab.read().await.routes, [(key, route(RouteKind::Throw))].into());
        lab.apply(vec![Step::DeleteRoute(key)]).await;

        assert_eq!(run("ip route show table all; ip -6 route show table all"), before);
    });
}

#[test]
fn what_the_kernel_refuses_is_reported_with_its_reason_and_stops_nothing() {
    lab(async |lab| {
        lan();
        let good = unicast("lan", None, false, None);
        let steps = vec![
            Step::SetRoute(
                key(T, "10.20.0.0/16", 0),
                unicast("lan", Some("192.0.2.1"), false, None),
            ),
            Step::SetRoute(key(T, "10.21.0.0/16", 0), unicast("nowhere", None, false, None)),
            Step::SetRoute(key(T, "10.22.0.0/16", 0), good.clone()),
            Step::SetRoute(
                key(T, "fd20::/64", 9),
                unicast("lan", None, false, Some("fd77::1")),
            ),
        ];
        let report = lab.kernel.apply(steps.clone()).await;

        assert_eq!(report.done, 1);
        let failed: BTreeMap<String, &ApplyError> = report
            .failed
            .iter()
            .map(|(step, error)| (format!("{step:?}"), error))
            .collect();
        let error = |index: usize| failed[&format!("{:?}", steps[index])];
        assert!(
            matches!(error(0), ApplyError::Refused(refusal) if refusal.to_string().contains("invalid gateway")),
            "{:?}",
            error(0)
        );
        assert!(matches!(error(1), ApplyError::NoLink(name) if name.as_str() == "nowhere"));
        assert!(matches!(error(3), ApplyError::Refused(_)));
        assert_eq!(
            *lab.read().await.routes,
            [(key(T, "10.22.0.0/16", 0), good)].into()
        );
    });
}

#[test]
fn ten_thousand_routes_go_in_and_out_within_half_a_minute() {
    lab(async |lab| {
        lan();
        let routes: BTreeMap<RouteKey, Route> = (0..10_000_u32)
            .map(|number| {
                let [_, _, high, low] = number.to_be_bytes();
                let prefix = if number % 2 == 0 {
                    format!("10.{high}.{low}.0/24")
                } else {
                    format!("fd20:0:{high:x}:{low:x}::/64")
                };
                (key(T, &prefix, 10), unicast("lan", None, false, None))
            })
            .collect();
        let set = routes
            .iter()
            .map(|(key, route)| Step::SetRoute(*key, route.clone()))
            .collect();
        let delete = routes.keys().map(|key| Step::DeleteRoute(*key)).collect();

        let start = Instant::now();
        lab.apply(set).await;
        let set = start.elapsed();
        let host = lab.read().await;
        let read = start.elapsed() - set;
        let start = Instant::now();
        lab.apply(delete).await;
        let delete = start.elapsed();

        println!("set {set:?}, read {read:?}, delete {delete:?}");
        assert!(*host.routes == routes);
        assert!(lab.read().await.routes.is_empty());
        // Wide of the mark, for machines that are busy with other things.
        assert!(
            set + read + delete < Duration::from_secs(30),
            "{set:?} {read:?} {delete:?}"
        );
    });
}
