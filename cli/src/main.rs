//! `kubectl spanwire`.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use spanwire_cli::{args::Args, run, show};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let answer = match run(args).await {
        Ok(answer) => answer,
        Err(error) => {
            // There is no other place to say it.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            return ExitCode::from(1);
        }
    };
    show(&answer);
    ExitCode::from(answer.verdict.code())
}
