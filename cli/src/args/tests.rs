//! The command line is read as it is explained.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn every_command_has_examples() {
    fn check(command: &clap::Command) {
        for command in command.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{}", command.get_name());
            check(command);
        }
    }
    check(&Args::command());
}

/// The words of the command lines in a text of examples; what goes into a pipe or a file is another program's.
fn examples(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let ours = lines.filter_map(|line| {
        let (_, words) = line
            .split_once("kubectl spanwire ")
            .or_else(|| line.split_once("kubectl-spanwire "))?;
        words.split(['|', '>']).next()
    });
    ours.map(|words| words.split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn examples_are_command_lines() {
    fn check(command: &clap::Command, count: &mut usize) {
        for command in command.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            for words in examples(&help.unwrap_or_default()) {
                let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
                let words = words.iter().map(|word| if word == "KEY" { key } else { word });
                let all: Vec<&str> = ["kubectl-spanwire"].into_iter().chain(words).collect();
                if let Err(problem) = Args::try_parse_from(&all) {
                    panic!("{all:?}: {problem}");
                }
                *count += 1;
            }
            check(command, count);
        }
    }
    let mut count = 0;
    check(&Args::command(), &mut count);
    assert!(count > 40, "{count}");
}

#[test]
fn a_measurement_takes_seconds_and_not_minutes() {
    let read = |seconds| Args::try_parse_from(["kubectl-spanwire", "bench", "a", "b", "--seconds", seconds]);
    assert!(["1", "30"].into_iter().all(|seconds| read(seconds).is_ok()));
    assert!(["0", "31", "x"].into_iter().all(|seconds| read(seconds).is_err()));
}

#[test]
fn the_networks_of_services_are_named_or_left_to_the_api_server() {
    let read = |words: &[&str]| {
        let all = ["kubectl-spanwire", "connect"].iter().chain(words);
        let Command::Connect(args) = Args::try_parse_from(all).unwrap().command else {
            panic!("it is another command")
        };
        args.service_cidr.map(|cidrs| cidrs.len())
    };
    assert_eq!(read(&[]), None);
    assert_eq!(read(&["--service-cidr"]), Some(0));
    assert_eq!(read(&["--service-cidr", "--location", "a"]), Some(0));
    assert_eq!(
        read(&["--service-cidr", "10.96.0.0/12", "--service-cidr", "fd96::/112"]),
        Some(2)
    );
}

#[test]
fn flags_of_kubectl_may_stand_behind_the_command() {
    let args =
        Args::try_parse_from(["kubectl-spanwire", "plan", "-f", "x", "-n", "s", "--context", "c"]).unwrap();
    assert_eq!(
        (args.reach.namespace.as_deref(), args.reach.context.as_deref()),
        (Some("s"), Some("c"))
    );
    assert!(Args::try_parse_from(["kubectl-spanwire", "plan"]).is_err());
}

/// The namespace of what is named, and Spanwire's, where they are said.
fn namespaces(words: &[&str]) -> (Option<String>, Option<String>) {
    let all = ["kubectl-spanwire"].iter().chain(words);
    let args = Args::try_parse_from(all).unwrap();
    let reach = if args.command.names_objects() {
        args.reach
    } else {
        args.reach.without_objects()
    };
    (reach.namespace, reach.spanwire_namespace)
}

#[test]
fn the_namespace_is_that_of_what_is_named_and_where_nothing_is_that_of_spanwire() {
    let some = |name: &str| Some(name.to_owned());
    for words in [
        ["explain", "pod/a", "svc/b"],
        ["ping", "a", "svc/b"],
        ["bench", "a", "b"],
    ] {
        assert_eq!(
            namespaces(&[&words[..], &["-n", "shop"]].concat()),
            (some("shop"), None)
        );
        let both = ["-n", "shop", "--spanwire-namespace", "mesh"];
        assert_eq!(
            namespaces(&[&words[..], &both].concat()),
            (some("shop"), some("mesh"))
        );
    }
    assert_eq!(namespaces(&["status", "-n", "mesh"]), (None, some("mesh")));
    assert_eq!(
        namespaces(&["status", "--spanwire-namespace", "mesh"]),
        (None, some("mesh"))
    );
    assert_eq!(namespaces(&["status"]), (None, None));
}

#[test]
fn what_a_packet_carries_is_named_for_a_cluster_alone() {
    let read = |words: &[&str]| {
        let all = ["kubectl-spanwire", "explain", "a", "b"].iter().chain(words);
        Args::try_parse_from(all).is_ok()
    };
    assert!(
        read(&["--protocol", "tcp", "--port", "443"])
            && read(&["--protocol", "icmp"])
            && read(&["--port", "1"])
    );
    assert!(!read(&["--protocol", "sctp"]) && !read(&["--port", "0"]) && !read(&["--port", "65536"]));
    assert!(!read(&["--port", "443", "-f", "x"]) && !read(&["--protocol", "udp", "-f", "x"]));
}

#[test]
fn a_format_that_a_command_has_not_is_refused_and_the_error_names_those_that_it_has() {
    for (words, refused, has) in [
        (
            &["explain", "a", "b"][..],
            &["name", "wide"][..],
            "[possible values: json, yaml]",
        ),
        (
            &["ping", "a", "b"],
            &["name", "wide"],
            "[possible values: json, yaml]",
        ),
        (
            &["migrate", "kilo"],
            &["name", "wide"],
            "[possible values: json, yaml]",
        ),
        (
            &["bench", "a", "b"],
            &["name"],
            "[possible values: wide, json, yaml]",
        ),
        (
            &["verify", "encryption"],
            &["name"],
            "[possible values: wide, json, yaml]",
        ),
        (
            &["graph"],
            &["name", "json"],
            "[possible values: text, dot, mermaid, svg]",
        ),
        (&["showconf", "node", "a"], &["name"], "json, yaml]"),
        (&["status"], &["svg"], "[possible values: wide, json, yaml, name]"),
        (
            &["diagnose"],
            &["svg"],
            "[possible values: wide, json, yaml, name]",
        ),
        (
            &["plan", "-f", "x"],
            &["svg"],
            "[possible values: wide, json, yaml, name]",
        ),
        (
            &["peer", "list"],
            &["svg"],
            "[possible values: wide, json, yaml, name]",
        ),
    ] {
        for format in refused {
            let all = [&["kubectl-spanwire"], words, &["-o", format]].concat();
            let said = Args::try_parse_from(&all).unwrap_err().to_string();
            assert!(said.contains(has), "{all:?}: {said}");
        }
    }
}
