//! `peer add`, `peer list`, `peer remove`.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use spanwire_crds::{Peer, PresharedKeySecretRef};
use spanwire_topology::{NodeName, PeerName, Prefix, SecretKeyRef};
use tokio::time::{Instant, sleep};

use super::{live::ask, secret, show, source::read};
use crate::{
    answer::{Answer, ListFormat, Verdict, of_objects},
    args::{PeerAdd, PeerCommand, PeerList, PeerRemove},
    cluster::{Access, Reach, brief, enter},
    colour::is_wanted,
    findings::Answers,
    keypair::{self, KeyPair},
    objects::{Kind, Objects},
    peer::{attached_to, decided, free_address, rows, text},
    qr::picture,
    showconf::{Config, of_peer},
};

/// How long the operator is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
const KINDS: [Kind; 2] = [Kind::Peer, Kind::LocationSlice];

/// The operator has decided, and the Peer does not have what it asks for.
#[derive(Debug, thiserror::Error)]
#[error("the Peer is not served: {0}")]
struct NotServed(String);

pub(super) async fn run(reach: &Reach, command: &PeerCommand) -> anyhow::Result<Answer> {
    match command {
        PeerCommand::Add(args) => add(reach, args).await,
        PeerCommand::List(args) => list(reach, args).await,
        PeerCommand::Remove(args) => remove(reach, args).await,
    }
}

async fn list(reach: &Reach, args: &PeerList) -> anyhow::Result<Answer> {
    let mut notes = Vec::new();
    let (objects, answers) = if args.filename.is_empty() {
        let access = reach.connect().await?;
        let objects = listed(&access, args, &mut notes).await?;
        let leaders = attached_to(&objects);
        let answers = match leaders.is_empty() || args.output == Some(ListFormat::Name) {
            true => Answers::new(),
            false => {
                let (answers, unasked) = ask(&access, &leaders).await;
                notes.extend(unasked);
                answers
            }
        };
        (objects, answers)
    } else {
        let source = read(reach, &args.filename, &KINDS).await?;
        (source.objects, source.answers)
    };
    let rows = rows(&objects, &answers);
    let peers: Vec<String> = rows.iter().map(|row| format!("peer {}", row.name)).collect();
    Ok(Answer {
        text: of_objects(&rows, args.output, &peers, |wide| text(&rows, wide))?,
        notes,
        ..Answer::default()
    })
}

/// Returns the Peers, and what is published where that may be read: by it is known which leaders to ask.
async fn listed(access: &Access, args: &PeerList, notes: &mut Vec<String>) -> anyhow::Result<Objects> {
    let mut objects = match &args.selector {
        None => access.objects(&[Kind::Peer]).await?,
        Some(selector) => {
            let found = access.list(&Kind::Peer.path(), Some(selector)).await;
            let found = found.map_err(|error| anyhow!("-l {selector}: {}", brief(&error)))?;
            let mut objects = Objects::default();
            enter(&mut objects, Kind::Peer, found);
            objects
        }
    };
    match access.list(&Kind::LocationSlice.path(), None).await {
        Ok(slices) => enter(&mut objects, Kind::LocationSlice, slices),
        Err(error) => notes.push(format!(
            "when leaders heard the Peers is not known: {}",
            brief(&error)
        )),
    }
    Ok(objects)
}

async fn remove(reach: &Reach, args: &PeerRemove) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    let peers: Api<Peer> = Api::all(access.client.clone());
    let (mut answer, mut failed) = (Answer::default(), Vec::new());
    for name in &args.names {
        let there = match removed(&peers, name).await {
            Ok(there) => there,
            Err(error) => {
                failed.push(format!("peer {name}: {}", brief(&error)));
                continue;
            }
        };
        answer.text += &format!("peer.spanwire.dev/{name} deleted\n");
        let reference = there.and_then(|peer| peer.spec.preshared_key_secret_ref);
        answer.notes.extend(reference.map(|PresharedKeySecretRef { name: secret, key }| {
            format!(
                "its preshared key is still in the Secret {secret}; where no other Peer has it: kubectl -n {} patch secret {secret} \
                 --type json -p '[{{\"op\": \"remove\", \"path\": \"/data/{key}\"}}]'",
                access.namespace
            )
        }));
    }
    if failed.is_empty() {
        return Ok(answer);
    }
    show(&answer);
    bail!(failed.join("\nerror: "))
}

/// Deletes a Peer, and returns what it was.
async fn removed(peers: &Api<Peer>, name: &str) -> Result<Option<Peer>, kube::Error> {
    // The answer to a deletion does not say what was deleted.
    let there = peers.get_opt(name).await?;
    peers.delete(name, &DeleteParams::default()).await?;
    Ok(there)
}

async fn add(reach: &Reach, args: &PeerAdd) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    // Where they cannot be read, an address of a service is refused by the operator, which says so.
    let services = access.service_cidrs().await.unwrap_or_default();
    let wanted = Wanted::new(&access.objects(&KINDS).await?, &services, args)?;
    if args.dry_run {
        return Ok(Answer {
            text: serde_saphyr::to_string(&wanted.peer)?,
            notes: vec!["nothing was created, and the key is thrown away".to_owned()],
            ..Answer::default()
        });
    }
    let path = args
        .file
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.conf", wanted.name)));
    // The file first: a Peer whose private key is nowhere is of no use.
    let file = create(&path)?;
    let created = wanted.create(&access).await;
    let preshared = created.inspect_err(|_| drop(fs::remove_file(&path)))?;
    let mut answer = Answer {
        text: wanted.created(),
        ..Answer::default()
    };
    let private = wanted.pair.as_ref().map(KeyPair::private);
    let keys = [private.as_deref(), preshared.as_deref()];
    match configurations(&access, &wanted, args.all_leaders).await {
        Ok(configs) => {
            let text = |config: &Config| config.text(true, keys[0], keys[1]);
            write(file, &text(&configs.present))?;
            answer.text += &format!("wg-quick up {}\n", shown(&path));
            for (leader, config) in configs.others {
                let path = beside(&path, &leader)?;
                write(create(&path)?, &text(&config))?;
                answer.text += &format!("when {leader} leads: wg-quick up {}\n", shown(&path));
            }
            if args.qr {
                drawn(&text(&configs.present.of_present_leaders()), &mut answer);
            }
        }
        Err(problem) => {
            let refused = problem.is::<NotServed>();
            let kept = kept(file, keys, &path, &wanted.name, &format!("{problem:#}"))?;
            answer.notes.push(kept);
            answer.verdict = if refused {
                Verdict::Errors
            } else {
                Verdict::Warnings
            };
        }
    }
    Ok(answer)
}

/// A Peer that is to be.
struct Wanted {
    name: PeerName,
    allowed: Vec<Prefix>,
    /// Its keys, where they are made here.
    pair: Option<KeyPair>,
    /// Where its preshared key is to be, if it is to have one.
    place: Option<SecretKeyRef>,
    peer: Peer,
}

impl Wanted {
    fn new(objects: &Objects, services: &[Prefix], args: &PeerAdd) -> anyhow::Result<Self> {
        let name: PeerName = args
            .name
            .parse()
            .map_err(|error| anyhow!("{:?} {error}", args.name))?;
        let exists = objects.get(Kind::Peer, name.as_str()).is_some();
        ensure!(
            !exists,
            "there is a Peer {name} already; `kubectl spanwire peer remove {name}` removes it"
        );
        let allowed: Vec<Prefix> = match &args.allowed_ip[..] {
            [] => vec![free_address(objects, args.pool, services).map_err(|problem| anyhow!(problem))?],
            given => given.to_vec(),
        };
        let (pair, key) = match args.public_key {
            Some(key) => (None, key),
            None => {
                let pair = KeyPair::generate()?;
                let key = pair.public;
                (Some(pair), key)
            }
        };
        let place = args.preshared_key.then(|| place(&name, args)).transpose()?;
        let peer = manifest(&name, &key.to_string(), &allowed, place.as_ref(), args)?;
        Ok(Self {
            name,
            allowed,
            pair,
            place,
            peer,
        })
    }

    /// Creates the preshared key, which is returned, and the Peer: both or none.
    async fn create(&self, access: &Access) -> anyhow::Result<Option<String>> {
        let preshared = match &self.place {
            Some(place) => Some(preshared_key(access, place).await?),
            None => None,
        };
        let created = Api::<Peer>::all(access.client.clone())
            .create(&PostParams::default(), &self.peer)
            .await;
        if let Err(error) = created {
            if let Some(place) = &self.place {
                secret::remove(access, place).await;
            }
            bail!("peer {}: {}", self.name, brief(&error));
        }
        Ok(preshared)
    }

    /// Says what has been created.
    fn created(&self) -> String {
        let allowed = crate::table::joined(&self.allowed);
        let mut text = format!("peer.spanwire.dev/{} created, with {allowed}\n", self.name);
        if let Some(place) = &self.place {
            text += &format!(
                "its preshared key is in the Secret {}, as {}\n",
                place.name(),
                place.key()
            );
        }
        text
    }
}

/// What the machine of a Peer needs.
struct Configurations {
    /// With the present leaders.
    present: Config,
    /// By each leader that may take the place of one of them, with that one.
    others: Vec<(NodeName, Config)>,
}

/// Returns what the machine of the Peer needs, once that has been accepted; of other leaders where that is asked for.
async fn configurations(access: &Access, wanted: &Wanted, all: bool) -> anyhow::Result<Configurations> {
    let mesh = accepted(access, &wanted.name, &wanted.allowed).await?.published();
    let with =
        |instead: &[NodeName]| of_peer(&mesh, &wanted.name, instead).map_err(|problem| anyhow!(problem));
    let present = with(&[])?;
    let others = present.other_leaders().filter(|_| all);
    let others = others.map(|leader| {
        let leader: NodeName = leader.parse()?;
        let config = with(std::slice::from_ref(&leader))?;
        Ok((leader, config))
    });
    Ok(Configurations {
        others: others.collect::<anyhow::Result<_>>()?,
        present,
    })
}

/// Returns the file for another leader: of the same name, which is that of the device, in a folder of its own.
fn beside(path: &Path, leader: &NodeName) -> anyhow::Result<PathBuf> {
    let mut folder = path.with_extension("").into_os_string();
    folder.push(format!(".{leader}"));
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = path.file_name();
    Ok(folder.join(name.with_context(|| format!("{} is no file", path.display()))?))
}

/// Adds the picture of a configuration that a phone reads.
fn drawn(config: &str, answer: &mut Answer) {
    let colours = is_wanted(
        std::io::stdout().is_terminal(),
        std::env::var_os("NO_COLOR").as_deref(),
    );
    match picture(config, colours) {
        Ok(picture) => answer.text += &picture,
        Err(why) => answer.notes.push(why),
    }
}

/// Returns where the preshared key of the Peer is to be.
fn place(name: &PeerName, args: &PeerAdd) -> anyhow::Result<SecretKeyRef> {
    let place = SecretKeyRef::new(&args.preshared_key_secret, name.as_str());
    place.map_err(|error| anyhow!("--preshared-key-secret {error}"))
}

/// Makes a preshared key and puts it there.
async fn preshared_key(access: &Access, place: &SecretKeyRef) -> anyhow::Result<String> {
    let key = keypair::preshared_key()?;
    secret::add(access, place, &key).await?;
    Ok(key)
}

/// Keeps the keys where there is no party to talk to yet, and returns what is to be done.
fn kept(
    file: File,
    [private, preshared]: [Option<&str>; 2],
    path: &Path,
    name: &PeerName,
    why: &str,
) -> anyhow::Result<String> {
    let mut text = private.map_or_else(String::new, |key| format!("[Interface]\nPrivateKey = {key}\n"));
    text += &preshared.map_or_else(String::new, |key| {
        format!("# of each [Peer]: PresharedKey = {key}\n")
    });
    write(file, &text)?;
    Ok(format!(
        "{why}; {} has the keys alone: once the Peer is served, `kubectl spanwire showconf peer {name}` shows the rest, and \
         `kubectl spanwire peer remove {name}` removes it",
        path.display()
    ))
}

fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    // Without a slash wg-quick takes it for the name of a file in /etc/wireguard.
    if text.contains('/') {
        text
    } else {
        format!("./{text}")
    }
}

fn manifest(
    name: &PeerName,
    key: &str,
    allowed: &[Prefix],
    place: Option<&SecretKeyRef>,
    args: &PeerAdd,
) -> anyhow::Result<Peer> {
    let mut spec =
        json!({"publicKey": key, "allowedIPs": allowed.iter().map(ToString::to_string).collect::<Vec<_>>()});
    if let Some(location) = &args.location {
        spec["location"] = location.as_str().into();
    }
    if let Some(endpoint) = &args.endpoint {
        spec["endpoint"] = endpoint.to_string().into();
    }
    if let Some(place) = place {
        spec["presharedKeySecretRef"] = json!({"name": place.name(), "key": place.key()});
    }
    Ok(Peer::new(name.as_str(), serde_json::from_value(spec)?))
}

/// Makes a file that its owner alone can read.
fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot make {}; name another file with --file", path.display()))
}

fn write(mut file: File, text: &str) -> anyhow::Result<()> {
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Waits until the operator has decided, and returns what is published then.
pub(super) async fn accepted(access: &Access, name: &PeerName, asked: &[Prefix]) -> anyhow::Result<Objects> {
    let end = Instant::now() + PATIENCE;
    loop {
        let objects = access.objects(&KINDS).await?;
        let peer = objects.get(Kind::Peer, name.as_str());
        let status = &peer.with_context(|| format!("the Peer {name} was deleted meanwhile"))?["status"];
        match decided(status, asked) {
            Some(Ok(())) => return Ok(objects),
            Some(Err(why)) => return Err(NotServed(why).into()),
            None => {}
        }
        ensure!(
            Instant::now() < end,
            "the operator has not decided about the Peer within {} s",
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(200)).await;
    }
}
