//! What is published, kept up to date by watches.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::watcher::{Config, Event, watcher},
};
use spanwire_cluster::watch::expired;
use spanwire_crds::names;
use tokio::{sync::watch, time::sleep};

use crate::{
    cluster::Access,
    objects::{Kind, Objects},
};

/// What is followed; Nodes are not.
pub(super) const KINDS: [Kind; 4] = [Kind::Location, Kind::Peer, Kind::MeshNode, Kind::LocationSlice];

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What is published, as it was known last.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The objects.
    pub(super) objects: Objects,
    /// Why it may be old.
    pub(super) failed: Option<String>,
}

/// Follows it for ever.
pub(super) async fn follow(access: Access, published: watch::Sender<Published>) {
    loop {
        let failed = watched(&access, &published).await;
        published.send_modify(|published| published.failed = Some(failed));
        loop {
            sleep(AGAIN).await;
            match access.objects(&KINDS).await {
                Ok(objects) => {
                    published.send_replace(Published {
                        objects,
                        failed: None,
                    });
                    break;
                }
                Err(error) => {
                    published.send_modify(|published| published.failed = Some(format!("{error:#}")));
                }
            }
        }
    }
}

/// Follows it until that fails; returns why.
async fn watched(access: &Access, published: &watch::Sender<Published>) -> String {
    let watches = KINDS.map(|kind| {
        let resource = resource(kind);
        let api: Api<DynamicObject> = Api::all_with(access.client.clone(), &resource);
        watcher(api, Config::default())
            .map(move |event| (kind, event))
            .boxed()
    });
    let mut events = stream::select_all(watches);
    let mut listed = KINDS.map(|kind| (kind, BTreeSet::new()));
    while let Some((kind, event)) = events.next().await {
        let listed = listed.iter_mut().find(|(other, _)| *other == kind);
        match (event, listed) {
            (Ok(event), Some((_, listed))) => {
                published.send_modify(|published| enter(&mut published.objects, kind, event, listed));
            }
            (Err(error), _) if !expired(&error) => {
                return format!(
                    "what is published is not followed: {:#}",
                    anyhow::Error::from(error)
                );
            }
            _ => {}
        }
    }
    "what is published is not followed any more".to_owned()
}

fn resource(kind: Kind) -> ApiResource {
    let (group, version) = names::API_VERSION.split_once('/').unwrap_or_default();
    let kind_of = GroupVersionKind::gvk(group, version, kind.name());
    ApiResource::from_gvk_with_plural(&kind_of, kind.plural())
}

/// Enters an event; `listed` are the names of a list that is not complete yet.
fn enter(objects: &mut Objects, kind: Kind, event: Event<DynamicObject>, listed: &mut BTreeSet<String>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            listed.extend(object.metadata.name.clone());
            insert(objects, kind, object);
        }
        Event::InitDone => {
            let known: Vec<String> = objects.of(kind).map(|(name, _)| name.clone()).collect();
            for name in known.iter().filter(|name| !listed.contains(*name)) {
                objects.remove(kind, name);
            }
        }
        Event::Apply(object) => insert(objects, kind, object),
        Event::Delete(object) => objects.remove(kind, &object.metadata.name.unwrap_or_default()),
    }
}

fn insert(objects: &mut Objects, kind: Kind, object: DynamicObject) {
    let name = object.metadata.name.clone().unwrap_or_default();
    // It came as JSON.
    let mut object = serde_json::to_value(object).unwrap_or_default();
    // The items of a list do not say what they are.
    object["kind"] = kind.name().into();
    object["apiVersion"] = names::API_VERSION.into();
    objects.insert(kind, name, object);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_list_does_not_have_any_more_is_gone() {
        let object = |name: &str| DynamicObject {
            types: None,
            metadata: serde_json::from_value(json!({"name": name})).unwrap(),
            data: json!({"spec": {"x": name}}),
        };
        let (mut objects, mut listed) = (Objects::default(), BTreeSet::new());
        let mut handle = |kind, event| {
            enter(&mut objects, kind, event, &mut listed);
            let names = objects.of(kind).map(|(name, _)| name.clone());
            names.collect::<Vec<_>>()
        };
        handle(Kind::Peer, Event::Apply(object("other")));
        handle(Kind::Location, Event::Apply(object("a")));
        handle(Kind::Location, Event::Apply(object("b")));
        handle(Kind::Location, Event::Init);
        assert_eq!(handle(Kind::Location, Event::InitApply(object("b"))), ["a", "b"]);
        assert_eq!(handle(Kind::Location, Event::InitDone), ["b"]);
        assert!(handle(Kind::Location, Event::Delete(object("b"))).is_empty());
        assert_eq!(handle(Kind::Peer, Event::Apply(object("other"))), ["other"]);
        let peer = objects.get(Kind::Peer, "other").unwrap();
        assert_eq!(
            (&peer["kind"], &peer["spec"]["x"]),
            (&json!("Peer"), &json!("other"))
        );
        assert_eq!(Kind::of(peer), Some(Kind::Peer));
    }
}
