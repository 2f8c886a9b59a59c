use spanwire_host::{Step, Sysctl};
use spanwire_kernel::{ApplyError, BackendChoice};

use crate::lab::{lab, run};

fn name(text: &str) -> Sysctl {
    Sysctl(text.to_owned())
}

#[test]
fn settings_are_written_read_and_put_back_also_by_an_agent_that_restarts() {
    lab(async |lab| {
        run("ip link add flannel.1 type bridge"); // down, so no pod has it
        let names = [
            "net/ipv4/ip_forward",
            "net/ipv4/conf/flannel.1/rp_filter",
            "net/ipv6/conf/all/forwarding",
        ]
        .map(name);
        let values = || {
            run(
                "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/flannel.1/rp_filter /proc/sys/net/ipv6/conf/all/forwarding",
            )
        };
        let before = values();

        let set = names
            .iter()
            .map(|name| Step::SetSysctl(name.clone(), "1".to_owned()));
        lab.apply(set.collect()).await;
        assert_eq!(values(), "1\n1\n1\n");
        assert_ne!(before, values());
        let missing = name("net/ipv4/conf/gone/rp_filter");
        // A folder is what is there and cannot be read, also by root.
        let unreadable = name("net/ipv4/conf");
        let others = [missing.clone(), unreadable];
        let wanted: Vec<Sysctl> = names.iter().cloned().chain(others).collect();
        let host = lab.kernel.read(&wanted).await.unwrap();
        assert_eq!(
            host.sysctls,
            names.iter().map(|name| (name.clone(), "1".to_owned())).collect()
        );

        let report = lab
            .kernel
            .apply(vec![Step::SetSysctl(missing, "1".to_owned())])
            .await;
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::Sysctl { .. })]),
            "{report:?}"
        );

        lab.kernel = lab.restarted(BackendChoice::Auto).await;
        run("ip link add pods type bridge && ip link set pods up");
        let restorable = lab.kernel.restorable_sysctls().await;
        assert_eq!(restorable.len(), 1, "forwarding stays for pods: {restorable:?}");
        run("ip link del pods");
        let restorable = lab.kernel.restorable_sysctls().await;
        let restorable: Vec<Sysctl> = restorable.into_iter().map(|(name, _)| name).collect();
        assert!(restorable.iter().eq(&std::collections::BTreeSet::from(names)));
        assert!(lab.kernel.restore_sysctls().await.is_empty());
        assert_eq!(values(), before);
    });
}
