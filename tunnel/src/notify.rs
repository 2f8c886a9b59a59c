//! The word to a supervisor that everything is there: `sd_notify(3)`.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process,
};

/// Says that the sockets answer, if one wants to hear it.
pub fn ready() {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let say = || -> io::Result<()> {
        let path = path.to_string_lossy();
        let to = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&*path)?,
        };
        let socket = UnixDatagram::unbound()?;
        let words = format!("READY=1\nMAINPID={}\n", process::id());
        socket.send_to_addr(words.as_bytes(), &to).map(drop)
    };
    if let Err(error) = say() {
        tracing::warn!(%error, "the supervisor cannot be notified");
    }
}
