//! What the chart lets its containers do, so that tests let programs do no more.

use std::{fs, path::Path};

/// Returns the arguments of setpriv by which a program that root starts has the capabilities of a container of the chart:
/// `agent` or `tunnel`.
///
/// # Panics
/// The chart does not list them in one line.
#[must_use]
#[track_caller]
pub fn capabilities(component: &str) -> [String; 2] {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/spanwire/templates");
    let path = templates.join(format!("{component}.yaml"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let added = added(&text).unwrap_or_else(|| panic!("{} adds no capabilities", path.display()));
    [format!("--bounding-set={added}"), "--inh-caps=-all".to_owned()]
}

fn added(template: &str) -> Option<String> {
    let (_, rest) = template.split_once("capabilities: {drop: [ALL], add: [")?;
    let (names, _) = rest.split_once("]}")?;
    let each = names.split(", ").map(|name| format!(",+{}", name.to_lowercase()));
    Some("-all".to_owned() + &each.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_adds_is_all_that_is_left() {
        let template = "  capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}\n";
        assert_eq!(added(template).as_deref(), Some("-all,+net_admin,+net_raw"));
        assert_eq!(added("capabilities: {drop: [ALL]}"), None);
        for component in ["agent", "tunnel"] {
            assert!(capabilities(component)[0].contains("+net_admin"), "{component}");
        }
    }
}
