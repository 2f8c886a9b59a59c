//! Reads what a command needs, and has it answered.

mod bench;
mod bundle;
mod connect;
mod explain;
mod live;
mod map;
mod migrate;
mod peer;
mod ping;
mod plan;
mod published;
mod secret;
mod source;
mod status;
mod until;
mod verify;

use std::io::{IsTerminal as _, Write as _};

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    answer::Answer,
    args::{Args, Command, MigrateCommand, VerifyCommand},
    colour::{coloured, is_wanted},
};

/// Does what the command line asks for.
///
/// # Errors
/// Why it could not be done.
pub async fn run(args: Args) -> anyhow::Result<Answer> {
    let reach = if args.command.names_objects() {
        args.reach
    } else {
        args.reach.without_objects()
    };
    match args.command {
        Command::Plan(plan) => plan::run(&reach, &plan).await,
        Command::Status(status) => status::run(&reach, &status).await,
        Command::Diagnose(diagnose) => status::diagnose(&reach, &diagnose).await,
        Command::Explain(explain) => explain::run(&reach, &explain).await,
        Command::Ping(ping) => ping::run(&reach, &ping).await,
        Command::Bench(bench) => bench::run(&reach, &bench).await,
        Command::Verify(VerifyCommand::Encryption(encryption)) => {
            verify::encryption(&reach, &encryption).await
        }
        Command::Graph(graph) => published::graph(&reach, &graph).await,
        Command::Map(map) => map::run(&reach, &map).await,
        Command::Showconf(showconf) => published::showconf(&reach, &showconf).await,
        Command::Peer(command) => peer::run(&reach, &command).await,
        Command::Connect(connect) => connect::run(&reach, &connect).await,
        Command::Migrate(MigrateCommand::Kilo(kilo)) => migrate::kilo(&reach, &kilo).await,
        Command::Completion { shell } => Ok(Answer {
            text: completion(shell)?,
            ..Answer::default()
        }),
    }
}

/// Writes an answer to the standard output, and its notes to the standard error.
pub fn show(answer: &Answer) {
    for note in &answer.notes {
        // There is no other place to say it.
        let _ = writeln!(std::io::stderr(), "note: {note}");
    }
    let mut out = std::io::stdout();
    let colours = is_wanted(out.is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    let coloured = colours.then(|| coloured(&answer.text));
    let text = coloured.as_ref().unwrap_or(&answer.text);
    // Who reads may have read enough.
    let _ = out.write_all(text.as_bytes());
}

/// Returns the completion script for a shell.
fn completion(shell: Shell) -> anyhow::Result<String> {
    // The script for bash takes a dash in the name for another thing in one place than in another, and knows no flag of any command.
    let name = if shell == Shell::Bash {
        "kubectl_spanwire"
    } else {
        "kubectl-spanwire"
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), name, &mut script);
    let script = String::from_utf8(script)?;
    Ok(script.replace("-o default kubectl_spanwire", "-o default kubectl-spanwire"))
}
