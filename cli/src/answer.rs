//! What a command answers, and how it ends.

use std::collections::BTreeSet;

use serde::Serialize;
use spanwire_crds::names::GROUP;

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

/// How an answer is written that has a table with more columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// How an answer is written for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DataFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl From<DataFormat> for Format {
    fn from(format: DataFormat) -> Self {
        match format {
            DataFormat::Json => Self::Json,
            DataFormat::Yaml => Self::Yaml,
        }
    }
}

/// How an answer about objects is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// The names of the objects, as kubectl takes them.
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

/// Returns the name of an object like `location c`, as kubectl prints it and takes it; `None`: it is none.
#[must_use]
pub fn name_of(object: &str) -> Option<String> {
    let (kind, name) = object.split_once(' ')?;
    let group = match kind {
        "node" => "",
        "location" | "peer" | "meshnode" | "locationslice" => GROUP,
        _ => return None,
    };
    let dot = if group.is_empty() { "" } else { "." };
    Some(format!("{kind}{dot}{group}/{name}"))
}

/// Returns the names of objects like `location c`, one a line, each once.
#[must_use]
pub fn names(objects: &[String]) -> String {
    let mut known = BTreeSet::new();
    let names = objects.iter().filter_map(|object| name_of(object));
    let once = names.filter(|name| known.insert(name.clone()));
    once.map(|name| name + "\n").collect()
}

/// Returns a report about objects in a machine's format, as the names of `objects`, or as `text` writes it for people.
///
/// # Errors
/// Where it has no such form.
pub fn of_objects<T: Serialize>(
    report: &T,
    format: Option<ListFormat>,
    objects: &[String],
    text: impl FnOnce(bool) -> String,
) -> anyhow::Result<String> {
    match format {
        Some(ListFormat::Name) => Ok(names(objects)),
        other => formatted(report, other.and_then(ListFormat::format), text),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubectl_each_once_and_what_is_no_object_has_none() {
        let objects = [
            "location a",
            "peer p",
            "location a",
            "node a1",
            "meshnode a1",
            "the published mesh",
        ];
        let objects = objects.map(str::to_owned);
        assert_eq!(
            names(&objects),
            "location.spanwire.dev/a\npeer.spanwire.dev/p\nnode/a1\nmeshnode.spanwire.dev/a1\n"
        );
    }
}
