//! Whether the process that carries this node's tunnels is about to end.
//!
//! It says so some time before, to those that have asked, so that what goes by this node can go by another leader first. Where it ends in
//! another way it says nothing, and others notice that nothing answers any more.

use std::{path::PathBuf, time::Duration};

use spanwire_cluster::backoff::Backoff;
use spanwire_kernel::{Heard, TunnelProcess};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// A process that is about to end says so at once. One that has said nothing for so long is not.
const AT_ONCE: Duration = Duration::from_millis(100);
/// For so long the notice holds, while there is no other process. It is over in two seconds, and whether there are tunnels shows then.
const LASTING: Duration = Duration::from_secs(5);
/// How soon to look for a process again, and how seldom.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Sends whether it is about to end, until nothing receives it.
pub async fn watch(control: PathBuf, draining: watch::Sender<bool>) {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    let mut until = None;
    while !draining.is_closed() {
        if let Some(mut process) = TunnelProcess::ask(&control).await {
            let heard = match timeout(AT_ONCE, process.listen()).await {
                Ok(heard) => heard,
                Err(_) => {
                    until = None;
                    send(&draining, false);
                    backoff.reset();
                    process.listen().await
                }
            };
            if heard == Heard::Ending {
                until = Some(Instant::now() + LASTING);
                send(&draining, true);
                // What becomes of it shows when there is another one.
                let _over = timeout(LASTING, process.listen()).await;
                backoff.reset();
            }
        }
        if until.take_if(|until| *until <= Instant::now()).is_some() {
            send(&draining, false);
        }
        sleep(backoff.wait()).await;
    }
}

fn send(draining: &watch::Sender<bool>, now: bool) {
    draining.send_if_modified(|known| std::mem::replace(known, now) != now);
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::{UnixListener, UnixStream},
    };

    use super::*;

    /// Waits until a client has asked for the notice.
    async fn asked(listener: &UnixListener) -> BufReader<UnixStream> {
        let mut client = BufReader::new(listener.accept().await.unwrap().0);
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        assert_eq!(line, "await-end\n");
        client
    }

    #[tokio::test]
    async fn the_notice_holds_until_there_is_another_process_or_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("tunnel.sock");
        let (sender, mut draining) = watch::channel(false);
        let watching = tokio::spawn(watch(control.clone(), sender));
        let listener = UnixListener::bind(&control).unwrap();
        // It ends without a word.
        drop(asked(&listener).await);
        let mut process = asked(&listener).await;
        assert!(!draining.has_changed().unwrap());
        process.write_all(b"ok\n").await.unwrap();
        draining.changed().await.unwrap();
        assert!(*draining.borrow_and_update());
        drop(process);
        // It still serves, and says the same.
        let mut process = asked(&listener).await;
        process.write_all(b"ok\n").await.unwrap();
        drop(process);
        let process = asked(&listener).await;
        assert!(!draining.has_changed().unwrap());
        draining.changed().await.unwrap();
        assert!(
            !*draining.borrow_and_update(),
            "another one has been silent for a moment"
        );
        drop(process);
        let mut process = asked(&listener).await;
        process.write_all(b"ok\n").await.unwrap();
        draining.changed().await.unwrap();
        assert!(*draining.borrow_and_update());
        drop((process, listener));
        let since = Instant::now();
        draining.changed().await.unwrap();
        assert!(!*draining.borrow_and_update());
        assert!(since.elapsed() >= LASTING - Duration::from_secs(1));
        drop(draining);
        watching.await.unwrap();
    }
}
