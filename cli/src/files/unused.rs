//! Leaves out of YAML what of the status of Nodes is not read: the images above all, which are most of what `kubectl get nodes -o yaml`
//! writes. Reading YAML costs by its length.

use std::borrow::Cow;

/// Keys of a Node's status. No status of Spanwire's resources has one of them.
const UNUSED: [&str; 7] = [
    "allocatable:",
    "capacity:",
    "images:",
    "nodeInfo:",
    "runtimeHandlers:",
    "volumesAttached:",
    "volumesInUse:",
];

/// Returns the text without what these keys of the status of objects have, as far as they can be seen by the lines: of objects that are
/// documents, or items of a list, in block style. A key of an object, at its indentation, is in no text of several lines: that
/// would have to be indented more.
pub(super) fn without_unused(text: &str) -> Cow<'_, str> {
    if !UNUSED.iter().any(|key| text.contains(key)) {
        return Cow::Borrowed(text);
    }
    let mut place = Place::default();
    Cow::Owned(
        text.split_inclusive('\n')
            .filter(|line| place.keeps(line))
            .collect(),
    )
}

/// Where in a document a line is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Below the key `items` of a list, whose objects are indented by two spaces; else the document is the object.
    in_items: bool,
    in_status: bool,
    in_unused: bool,
}

impl Place {
    /// Goes on to the next line; returns whether it is kept.
    fn keeps(&mut self, line: &str) -> bool {
        let text = line.trim_end();
        if text.is_empty() {
            // It belongs to what is around it.
            return !self.in_unused;
        }
        let inner = text.trim_start_matches(' ');
        let indentation = text.len() - inner.len();
        let is_item = indentation == 0 && (text.starts_with("- ") || text == "-");
        if indentation == 0 && !(self.in_items && is_item) {
            *self = Self {
                in_items: text == "items:",
                in_status: text == "status:",
                in_unused: false,
            };
            return true;
        }
        let keys = if self.in_items { 2 } else { 0 };
        let is_entry = indentation == keys + 2 && inner.starts_with('-');
        if self.in_unused && (indentation > keys + 2 || is_entry) {
            return false;
        }
        if self.in_items && (is_item || indentation == keys) {
            self.in_status = text == "  status:" || text == "- status:";
        }
        self.in_unused = self.in_status && indentation == keys + 2 && UNUSED.contains(&inner);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(text: &str, expected: &str) {
        assert_eq!(without_unused(text), expected);
    }

    #[track_caller]
    fn stays(text: &str) {
        becomes(text, text);
    }

    #[test]
    fn what_is_not_used_of_documents_and_of_items_is_left_out() {
        let before = "kind: Node\nstatus:\n  addresses:\n  - address: 10.0.0.1\n";
        let after = "  phase: x\n---\nkind: Node\n";
        for images in [
            "  - names:\n    - a\n    - b\n    sizeBytes: 1\n  - names: [c]\n",
            "    - names:\n        - a\n\n      sizeBytes: 1\n",
            "",
        ] {
            for keys in ["  images:\n", "  nodeInfo:\n    osImage: x\n  images:\n"] {
                let left = keys.replace("    osImage: x\n", "");
                becomes(
                    &format!("{before}{keys}{images}{after}"),
                    &format!("{before}{left}{after}"),
                );
            }
        }
        let list = |first: &str, second: &str| {
            format!(
                "apiVersion: v1\nitems:\n- kind: Node\n  status:\n{first}    phase: x\n- status:\n    phase: y\n{second}  kind: Node\nkind: \
                 List\nmetadata:\n  resourceVersion: \"\"\n"
            )
        };
        let images = "    images:\n    - names:\n      - a\n";
        let capacity = "    capacity:\n      cpu: \"2\"\n";
        becomes(&list(images, capacity), &list("    images:\n", "    capacity:\n"));
    }

    #[test]
    fn other_images_stay() {
        stays("spec:\n  images:\n  - a\n");
        stays("status:\n  inner:\n    images:\n    - a\n");
        stays("status:\n  images: [a]\n");
        stays("images:\n- a\nstatus:\n  x: 1\n");
        stays("items:\n- spec:\n    images:\n    - a\n  status:\n    inner:\n      images:\n      - a\n");
        stays("status: {}\nspec:\n  images:\n  - a\n");
        stays("status:\n  a: 1\n---\nspec:\n  images:\n  - a\n");
        stays("items:\n- status:\n    a: 1\n- spec:\n    images:\n    - a\n");
    }

    #[test]
    fn text_of_several_lines_stays() {
        stays("data:\n  x: |\n    status:\n      images:\n      - a\n");
        stays("data:\n  x: |2\n      status:\n        images:\n        - a\n");
        stays("data: |\n  status:\n    images:\n    - a\n");
        stays("items:\n- data:\n    x: |\n      status:\n        images:\n        - a\n");
        stays("status:\n  text: |\n    images:\n    - a\n");
    }
}
