//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;

use crate::{answer::Format, cluster::Reach, settings::Settings};

const EXIT_CODES: &str = "Exit codes:
  0  nothing is wrong
  1  it could not be done
  2  the command line cannot be read
  3  something is worth looking at
  4  something is wrong
  5  plan --diff: nothing is wrong, and the mesh would change";

/// Shows, explains and checks a mesh of Spanwire.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kubectl-spanwire",
    bin_name = "kubectl spanwire",
    version,
    about,
    after_help = EXIT_CODES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// How the cluster is reached.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What it can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Shows who would lead, what would not be granted and why, from files
    #[command(after_help = "Examples:
  # Who leads, and what is rejected, without a cluster
  kubectl spanwire plan -f nodes.yaml -f locations/

  # What would change in the cluster if these were applied; exit code 5 where something would
  kubectl spanwire plan -f locations/ --diff

  # The same for a cluster of which there is only a dump
  kubectl get nodes,locations,peers,meshnodes,locationslices -o yaml | kubectl spanwire plan -f -

  # A scenario of the tests
  kubectl spanwire plan -f topology/tests/scenarios/moving.txt")]
    Plan(PlanArgs),
    /// Writes the completion script for a shell
    #[command(after_help = "Examples:
  kubectl-spanwire completion bash > /etc/bash_completion.d/kubectl-spanwire
  kubectl-spanwire completion zsh > ~/.zfunc/_kubectl-spanwire
  kubectl-spanwire completion fish > ~/.config/fish/completions/kubectl-spanwire.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// The arguments of `plan`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct PlanArgs {
    /// A file of Nodes, Locations, Peers, MeshNodes and LocationSlices, a folder of such files, - for the standard input, or a
    /// scenario (a file with another ending than .yaml, .yml and .json); can be given more than once
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// Apply the files to what the cluster has, without changing it, and show what differs
    #[arg(long)]
    pub diff: bool,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<Format>,
    /// The settings that decide.
    #[command(flatten)]
    pub settings: Settings,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Args::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn flags_of_kubectl_may_stand_behind_the_command() {
        let args = Args::try_parse_from(["kubectl-spanwire", "plan", "-f", "x", "-n", "s", "--context", "c"])
            .unwrap();
        assert_eq!(
            (args.reach.namespace.as_str(), args.reach.context.as_deref()),
            ("s", Some("c"))
        );
        assert!(Args::try_parse_from(["kubectl-spanwire", "plan"]).is_err());
    }
}
