//! Reads what a command needs, and has it answered.

mod plan;

use clap::CommandFactory as _;

use crate::{
    answer::Answer,
    args::{Args, Command},
};

/// Does what the command line asks for.
///
/// # Errors
/// Why it could not be done.
pub async fn run(args: Args) -> anyhow::Result<Answer> {
    match args.command {
        Command::Plan(plan) => plan::run(&args.reach, &plan).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "kubectl-spanwire", &mut script);
            Ok(Answer {
                text: String::from_utf8(script)?,
                ..Answer::default()
            })
        }
    }
}
