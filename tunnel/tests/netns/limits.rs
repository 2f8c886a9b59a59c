//! What `wg` sets and shows where answers are long, and the keys that it may set.

use crate::world::{Engine, Side, World, pipe, run};

fn key() -> String {
    pipe(&["wg", "pubkey"], &run(&["wg", "genkey"])).trim().to_owned()
}

fn set_configuration(side: &Side, configuration: String) {
    side.command(&["wg", "setconf", &side.device, "/dev/stdin"])
        .input(configuration)
        .run();
}

/// How many allowed IPs each peer is shown with.
fn counts(side: &Side) -> Vec<usize> {
    let shown = side.run(&["wg", "show", &side.device, "allowed-ips"]);
    let count = |line: &str| {
        let prefixes = line.split_whitespace().skip(1);
        prefixes.filter(|prefix| *prefix != "(none)").count()
    };
    shown.lines().map(count).collect()
}

#[test]
fn peers_with_many_and_with_no_allowed_ips_are_shown_as_they_were_set() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let side = &world.a;
    let peer = |prefixes: &[String]| {
        let allowed: String = prefixes
            .iter()
            .map(|prefix| format!("AllowedIPs = {prefix}\n"))
            .collect();
        format!("[Peer]\nPublicKey = {}\n{allowed}", key())
    };
    let forty: String = (1..=40)
        .map(|high| {
            peer(
                &(1..=52)
                    .map(|low| format!("{high}.{low}.0.0/16"))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    set_configuration(side, forty);
    assert_eq!(counts(side), [52; 40]);

    let bare: String = (0..29).map(|_| peer(&[])).collect();
    let last = peer(&["255.2.3.4/32".into(), "abcd::255/128".into()]);
    set_configuration(side, bare + &last);
    let shown = counts(side);
    assert_eq!((shown.len(), shown.iter().sum::<usize>()), (30, 2));
    let configuration = side.run(&["wg", "showconf", &side.device]);
    assert_eq!(configuration.matches("[Peer]").count(), 30);

    set_configuration(side, String::new());
    let many: Vec<String> = (1..=197).map(|low| format!("abcd::{low}")).collect();
    side.wg(&["peer", &key()]);
    side.wg(&["peer", &key(), "allowed-ips", &many.join(",")]);
    let mut shown = counts(side);
    shown.sort_unstable();
    assert_eq!(shown, [0, 197]);
    let unknown = side.try_run(&["wg", "show", "doesnotexist"]);
    assert!(!unknown.status.success());
}

#[test]
fn keys_are_taken_given_back_and_taken_away() {
    let world = World::new(Engine::Ours, Engine::Ours);
    let side = &world.a;
    let [one, other, preshared] = [(); 3].map(|()| run(&["wg", "genkey"]).trim().to_owned());
    let [of_one, of_other] = [&one, &other].map(|key| pipe(&["wg", "pubkey"], key).trim().to_owned());
    let show = |what: &str| side.run(&["wg", "show", &side.device, what]).trim().to_owned();
    let set = |words: &[&str], key: &str| side.wg_with_stdin(words, key);

    set(&["private-key", "/dev/stdin"], &one);
    set(&["peer", &of_other, "preshared-key", "/dev/stdin"], &preshared);
    assert_eq!(show("private-key"), one);
    assert_eq!(show("preshared-keys"), format!("{of_other}\t{preshared}"));
    side.wg(&[
        "private-key",
        "/dev/null",
        "peer",
        &of_other,
        "preshared-key",
        "/dev/null",
    ]);
    assert_eq!(show("private-key"), "(none)");
    assert_eq!(show("preshared-keys"), format!("{of_other}\t(none)"));

    // No device is its own peer, whichever came first.
    set(&["private-key", "/dev/stdin"], &other);
    assert_eq!(
        (show("public-key"), show("peers")),
        (of_other.clone(), String::new())
    );
    side.wg(&["peer", &of_other]);
    assert_eq!(show("peers"), "");
    set(&["private-key", "/dev/stdin"], &one);
    assert_eq!(show("public-key"), of_one);
    side.wg(&["peer", &of_other]);
    assert_eq!(show("peers"), of_other);

    // The bits of a private key that Curve25519 fixes are shown as it uses them.
    set(&["private-key", "/dev/stdin"], &format!("/{}", &one[1..]));
    assert_eq!(show("private-key"), format!("+{}", &one[1..]));

    let overlapping = "0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16";
    side.wg(&["peer", &of_other, "allowed-ips", overlapping]);
    assert_eq!(counts(side), [5]);
    side.wg(&[
        "peer",
        &of_other,
        "allowed-ips",
        "::/0,1700::/111,5000::/4,e000::/37,9000::/75",
    ]);
    side.wg(&["peer", &of_other, "allowed-ips", "::/0"]);
    assert_eq!(show("allowed-ips"), format!("{of_other}\t::/0"));
}
