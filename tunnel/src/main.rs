//! `spanwire-tunnel INTERFACE`: one WireGuard device; `spanwire-tunnel serve`: as many as are asked for; `spanwire-tunnel alive`:
//! whether that one answers.

use std::{
    env,
    io::{self, IsTerminal, Write},
    num::NonZero,
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_pdeathsig,
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
    },
    unistd::getppid,
};
use spanwire_tunnel::{
    alive,
    device::ShardIndex,
    handover::Exit,
    inherited::Inherited,
    notify,
    runtime::{Options, Runtime, adopt},
    serve,
};
use tracing_subscriber::EnvFilter;

use crate::daemon::Background;

mod daemon;

/// A userspace WireGuard device, configured by wg(8).
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// The interface to create, with %d for the first number that is free; it exists until this process ends
    #[arg(required = true, value_name = "INTERFACE")]
    interface: Option<String>,

    /// Stay in the foreground: without it, the process that was started ends as soon as the device can be configured, and
    /// another one goes on. So does WG_PROCESS_FOREGROUND=1
    #[arg(short, long)]
    foreground: bool,

    /// Where the sockets for wg(8) are; wg itself looks nowhere else than in the default
    #[arg(long, value_name = "DIR", default_value = "/var/run/wireguard", global = true)]
    socket_dir: PathBuf,

    /// Carry packets one by one: for kernels and network devices whose offloads are broken
    #[arg(long, global = true)]
    no_offload: bool,

    /// Let a packet's DSCP show outside: routers there can treat it as it deserves, and read what it is
    #[arg(long, global = true)]
    copy_dscp: bool,

    /// Leave the interface, with its addresses and routes, when this process ends; the next one goes on with it
    #[arg(long, global = true)]
    keep: bool,

    /// Go on with what the running process has, if there is one, and end it: an upgrade
    #[arg(long, global = true)]
    take_over: bool,

    /// How many threads carry the packets of a device; each peer is served by one of them [default: the cores that this
    /// process may use]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=ShardIndex::MAX as i64))]
    threads: Option<u8>,

    /// When another process has taken over, wait for SIGTERM: for supervisors that restart what ends
    #[arg(long, global = true)]
    linger: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Wait on a control socket and create devices on demand
    Serve {
        /// The unix socket that takes the lines `up NAME`, `down NAME`, `list` and `await-end`
        #[arg(long, value_name = "PATH")]
        control: PathBuf,

        /// End when this process ends, which started this one
        #[arg(long, value_name = "PID")]
        end_with: Option<i32>,
    },

    /// Ask the process at a control socket, and each of its devices, for an answer; fails when one has none
    Alive {
        /// The unix socket of `serve`
        #[arg(long, value_name = "PATH")]
        control: PathBuf,

        /// For how many seconds to wait
        #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
        patience: u64,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let serving = match args.command {
        Some(Command::Alive { control, patience }) => {
            alive::ask(&control, &args.socket_dir, Duration::from_secs(patience))?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Serve { control, end_with }) => Some((control, end_with)),
        None => None,
    };
    let background = Background::of_this_process()?;
    let stays = args.foreground || env::var("WG_PROCESS_FOREGROUND").is_ok_and(|value| value == "1");
    if serving.is_none() && background.is_none() && !stays {
        return daemon::start();
    }
    tracing_subscriber::fmt()
        .with_env_filter(log_filter(background.is_some()))
        .with_writer(|| Unbreakable)
        .with_ansi(io::stderr().is_terminal())
        .init();
    #[cfg(spanwire_null_cipher)]
    tracing::error!("this build encrypts nothing: it is for measuring alone");
    // Nothing this process makes is for others.
    umask(Mode::from_bits_truncate(0o077));
    allow_descriptors();

    let stop = stop_signal().context("cannot take over SIGTERM and SIGINT")?;
    let options = Options {
        offload: !args.no_offload,
        copy_dscp: args.copy_dscp,
        keep: args.keep,
        threads: args.threads.map_or_else(cores, usize::from),
    };
    let exit = match (serving, args.interface) {
        (Some((control, end_with)), _) => {
            end_with.map_or(Ok(()), end_with_parent)?;
            serve::serve(&control, &args.socket_dir, options, args.take_over, stop.as_fd())?
        }
        (None, Some(name)) => {
            let adopted = if args.take_over {
                adopt::one(&name, &args.socket_dir, options, stop.as_fd())?
            } else {
                None
            };
            let runtime = match adopted {
                Some(adopted) => adopted?,
                None => {
                    let inherited = Inherited::from_environment()?;
                    Runtime::create_with(&name, &args.socket_dir, options, inherited)?
                }
            };
            tracing::info!(name = runtime.name(), "device started");
            notify::ready();
            if let Some(background) = background {
                background.ready(logs_wanted())?;
            }
            runtime.carry(stop.as_fd())?
        }
        (None, None) => anyhow::bail!("say which interface to create"),
    };
    if exit == Exit::HandedOver && args.linger {
        poll(
            &mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Standard error that may be closed, or have no reader: what cannot be written there ends no device.
struct Unbreakable;

impl Write for Unbreakable {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(buffer).unwrap_or(buffer.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns what is logged: by RUST_LOG, or as wireguard-go has it by LOG_LEVEL.
fn log_filter(background: bool) -> EnvFilter {
    // boringtun calls it an error when an idle session expires.
    EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(match env::var("LOG_LEVEL").as_deref() {
            Ok("silent") => "off",
            Ok("error") => "error,boringtun=off",
            Ok("verbose" | "debug") => "info,spanwire_tunnel=debug,boringtun=off",
            // What a terminal shows while the device starts.
            _ if background => "warn,boringtun=off",
            _ => "info,boringtun=off",
        })
    })
}

/// Returns whether a process in the background is to go on logging: who wants that says how much.
fn logs_wanted() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "silent");
    is_set("RUST_LOG") || is_set("LOG_LEVEL")
}

/// Lets this process open as many descriptors as it may. The usual limit is for programs that use select(2); a device with
/// 16 threads has 83.
fn allow_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise the limit of descriptors");
    }
}

/// Has the kernel send SIGTERM when the process that started this one ends, however it does.
fn end_with_parent(parent: i32) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGTERM).context("cannot ask for a signal when the parent ends")?;
    // It may have ended before it was asked for.
    let now = getppid();
    anyhow::ensure!(
        now.as_raw() == parent,
        "--end-with names the process {parent}, and this one was started by {now}, or that one has ended"
    );
    Ok(())
}

/// Returns how many cores this process may use, by its affinity and its control group's quota; one if that cannot be
/// known.
fn cores() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    cores.min(ShardIndex::MAX)
}

/// Returns what is readable when this process is to end. The signals are blocked before any thread starts, so that all
/// of them inherit it.
fn stop_signal() -> nix::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
