//! What a Location says where Calico's eBPF data path does not know the tunnel. Here only the object says that there is such a data
//! path: nothing is dropped.

use anyhow::{Result, ensure};
use serde_json::json;
use spanwire_e2e::{
    Lab,
    expect::{SOON, condition},
    wait_until,
};

pub(crate) fn is_named(lab: &Lab) -> Result<()> {
    let configured = |pattern: &str| {
        let object = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration",
            "metadata": {"name": "default"}, "spec": {"bpfEnabled": true, "bpfL3IfacePattern": pattern}});
        lab.apply(&object.to_string())
    };
    configured("")?;
    wait_until("the location says what to set", SOON, || {
        let (status, message) = condition(lab, &["location", "a"], "Ready")?;
        ensure!(
            status == "False" && message.contains("bpfL3IfacePattern"),
            "{status}: {message}"
        );
        Ok(true)
    })?;
    configured("^spanwire0$")?;
    lab.wait_mesh_ready()
}
