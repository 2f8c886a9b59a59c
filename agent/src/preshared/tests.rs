use std::sync::{Arc, Mutex};

use axum::{Router, extract::Request, http::StatusCode};
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

/// Longer than anything takes that happens at once, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// 32 bytes 7, as a Secret has what `wg genpsk` prints: with the end of its line, and in base64 once more.
const SEVENS: &str = "QndjSEJ3Y0hCd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Yz0K";

fn reference(text: &str) -> SecretKeyRef {
    text.parse().unwrap()
}

fn sevens() -> PresharedKey {
    PresharedKey::new([7; 32]).unwrap()
}

/// What the API server answers, and what it was asked.
#[derive(Default)]
struct Server {
    answer: (u16, serde_json::Value),
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Server>>;

async fn serve() -> (Shared, watch::Receiver<Option<Source>>) {
    let server = Shared::default();
    let state = Arc::clone(&server);
    let answer = move |request: Request| {
        let mut server = state.lock().unwrap();
        server
            .asked
            .push(format!("{} {}", request.method(), request.uri()));
        let (code, body) = server.answer.clone();
        async move {
            let kind = [("content-type", "application/json")];
            (StatusCode::from_u16(code).unwrap(), kind, body.to_string())
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(answer))
            .await
            .unwrap()
    });
    let client = Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let namespace = "space".to_owned();
    let (sender, source) = watch::channel(Some(Source::ApiServer { client, namespace }));
    drop(sender);
    (server, source)
}

fn refusal(code: u16) -> (u16, serde_json::Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code, "reason": "Some",
        "message": format!("refused with {code}"),
    });
    (code, status)
}

fn secret(data: serde_json::Value) -> (u16, serde_json::Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": data});
    (200, secret)
}

async fn next(results: &mut mpsc::Receiver<Read>) -> Read {
    timeout(PATIENCE, results.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_secret_is_read_by_its_name_for_all_its_keys_and_nothing_else_is() {
    let (server, source) = serve().await;
    server.lock().unwrap().answer = secret(json!({"laptop": SEVENS, "phone": "AAAA"}));
    let (mut reader, mut results) = Reader::new(source);
    reader.want(&["keys/laptop", "keys/phone", "keys/tablet"].map(reference).into());
    let mut found = BTreeMap::new();
    for _ in 0..3 {
        let (key, read) = next(&mut results).await;
        found.insert(key.to_string(), read);
    }
    assert_eq!(found["keys/laptop"], Ok(sevens()));
    let cause = |key: &str| match &found[key] {
        Err(Unread::Withdrawn(cause)) => cause.clone(),
        other => panic!("{other:?}"),
    };
    let phone = "what the Secret keys in the namespace space has as phone is no preshared key";
    assert!(cause("keys/phone").starts_with(phone) && !cause("keys/phone").contains("AAAA"));
    assert!(cause("keys/tablet").starts_with("the Secret keys in the namespace space has no key tablet"));
    assert_eq!(
        server.lock().unwrap().asked[0],
        "GET /api/v1/namespaces/space/secrets/keys"
    );

    reader.want(&BTreeSet::new());
    assert!(reader.tasks.is_empty());
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_is_tried_again() {
    let (server, source) = serve().await;
    server.lock().unwrap().answer = refusal(403);
    let (mut reader, mut results) = Reader::new(source);
    reader.want(&[reference("keys/laptop")].into());
    let Err(Unread::Forbidden(cause)) = next(&mut results).await.1 else {
        panic!()
    };
    assert!(
        cause.contains("Secret keys in the namespace space") && cause.contains("agent.presharedKeySecrets"),
        "{cause}"
    );
    server.lock().unwrap().answer = refusal(404);
    let Err(Unread::Withdrawn(cause)) = next(&mut results).await.1 else {
        panic!()
    };
    assert!(
        cause.starts_with("there is no Secret keys in the namespace space; create it"),
        "{cause}"
    );
    server.lock().unwrap().answer = refusal(500);
    assert_eq!(
        next(&mut results).await.1,
        Err(Unread::Unanswered("refused with 500".to_owned()))
    );
    // What cannot be decoded is not quoted.
    server.lock().unwrap().answer = (200, json!({"data": {"laptop": [SEVENS]}, "kind": "Secret"}));
    let Err(Unread::Unanswered(cause)) = next(&mut results).await.1 else {
        panic!()
    };
    assert!(!cause.contains(SEVENS), "{cause}");
    server.lock().unwrap().answer = secret(json!({"laptop": SEVENS}));
    assert_eq!(next(&mut results).await, (reference("keys/laptop"), Ok(sevens())));
}

#[tokio::test]
async fn other_keys_of_a_secret_are_read_at_once_and_one_without_an_answer_delays_no_other() {
    let (server, source) = serve().await;
    server.lock().unwrap().answer = secret(json!({"laptop": SEVENS, "phone": SEVENS}));
    let (mut reader, mut results) = Reader::new(source);
    reader.want(&[reference("keys/laptop")].into());
    assert_eq!(next(&mut results).await.0, reference("keys/laptop"));
    reader.want(&["keys/laptop", "keys/phone"].map(reference).into());
    // Half a minute before it would have been.
    let again = [next(&mut results).await.0, next(&mut results).await.0];
    assert_eq!(again, ["keys/laptop", "keys/phone"].map(reference));

    let (_never, source) = watch::channel(None);
    let (mut waiting, mut silent) = Reader::new(source);
    waiting.want(&[reference("keys/laptop")].into());
    assert!(
        timeout(Duration::from_millis(50), silent.recv()).await.is_err(),
        "there is no source yet"
    );
}

#[tokio::test]
async fn a_directory_is_read_as_a_pod_sees_its_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let (_sender, source) = watch::channel(Some(Source::Directory(directory.path().to_owned())));
    let (mut reader, mut results) = Reader::new(source);
    reader.want(&[reference("keys/laptop")].into());
    let Err(Unread::Withdrawn(cause)) = next(&mut results).await.1 else {
        panic!()
    };
    assert!(cause.contains("keys/laptop"), "{cause}");
    std::fs::create_dir(directory.path().join("keys")).unwrap();
    let path = directory.path().join("keys/laptop");
    std::fs::write(&path, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").unwrap();
    assert_eq!(next(&mut results).await.1, Ok(sevens()));
    for no_key in ["", "BwcH", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        std::fs::write(&path, no_key).unwrap();
        let Err(Unread::Withdrawn(cause)) = next(&mut results).await.1 else {
            panic!()
        };
        assert!(
            cause.contains("wg genpsk") && (no_key.is_empty() || !cause.contains(no_key)),
            "{cause}"
        );
        std::fs::write(&path, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").unwrap();
        assert_eq!(next(&mut results).await.1, Ok(sevens()));
    }
}

#[tokio::test]
async fn known_keys_are_kept_for_their_owner_alone_and_go_when_none_is_needed() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let path = kept::path(directory.path());
    assert_eq!(kept::load(directory.path()).unwrap(), kept::Keys::new());
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(kept::keep(directory.path().to_owned(), receiver));
    let keys: kept::Keys = [(reference("keys/laptop"), sevens())].into();
    sender.send_replace(Some(keys.clone()));
    let until = async |there: bool| {
        while path.exists() != there {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, until(true)).await.unwrap();
    assert_eq!(kept::load(directory.path()).unwrap(), keys);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    sender.send_replace(Some(kept::Keys::new()));
    timeout(PATIENCE, until(false)).await.unwrap();

    for damaged in [
        "",
        "{}",
        r#"{"version":2,"keys":{}}"#,
        r#"{"version":1,"keys":{"keys/laptop":"AAAA"}}"#,
    ] {
        std::fs::write(&path, damaged).unwrap();
        let error = crate::causes::chain(&kept::load(directory.path()).unwrap_err());
        assert!(
            !error.contains("AAAA") && error.contains("read from their Secrets again"),
            "{error}"
        );
    }
}
