//! The command `lab`: a real cluster on one machine.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use spanwire_e2e::{
    Holder, Lab, Options, Profile, Progress, Scenario, Spanwire, advertise, ask, forward, scenario::Routers,
};

/// A real Kubernetes cluster of several locations on this machine, in seconds.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Args {
    /// Which lab: several can be up side by side.
    #[arg(long, global = true, default_value = "lab", env = "LAB_NAME")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring up a scenario; ends when all is Ready, or says what is not and why.
    Up {
        /// A scenario, such as examples/lab/demo.yaml.
        file: PathBuf,
        /// Leave Spanwire out: a plain cluster.
        #[arg(long)]
        without_spanwire: bool,
    },
    /// Build everything that labs need, into the cache.
    Prepare,
    /// Install the chart, with the scenario's values, into a lab that is up without it.
    Install,
    /// Nodes, addresses, pods, and where the kubeconfig is; exit code 1 if something is not Ready.
    Status {
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Names of the labs that are up.
    List,
    /// Ping every test pod from every test pod; exit code 1 if one does not answer.
    Ping {
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Run a command on a node (a shell without one).
    Node {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command in the test pod of a node (a shell without one).
    Pod {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command on a location's router, on the `internet` segment or on the host `outside`.
    Network {
        /// A location, `internet` or `outside`.
        place: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run kubectl.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run helm.
    #[command(disable_help_flag = true)]
    Helm {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a command, such as kubectl, with the credentials of a node's kubelet, in the node's network (a shell without one).
    Kubelet {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// The same with the token of the node's agent.
    Agent {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// The same with the credentials of the node's CNI.
    Cni {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Show what passes the `internet` or a location's LAN.
    Capture {
        /// `internet` or a location.
        segment: String,
        /// End after so long.
        #[arg(long)]
        seconds: Option<u32>,
        /// A filter, and other arguments of tcpdump.
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Cut the path between two locations, or between two nodes of one location.
    Cut {
        /// A location or node.
        one: String,
        /// Another.
        other: String,
    },
    /// Mend every cut.
    Heal,
    /// Let the locations reach each other by plain routing, or not.
    Routers {
        /// What the routers let through.
        #[arg(value_enum)]
        state: RouterState,
    },
    /// Bring a neighbour, one of the profiles of `hosts` in a scenario, to a node.
    Comes {
        /// The node.
        node: String,
        /// The profile.
        profile: String,
    },
    /// Take a neighbour from a node.
    Goes {
        /// The node.
        node: String,
        /// The profile.
        profile: String,
    },
    /// Cut the power of a node.
    Crash {
        /// The node.
        node: String,
    },
    /// Start a node again, after a power cut if it is up.
    Reboot {
        /// The node.
        node: String,
    },
    /// Remove the lab and everything it made.
    Down,
    /// Serve the API server's port; started by `up`.
    #[command(hide = true)]
    Forward {
        /// The network namespace in which connections continue.
        namespace: PathBuf,
        /// Where they go.
        target: SocketAddr,
    },
    /// Answer at these addresses and ports, TCP and UDP, in this network namespace; started by tests.
    #[command(hide = true)]
    Answer {
        /// Where; an unspecified address stands for all of its family.
        addresses: Vec<SocketAddr>,
    },
    /// Ask at these addresses and ports by TCP and UDP, and say who does not answer; started by tests.
    #[command(hide = true)]
    Ask {
        /// Ask once more from a socket that is bound to this address, where it has the family.
        #[arg(long)]
        from: Vec<IpAddr>,
        /// Whom to ask.
        addresses: Vec<SocketAddr>,
    },
    /// Send router advertisements on a device of this network namespace; started by tests.
    #[command(hide = true)]
    Advertise {
        /// The device.
        device: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RouterState {
    /// Plain routing between the locations.
    Open,
    /// Only port forwards.
    Closed,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Args { name, verb }: Args) -> Result<u8> {
    let lab = || Lab::attach(&name);
    match verb {
        Verb::Up {
            file,
            without_spanwire,
        } => up(&name, &file, !without_spanwire),
        Verb::Prepare => done(Lab::prepare(&Progress::shown())),
        Verb::Install => done(install(&lab()?)),
        Verb::Status { output } => {
            let status = lab()?.status()?;
            show(&status, output)?;
            Ok(u8::from(!status.ready()))
        }
        Verb::List => {
            Lab::all()?.iter().try_for_each(|name| say(name))?;
            Ok(0)
        }
        Verb::Ping { output } => {
            let matrix = lab()?.ping_all()?;
            show(&matrix, output)?;
            Ok(u8::from(!matrix.complete()))
        }
        Verb::Node { node, command } => lab()?
            .node(&node)?
            .by_hand(or_shell(command, "bash"))?
            .passthrough(),
        Verb::Pod { node, command } => lab()?
            .pod_on(&node)?
            .by_hand(or_shell(command, "sh"))?
            .passthrough(),
        Verb::Network { place, command } => lab()?
            .network(&place)?
            .by_hand(or_shell(command, "bash"))?
            .passthrough(),
        Verb::Kubelet { node, command } => speak(&lab()?, &node, Holder::Kubelet, command),
        Verb::Agent { node, command } => speak(&lab()?, &node, Holder::Agent, command),
        Verb::Cni { node, command } => speak(&lab()?, &node, Holder::Cni, command),
        Verb::Kubectl { args } => lab()?.client("kubectl").args(args).passthrough(),
        Verb::Helm { args } => lab()?.client("helm").args(args).passthrough(),
        Verb::Capture {
            segment,
            seconds,
            filter,
        } => capture(&lab()?, &segment, seconds, filter),
        Verb::Cut { one, other } => done(lab()?.cut(&one, &other)),
        Verb::Heal => done(lab()?.heal()),
        Verb::Routers {
            state: RouterState::Open,
        } => done(lab()?.set_routers(Routers::Open)),
        Verb::Routers {
            state: RouterState::Closed,
        } => done(lab()?.set_routers(Routers::Closed)),
        Verb::Comes { node, profile } => done(lab()?.neighbour_comes(&node, Profile::named(&profile)?)),
        Verb::Goes { node, profile } => done(lab()?.neighbour_goes(&node, Profile::named(&profile)?)),
        Verb::Crash { node } => done(lab()?.crash(&node)),
        Verb::Reboot { node } => {
            let lab = lab()?;
            lab.reboot(&node)?;
            done(Progress::shown().stage("everything ready again", || lab.wait_ready()))
        }
        Verb::Down => {
            if Lab::down(&name)? {
                eprintln!("lab: {name} is gone");
            } else {
                eprintln!("lab: there is no lab {name}");
            }
            Ok(0)
        }
        Verb::Forward { namespace, target } => {
            let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            done(forward::serve(&listener, &namespace, target))
        }
        Verb::Answer { addresses } => done(ask::serve(&addresses)),
        Verb::Ask { from, addresses } => {
            ask::ask(&from, &addresses)
                .iter()
                .try_for_each(|line| say(line))?;
            Ok(0)
        }
        Verb::Advertise { device } => done(advertise::serve(&device)),
    }
}

fn install(lab: &Lab) -> Result<()> {
    let progress = Progress::shown();
    lab.install_spanwire(&progress)?;
    progress.stage("all nodes and locations of the mesh ready", || {
        lab.wait_mesh_ready()
    })
}

fn up(name: &str, file: &Path, spanwire: bool) -> Result<u8> {
    let scenario = Scenario::load(file)?;
    let own = std::env::current_exe()?;
    let options = Options {
        spanwire: if spanwire {
            Spanwire::Installed
        } else {
            Spanwire::Absent
        },
        forward: Some(own.clone()),
        advertise: Some(own),
        progress: Progress::shown(),
    };
    let lab = Lab::up(name, &scenario, &options)
        .with_context(|| format!("{name} did not come up; look at it, then `lab --name {name} down`"))?;
    options.progress.say("up");
    say(&lab.status()?.to_string())?;
    Ok(0)
}

fn speak(lab: &Lab, node: &str, holder: Holder, command: Vec<String>) -> Result<u8> {
    lab.credentials(node, holder)?
        .by_hand(or_shell(command, "bash"))
        .passthrough()
}

fn capture(lab: &Lab, segment: &str, seconds: Option<u32>, filter: Vec<String>) -> Result<u8> {
    let device = lab.segment_device(segment)?;
    let mut words: Vec<String> = Vec::new();
    if let Some(seconds) = seconds {
        words.extend([
            "timeout".into(),
            "--foreground".into(),
            "-s".into(),
            "INT".into(),
            seconds.to_string(),
        ]);
    }
    words.extend(["tcpdump", "-n", "-l", "-i", device].map(str::to_owned));
    words.extend(filter);
    let code = lab.network(segment)?.cmd(words)?.passthrough()?;
    // 124 says that the time was up, which is what was asked for.
    Ok(if code == 124 && seconds.is_some() { 0 } else { code })
}

fn done(result: Result<()>) -> Result<u8> {
    result.map(|()| 0)
}

fn or_shell(command: Vec<String>, shell: &str) -> Vec<String> {
    if command.is_empty() {
        vec![shell.to_owned()]
    } else {
        command
    }
}

fn show<T: serde::Serialize + std::fmt::Display>(what: &T, format: Format) -> Result<()> {
    match format {
        Format::Text => say(&what.to_string()),
        Format::Json => say(&serde_json::to_string_pretty(what)?),
    }
}

fn say(text: &str) -> Result<()> {
    // A reader that has gone away, as `head` does, is no error.
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => bail!(error),
        _ => Ok(()),
    }
}
