//! `kubectl spanwire`.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use spanwire_cli::{
    args::Args,
    colour::{coloured, is_wanted},
    run,
};

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
    for note in &answer.notes {
        let _ = writeln!(std::io::stderr(), "note: {note}");
    }
    let mut out = std::io::stdout();
    let text = if is_wanted(out.is_terminal(), std::env::var_os("NO_COLOR").as_deref()) {
        coloured(&answer.text)
    } else {
        answer.text
    };
    // Who reads may have read enough.
    let _ = out.write_all(text.as_bytes());
    ExitCode::from(answer.verdict.code())
}
