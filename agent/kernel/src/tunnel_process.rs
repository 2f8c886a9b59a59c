//! Whether the process that carries the tunnels is about to end.

use std::path::Path;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::UnixStream,
};

/// A connection to the control socket of such a process, which waits to hear of its end.
#[derive(Debug)]
pub struct TunnelProcess(Lines<BufReader<UnixStream>>);

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is about to end.
    Ending,
    /// It has ended, has handed over to another one, or knows of no such notice.
    Over,
}

impl TunnelProcess {
    /// Asks the process at this control socket to say when it is about to end; `None` where there is none.
    pub async fn ask(control: &Path) -> Option<Self> {
        let mut stream = UnixStream::connect(control).await.ok()?;
        stream.write_all(b"await-end\n").await.ok()?;
        Some(Self(BufReader::new(stream).lines()))
    }

    /// Waits for what it says next. May be given up and called again.
    pub async fn listen(&mut self) -> Heard {
        match self.0.next_line().await {
            Ok(Some(line)) if line == "ok" => Heard::Ending,
            Ok(_) | Err(_) => Heard::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_notice_of_the_end_is_heard_and_nothing_else_is_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("tunnel.sock");
        assert!(TunnelProcess::ask(&control).await.is_none());
        let listener = UnixListener::bind(&control).unwrap();
        for (answer, heard) in [
            ("ok\n", Heard::Ending),
            ("", Heard::Over),
            ("error the commands are: up NAME\n", Heard::Over),
        ] {
            let mut process = TunnelProcess::ask(&control).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut lines = BufReader::new(stream).lines();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "await-end");
            let mut stream = lines.into_inner();
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(stream);
            assert_eq!(process.listen().await, heard, "{answer:?}");
            assert_eq!(process.listen().await, Heard::Over);
        }
    }
}
