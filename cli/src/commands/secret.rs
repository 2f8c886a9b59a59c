//! The Secrets from which leaders read preshared keys, written with the rights of the user.

use anyhow::{anyhow, bail};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use spanwire_topology::SecretKeyRef;

use crate::cluster::{Access, brief};

/// Puts a preshared key where there is none yet; the Secret is made where there is none.
pub(super) async fn add(access: &Access, place: &SecretKeyRef, value: &str) -> anyhow::Result<()> {
    let (secrets, name, key) = (secrets(access), place.name(), place.key());
    let failed = |error: kube::Error| anyhow!("secret {name}: {}", brief(&error));
    let value = ByteString(value.as_bytes().to_vec());
    let Some(there) = secrets.get_opt(name).await.map_err(failed)? else {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some([(key.to_owned(), value)].into()),
            ..Secret::default()
        };
        return match secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed(error)),
        };
    };
    if there.data.is_some_and(|data| data.contains_key(key)) {
        bail!(
            "the Secret {name} in the namespace {} has a key {key} already, of another Peer perhaps; remove it, or name another \
             Secret with --preshared-key-secret",
            access.namespace
        );
    }
    // Nothing else of it changes, nor what others write meanwhile.
    let patch = json!({"data": {key: value}});
    let patched = secrets
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    patched.map(|_| ()).map_err(failed)
}

/// Takes a preshared key out again that was put there a moment ago.
pub(super) async fn remove(access: &Access, place: &SecretKeyRef) {
    let patch = Patch::Merge(json!({"data": {place.key(): null}}));
    let secrets = secrets(access);
    // Why the Peer could not be created is what matters; a key that none refers to harms nothing.
    let _left = secrets.patch(place.name(), &PatchParams::default(), &patch).await;
}

fn secrets(access: &Access) -> Api<Secret> {
    Api::namespaced(access.client.clone(), &access.namespace)
}
