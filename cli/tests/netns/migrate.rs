//! What the script of `migrate kilo` runs on each node.

use std::time::Duration;

use serde_json::{Value, json};
use spanwire_cli::migrate::{Found, Installation, report};
use spanwire_testbed::{Command, isolated, wait_until};

/// The DaemonSet that removes Kilo's devices, as the script has it.
fn removal() -> Value {
    let kilo = json!({"metadata": {"namespace": "kube-system", "name": "kilo"}, "spec": {"template": {"spec": {
        "containers": [{"image": "squat/kilo", "args": ["--cni=false"]}]}}}});
    let found = Found {
        daemon_sets: &[kilo],
        ..Found::default()
    };
    let script = report(&found, None).unwrap().text(&Installation {
        namespace: "spanwire".to_owned(),
        chart: "charts/spanwire".to_owned(),
    });
    let (_, rest) = script.split_once("<<'END_OF_REMOVAL'\n").unwrap();
    let (manifest, _) = rest.split_once("\nEND_OF_REMOVAL\n").unwrap();
    serde_saphyr::from_str(manifest).unwrap()
}

/// A command of a container.
fn command(words: &Value) -> Command {
    let mut words = words
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap());
    Command::new(words.next().unwrap()).args(words)
}

#[test]
fn a_pod_of_the_removal_is_ready_where_the_device_is_gone() {
    isolated(|| {
        let removal = removal();
        let container = &removal["spec"]["template"]["spec"]["containers"][0];
        let ready = || command(&container["readinessProbe"]["exec"]["command"]);
        Command::shell("ip link add kilo0 type veth peer name other; ip link set kilo0 up").run();
        assert!(!ready().succeeds());
        let mut removing = command(&container["command"]).spawn();
        wait_until("the device is gone", Duration::from_secs(20), || {
            ready().succeeds()
        });
        removing.kill().unwrap();
        removing.wait().unwrap();
        // In an image without `ip` nothing is known.
        let ready = container["readinessProbe"]["exec"]["command"][2]
            .as_str()
            .unwrap();
        let without = ["-c", &format!("PATH=/nowhere; {ready}")];
        assert!(!Command::new("sh").args(without).succeeds());
    });
}
