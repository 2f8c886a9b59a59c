//! What a command answers, and how it ends.

use serde::Serialize;

/// How a command ended, as its exit code says it. Where it could not be done the code is 1, and 2 where the command line
/// cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing is wrong.
    #[default]
    Clean,
    /// Nothing is wrong, but applying what was read would change the mesh.
    Differs,
    /// Something is worth looking at.
    Warnings,
    /// Something is wrong.
    Errors,
}

impl Verdict {
    /// Returns the exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Warnings => 3,
            Self::Errors => 4,
            Self::Differs => 5,
        }
    }
}

/// What a command answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What goes to the standard output.
    pub text: String,
    /// What goes to the standard error: what could not be read besides, and what was assumed instead.
    pub notes: Vec<String>,
    /// How it ended.
    pub verdict: Verdict,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// Returns whether a program is to read it.
    #[must_use]
    pub const fn is_for_programs(self) -> bool {
        !matches!(self, Self::Wide)
    }
}

/// How a list of objects is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Their names, as kubectl takes them.
    Name,
}

impl ListFormat {
    /// Returns the format of a report that it is too.
    #[must_use]
    pub const fn format(self) -> Option<Format> {
        match self {
            Self::Wide => Some(Format::Wide),
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
            Self::Name => None,
        }
    }
}

/// Returns a report in a machine's format, or as `text` writes it for people.
///
/// # Errors
/// Where it has no such form.
pub fn formatted<T: Serialize>(
    report: &T,
    format: Option<Format>,
    text: impl FnOnce(bool) -> String,
) -> anyhow::Result<String> {
    Ok(match format {
        None => text(false),
        Some(Format::Wide) => text(true),
        Some(Format::Json) => serde_json::to_string_pretty(report)? + "\n",
        Some(Format::Yaml) => serde_saphyr::to_string(report)?,
    })
}
