//! Reading objects from the API server as JSON.
//!
//! Tests ask what has become of an object many times a second while they wait. kubectl needs 80 ms of a processor for each question,
//! which the cluster then lacks; curl 18 ms. What is to be done as a user does it is done by kubectl.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{command::Cmd, lab::Lab, layout::API_PORT};

/// A kind of objects: its resource, the path of its group and version, and whether its objects are in namespaces.
struct Kind {
    resource: &'static str,
    group: &'static str,
    namespaced: bool,
}

const fn kind(resource: &'static str, group: &'static str, namespaced: bool) -> Kind {
    Kind {
        resource,
        group,
        namespaced,
    }
}

/// What tests read.
const KINDS: [Kind; 10] = [
    kind("nodes", "api/v1", false),
    kind("pods", "api/v1", true),
    kind("services", "api/v1", true),
    kind("events", "api/v1", true),
    kind("daemonsets", "apis/apps/v1", true),
    kind("deployments", "apis/apps/v1", true),
    kind("locations", SPANWIRE, false),
    kind("locationslices", SPANWIRE, false),
    kind("meshnodes", SPANWIRE, false),
    kind("peers", SPANWIRE, false),
];

const SPANWIRE: &str = "apis/spanwire.dev/v1alpha1";

/// A question, in kubectl's words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question<'a> {
    kinds: Vec<&'a str>,
    name: Option<&'a str>,
    namespace: Option<&'a str>,
    /// Parameters and their values.
    selectors: Vec<(&'static str, &'a str)>,
}

impl Lab {
    /// Reads an object or a list of objects from the API server; the words are those of `kubectl get`: kinds with commas between them
    /// or a kind and a name, `--namespace NAME`, `--all-namespaces`, `--selector TEXT`, `--field-selector TEXT`.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let question = Question::of(what)?;
        let paths = question.paths()?;
        let mut curl = Cmd::of(["nsenter", &self.control_net(), "--"])
            .running(["curl", "-sS", "--max-time", "30", "--get", "--cacert"])
            .arg(self.store.path("pki/ca.crt"))
            .args(self.certificate("admin"));
        for (parameter, text) in &question.selectors {
            curl = curl.arg("--data-urlencode").arg(format!("{parameter}={text}"));
        }
        let urls = paths
            .iter()
            .map(|path| format!("https://127.0.0.1:{API_PORT}/{path}"));
        let text = curl.args(urls).run()?;
        let answers = serde_json::Deserializer::from_str(&text).into_iter();
        let answers: Vec<Value> = answers.collect::<Result<_, _>>()?;
        ensure!(
            answers.len() == paths.len(),
            "{what:?}: the API server said {text}"
        );
        whole(answers, question.name.is_some()).with_context(|| format!("get {}", what.join(" ")))
    }
}

impl<'a> Question<'a> {
    fn of(words: &[&'a str]) -> Result<Self> {
        let mut found = Self::default();
        let mut words = words.iter().copied();
        let first = words.next().context("a kind is wanted")?;
        found.kinds = first.split(',').collect();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} wants a value"));
            match word {
                "--namespace" => found.namespace = Some(value()?),
                "--all-namespaces" => {}
                "--selector" => found.selectors.push(("labelSelector", value()?)),
                "--field-selector" => found.selectors.push(("fieldSelector", value()?)),
                name if !name.starts_with('-') && found.name.is_none() => found.name = Some(name),
                other => bail!("{other} is nothing that this reads; kubectl may"),
            }
        }
        Ok(found)
    }

    fn paths(&self) -> Result<Vec<String>> {
        self.kinds.iter().map(|kind| self.path(kind)).collect()
    }

    fn path(&self, name: &str) -> Result<String> {
        let is = |kind: &&Kind| kind.resource == name || kind.resource.strip_suffix('s') == Some(name);
        let Kind {
            resource,
            group,
            namespaced,
        } = KINDS
            .iter()
            .find(is)
            .with_context(|| format!("the kind {name} is not in the list of e2e/src/objects.rs"))?;
        let mut path = (*group).to_owned();
        if let Some(namespace) = self.namespace.filter(|_| *namespaced) {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{resource}");
        if let Some(name) = self.name {
            path += &format!("/{name}");
        }
        Ok(path)
    }
}

/// Returns the object, or one list of all objects, each with its kind, which the API server leaves away in lists.
fn whole(answers: Vec<Value>, one: bool) -> Result<Value> {
    let mut items = Vec::new();
    for mut answer in answers {
        if answer["kind"] == "Status" {
            bail!(
                "the API server says: {}",
                answer["message"].as_str().unwrap_or_default()
            );
        }
        if one {
            return Ok(answer);
        }
        let version = answer["apiVersion"].clone();
        let list = answer["kind"].as_str().unwrap_or_default();
        let kind = list.strip_suffix("List").unwrap_or(list).to_owned();
        let Value::Array(mut found) = answer["items"].take() else {
            bail!("the API server sent no list but {answer}");
        };
        for item in &mut found {
            item["kind"] = json!(kind);
            item["apiVersion"] = version.clone();
        }
        items.append(&mut found);
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(words: &[&str]) -> Vec<String> {
        Question::of(words).unwrap().paths().unwrap()
    }

    #[test]
    fn questions_are_paths() {
        assert_eq!(
            paths(&["location", "a"]),
            ["apis/spanwire.dev/v1alpha1/locations/a"]
        );
        assert_eq!(
            paths(&["service", "far-ipv4", "--namespace", "lab"]),
            ["api/v1/namespaces/lab/services/far-ipv4"]
        );
        // As kubectl does it, which ignores the namespace for what is in none.
        assert_eq!(
            paths(&["nodes,daemonsets", "--namespace", "lab"]),
            ["api/v1/nodes", "apis/apps/v1/namespaces/lab/daemonsets"]
        );
        assert_eq!(paths(&["pods", "--all-namespaces"]), ["api/v1/pods"]);
        let selected = Question::of(&["pods", "--selector", "a=b,c/d=e"]).unwrap();
        assert_eq!(selected.selectors, [("labelSelector", "a=b,c/d=e")]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let said = |words: &[&str]| {
            let paths = Question::of(words).and_then(|question| question.paths());
            paths.unwrap_err().to_string()
        };
        assert!(said(&["gadgets"]).contains("gadgets"));
        assert!(said(&["pods", "--watch"]).contains("--watch"));
        assert!(said(&["pods", "--selector"]).contains("--selector"));
    }

    #[test]
    fn lists_become_one_and_their_items_have_kinds() {
        let lists = vec![
            json!({"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "a1"}}]}),
            json!({"kind": "DaemonSetList", "apiVersion": "apps/v1", "items": [{}, {}]}),
        ];
        let all = whole(lists, false).unwrap();
        let kinds: Vec<_> = all["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["kind"])
            .collect();
        assert_eq!(kinds, ["Node", "DaemonSet", "DaemonSet"]);
        assert_eq!(all["items"][2]["apiVersion"], "apps/v1");
    }

    #[test]
    fn a_refusal_is_an_error_with_its_message() {
        let refusal = json!({"kind": "Status", "status": "Failure", "message": "locations \"x\" not found"});
        let error = whole(vec![refusal], true).unwrap_err();
        assert!(error.to_string().contains("\"x\" not found"), "{error}");
    }
}
