//! `status --watch`: again and again, in place on a terminal.

use std::{
    io::{IsTerminal as _, Stdout, Write as _},
    time::{Duration, Instant},
};

use terminal_size::terminal_size_of;

use super::look;
use crate::{
    answer::ListFormat,
    args::StatusArgs,
    cluster::Access,
    colour::{coloured, is_wanted},
    commands::until::Stop,
    status::{Report, Size},
};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Of a terminal that does not say it.
const USUAL: Size = Size {
    rows: 24,
    columns: 80,
};

/// Shows it again and again, until it is interrupted or nothing reads it.
pub(super) async fn watch(access: &Access, args: &StatusArgs) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let mut output = Output::open(args.output == Some(ListFormat::Wide))?;
    tokio::select! {
        ended = show_again(access, args, &mut output) => ended,
        () = stop.wait() => Ok(()),
    }
}

async fn show_again(access: &Access, args: &StatusArgs, output: &mut Output) -> anyhow::Result<()> {
    let mut before: Option<(Instant, Report)> = None;
    loop {
        let now = Instant::now();
        match look(access, args).await {
            Ok((mut report, notes)) => {
                if let Some((then, before)) = &before {
                    report.compare(before, (now - *then).as_secs_f64());
                }
                output.show(&report, &notes)?;
                before = Some((now, report));
            }
            // An API server that is away comes back.
            Err(error) => output.write(&format!("error: {error:#}\n"))?,
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Where it is shown.
enum Output {
    /// In place, on a screen of a terminal.
    InPlace(AlternateScreen),
    /// One block after another, of which each is all; `wide` with the pages that explain what is wrong.
    Blocks {
        wide: bool,
        /// One has been written.
        has_begun: bool,
    },
}

impl Output {
    /// What is wide fits onto no screen.
    fn open(wide: bool) -> std::io::Result<Self> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        if wide || is_dumb || !std::io::stdout().is_terminal() {
            return Ok(Self::Blocks {
                wide,
                has_begun: false,
            });
        }
        AlternateScreen::enter().map(Self::InPlace)
    }

    fn show(&mut self, report: &Report, notes: &[String]) -> std::io::Result<()> {
        let text = match self {
            Self::InPlace(screen) => report.screen(notes, screen.size()),
            Self::Blocks { wide, .. } => {
                let notes = notes.iter().map(|note| format!("note: {note}\n"));
                report.text(*wide) + &notes.collect::<String>()
            }
        };
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout();
        let colours = is_wanted(out.is_terminal(), std::env::var_os("NO_COLOR").as_deref());
        let text = if colours { coloured(text) } else { text.to_owned() };
        match self {
            Self::InPlace(screen) => screen.replace(&text),
            Self::Blocks { has_begun, .. } => {
                let gap = if std::mem::replace(has_begun, true) {
                    "\n"
                } else {
                    ""
                };
                out.write_all(format!("{gap}{text}").as_bytes())?;
                out.flush()
            }
        }
    }
}

/// The alternate screen of a terminal, without its cursor, until this is dropped: what was on the terminal is there again then
/// (xterm's control sequences).
struct AlternateScreen(Stdout);

impl AlternateScreen {
    fn enter() -> std::io::Result<Self> {
        let mut out = std::io::stdout();
        out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
        out.flush()?;
        Ok(Self(out))
    }

    fn size(&self) -> Size {
        let found = terminal_size_of(&self.0);
        found.map_or(USUAL, |(columns, rows)| Size {
            rows: rows.0.into(),
            columns: columns.0.into(),
        })
    }

    /// Shows this instead of what is there.
    fn replace(&mut self, text: &str) -> std::io::Result<()> {
        let mut screen = String::from("\x1b[H");
        for line in text.lines() {
            // Each line takes the place of the one that was there.
            screen += line;
            screen += "\x1b[K\n";
        }
        screen += "\x1b[J";
        self.0.write_all(screen.as_bytes())?;
        self.0.flush()
    }
}

impl Drop for AlternateScreen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _gone = self
            .0
            .write_all(b"\x1b[?25h\x1b[?1049l")
            .and_then(|()| self.0.flush());
    }
}
