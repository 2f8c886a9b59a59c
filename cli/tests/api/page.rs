//! The page of `map` in Chromium: at the width of a screen and of a phone, by keyboard, and while a leader is gone around.

use std::{collections::BTreeSet, path::Path, time::Duration};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use spanwire_crds::Location;
use spanwire_testbed::{command, wait_until};

use crate::{
    browser::{Browser, ESCAPE, HOME, RIGHT, TAB},
    kubelet::Other,
    map::{Running, SOON, Scene},
};

const SIZES: [(u32, u32); 2] = [(1280, 900), (390, 844)];

/// Text of the cluster that would be markup if it were taken for it.
const MARKUP: &str = "<img src=x onerror=document.title='taken'><b id=taken>b</b>";

/// What is wider than the page.
const OVERFLOW: &str = "[...document.querySelectorAll('body *')].filter((element) => !element.matches('.skip, .hidden')
    && element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map((element) => element.outerHTML.slice(0, 80))
    .concat(document.documentElement.scrollWidth > document.documentElement.clientWidth ? ['the page'] : [])";

/// What has the focus: a link of the picture, or anything else.
const FOCUS: &str = "document.activeElement.getAttribute('data-key')
    ?? `${document.activeElement.id || document.activeElement.tagName} ${document.activeElement.textContent.slice(0, 40)}`";

async fn axe(browser: &Browser, what: &str) {
    let violations = browser
        .value("axe.run(document).then((found) => found.violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))")
        .await;
    assert_eq!(violations, json!([]), "{what}");
}

/// Goes by keyboard to the picture, and from there to every link; returns whose figures were shown.
async fn links_by_keyboard(browser: &Browser) -> BTreeSet<String> {
    browser
        .run("document.activeElement.blur(); window.scrollTo(0, 0)")
        .await;
    let mut stops = 0;
    while !browser.value(FOCUS).await.as_str().unwrap().starts_with("[") {
        browser.press(TAB).await;
        stops += 1;
        assert!(stops < 10, "the Tab key does not lead to the picture");
    }
    browser.press(HOME).await;
    let mut shown = BTreeSet::new();
    loop {
        let key = browser.value(FOCUS).await.as_str().unwrap().to_owned();
        let parties: Vec<String> = serde_json::from_str(&key).unwrap();
        let figures = browser
            .value("document.getElementById('figures-body').textContent")
            .await;
        let figures = figures.as_str().unwrap();
        let label = browser
            .value("document.activeElement.getAttribute('aria-label')")
            .await;
        for text in [
            format!("{} – {}", parties[0], parties[1]),
            "round trip21.3 ms".to_owned(),
        ] {
            assert!(figures.contains(&text), "{text}: {figures}");
        }
        assert!(label.as_str().unwrap().contains("round trip 21.3 ms"), "{label}");
        let outlined = "getComputedStyle(document.activeElement.querySelector('.halo')).stroke !== 'none'";
        assert_eq!(browser.value(outlined).await, true, "the focus is seen");
        if !shown.insert(key) {
            return shown;
        }
        browser.press(RIGHT).await;
    }
}

async fn looks(browser: &Browser, (width, height): (u32, u32)) {
    for scheme in ["light", "dark"] {
        browser.resize(width, height, scheme).await;
        let what = format!("{width} pixels, {scheme}");
        browser.wait("it is drawn for this width", "document.querySelector('#picture svg').viewBox.baseVal.width === \
                                                    Math.round(document.getElementById('picture').clientWidth)").await;
        assert_eq!(browser.value(OVERFLOW).await, json!([]), "{what}");
        axe(browser, &what).await;
    }
    let all: BTreeSet<String> = [["a", "b"], ["a", "c"], ["b", "c"]]
        .map(|pair| json!(pair).to_string())
        .into();
    assert_eq!(links_by_keyboard(browser).await, all, "{width} pixels");
    // The list has them too, each a stop of its own.
    let mut listed = BTreeSet::new();
    for _ in 0..12 {
        browser.press(TAB).await;
        let focus = browser.value(FOCUS).await.as_str().unwrap().to_owned();
        listed.extend(focus.strip_prefix("BUTTON ").map(str::to_owned));
    }
    assert_eq!(
        listed,
        ["a – b", "a – c", "b – c"].map(str::to_owned).into(),
        "{width} pixels"
    );
}

/// Boxes and points of any number of locations have room.
async fn layouts(browser: &Browser) {
    let crowded = "import('/layout.js').then(({ layout }) => [1280, 880, 366, 280].flatMap((width) =>
        Array.from({ length: 60 }, (_, count) => [width, count, layout(count, width, 5)]).filter(([, count, { box, places, height }]) => {
            const [w, h] = box === undefined ? [0, 0] : [box.width, box.height];
            const outside = places.some(({ x, y }) => x < w / 2 || x > width - w / 2 || y < h / 2 || y > height - h / 2);
            const close = places.some((a, i) => places.slice(0, i).some((b) => box === undefined
                ? Math.hypot(a.x - b.x, a.y - b.y) < 7 : Math.abs(a.x - b.x) < w && Math.abs(a.y - b.y) < h));
            return places.length !== count || outside || close;
        }).map(([width, count]) => [width, count])))";
    assert_eq!(browser.value(crowded).await, json!([]));
}

async fn filters(browser: &Browser) {
    let rows = "[...document.querySelectorAll('#links tbody tr button')].map((button) => button.textContent)";
    let type_in = async |text: &str| {
        let script = format!(
            "const search = document.getElementById('search'); search.value = {}; search.dispatchEvent(new Event('input'))",
            json!(text)
        );
        browser.run(&script).await;
    };
    for (text, links) in [
        ("b2", json!(["a – b", "b – c"])),
        ("LAPTOP", json!(["a – b", "a – c"])),
        ("nothing", json!([])),
    ] {
        type_in(text).await;
        assert_eq!(browser.value(rows).await, links, "{text}");
        let drawn = "document.querySelectorAll('#picture .link').length";
        assert_eq!(
            browser.value(drawn).await,
            links.as_array().unwrap().len(),
            "{text}"
        );
    }
    type_in("").await;
    let show = async |what: &str| {
        let script = format!(
            "const show = document.getElementById('show'); show.value = '{what}'; show.dispatchEvent(new Event('change'))"
        );
        browser.run(&script).await;
        browser.value(rows).await
    };
    assert_eq!(show("unknown").await, json!([]));
    assert_eq!(show("wrong").await, json!(["a – c"]));
    assert_eq!(show("all").await, json!(["a – b", "a – c", "b – c"]));
}

async fn points(browser: &Browser) {
    browser
        .run("document.activeElement.blur(); window.scrollTo(0, 0)")
        .await;
    let place = "(() => { const line = document.querySelector('#picture [data-key=\\'[\"a\",\"c\"]\\'] .line').getBoundingClientRect();
        return [line.x + line.width / 2, line.y + line.height / 2] })()";
    let place = browser.value(place).await;
    browser
        .point(place[0].as_f64().unwrap(), place[1].as_f64().unwrap())
        .await;
    let shows = "document.querySelector('#figures-body').textContent.startsWith('a – c ! impaired')";
    browser.wait("the figures of what is pointed at", shows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_for_screens_phones_and_keyboards_and_shows_a_failover() {
    let scene = Scene::with_a_third_location().await;
    let condition = json!({"type": "Ready", "status": "False", "reason": "NoNode", "message": MARKUP,
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let locations: Api<Location> = Api::all(scene.server.client.clone());
    let status = Patch::Merge(json!({"status": {"conditions": [condition], "endpoint": MARKUP}}));
    locations
        .patch_status("c", &PatchParams::default(), &status)
        .await
        .unwrap();
    let lossy = Other {
        loss: 0.05,
        ..Other::well("c", &["c1"])
    };
    scene.agents.say("a1", &[Other::well("b", &["b1", "b2"]), lossy]);

    let map = Running::start(&scene.server, &["--no-open"], &[]);
    let browser = Browser::start(&scene.server).await;
    browser.resize(1280, 900, "light").await;
    browser.go(&map.address).await;
    let measured = "[...document.querySelectorAll('#links .number')].filter((cell) => cell.textContent === '21.3 ms').length === 3";
    browser.wait("all figures are there", measured).await;
    let source = command(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/axe"))
        .output()
        .unwrap();
    let source = std::fs::read_to_string(String::from_utf8(source.stdout).unwrap().trim()).unwrap();
    browser.run(&source).await;
    for size in SIZES {
        looks(&browser, size).await;
    }
    layouts(&browser).await;
    browser.resize(1280, 900, "light").await;
    filters(&browser).await;
    points(&browser).await;

    let said = browser.value("document.getElementById('trouble').textContent + document.getElementById('locations').textContent").await;
    assert_eq!(said.as_str().unwrap().matches(MARKUP).count(), 2, "{said}");
    assert_eq!(
        browser
            .value("document.querySelectorAll('#taken, img, b').length")
            .await,
        0
    );

    // A leader is gone around while a phone is held and a link has the focus.
    browser.resize(390, 844, "dark").await;
    links_by_keyboard(&browser).await;
    browser.press(HOME).await;
    let focus = browser.value(FOCUS).await;
    // The page keeps the time itself: telling it anything takes a while, too.
    browser
        .run(
            "window.seen = null; const see = () => { window.seen ??= Date.now(); };
             new MutationObserver(see).observe(document.getElementById('log'), {childList: true, subtree: true})",
        )
        .await;
    scene.fail_over();
    browser
        .wait(
            "the failover is in the log",
            "document.querySelector('#log li')?.textContent.endsWith(
        'Failover: a1 of a goes to b by b2 now, before by b1')",
        )
        .await;
    let ago = browser.value("Date.now() - window.seen").await.as_u64().unwrap();
    let answered = scene.agents.of("a1", |agent| agent.answered).unwrap().elapsed();
    let after = answered.saturating_sub(Duration::from_millis(ago));
    assert!(after < Duration::from_secs(1), "{after:?}");
    browser.wait("the link is impaired", "document.activeElement.classList.contains('impaired')
        && document.activeElement.getAttribute('aria-label').startsWith('a and b: impaired. a1 of a goes around b1')").await;
    assert_eq!(browser.value(FOCUS).await, focus, "the focus stays");
    browser.press(ESCAPE).await;
    axe(&browser, "after a failover").await;

    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(map);
    browser
        .wait(
            "it says that it is not live",
            "document.getElementById('state').textContent.startsWith('Not live')",
        )
        .await;
    browser.close().await;
    wait_until("nothing asks", SOON, || {
        scene.agents.of("a1", |agent| agent.open) == 0
    });
}
