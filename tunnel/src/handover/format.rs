//! What one process hands to another, as text and descriptors.
//!
//! ```text
//! hand-over=1                     the version; `error REASON` from a process that does not hand over
//! length=BYTES                    of all that follows
//! network=INODE                   the network namespace; absent where there is no /proc
//! control=DEVICE:INODE            the control socket's file; its descriptor comes first
//! device=NAME                     then for each device, in one message with its descriptors:
//! uapi=DEVICE:INODE               the UAPI socket's file
//! descriptors=uapi,tun,udp4,udp6  in the order in which they come; those of UDP only if the port is open
//! configuration=BYTES             of the answer to a UAPI `get`, which follows
//! ```

use std::collections::VecDeque;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{link::network, listener::FileId};

/// The only version there is.
pub const VERSION: &str = "1";
/// A head is far shorter; what sends more without one speaks another protocol.
const LONGEST_HEAD: usize = 4096;

/// What was received is no transfer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    /// The other process does not hand over.
    #[error("the running process does not hand over: {0}")]
    Refused(String),
    /// It speaks another version, or something else.
    #[error("the running process hands over by something else than version {VERSION}: {0:?}")]
    Version(String),
    /// A line is not what it should be. Secrets are not repeated.
    #[error("the hand-over lacks the line {0:?}")]
    Line(&'static str),
    /// There are more or fewer descriptors than the text says.
    #[error("the hand-over's descriptors are not those it speaks of")]
    Descriptors,
}

/// Everything; `F` is a descriptor.
#[derive(Debug, PartialEq, Eq)]
pub struct Transfer<F> {
    /// The network namespace's inode.
    pub network: Option<u64>,
    /// The control socket.
    pub control: Option<Socket<F>>,
    /// The devices.
    pub devices: Vec<TransferredDevice<F>>,
}

/// A listening socket and its file.
#[derive(Debug, PartialEq, Eq)]
pub struct Socket<F> {
    /// Its file.
    pub file: FileId,
    /// The socket.
    pub socket: F,
}

/// One device.
#[derive(Debug, PartialEq, Eq)]
pub struct TransferredDevice<F> {
    /// What it was asked for as.
    pub name: String,
    /// The UAPI's socket.
    pub uapi: Socket<F>,
    /// The interface.
    pub tun: F,
    /// The sockets for IPv4 and IPv6.
    pub udp: [Option<F>; 2],
    /// The answer to a UAPI `get`, without `errno`: there are keys in it.
    pub configuration: Zeroizing<String>,
}

impl<F> Transfer<F> {
    /// Describes what this process has.
    pub fn new(control: Option<Socket<F>>, devices: Vec<TransferredDevice<F>>) -> Self {
        Self {
            network: network(),
            control,
            devices,
        }
    }
}

impl<F: Copy> Transfer<F> {
    /// Returns the messages, and the descriptors that go with each.
    pub fn render(&self) -> Vec<(Zeroizing<String>, Vec<F>)> {
        let mut first = String::new();
        if let Some(inode) = self.network {
            first += &format!("network={inode}\n");
        }
        if let Some(control) = &self.control {
            first += &format!("control={}\n", file(control.file));
        }
        let devices: Vec<_> = self.devices.iter().map(TransferredDevice::render).collect();
        let length = first.len() + devices.iter().map(|(text, _)| text.len()).sum::<usize>();
        first = format!("hand-over={VERSION}\nlength={length}\n{first}");
        let control = self.control.iter().map(|control| control.socket).collect();
        [(first.into(), control)].into_iter().chain(devices).collect()
    }
}

impl<F: Copy> TransferredDevice<F> {
    fn render(&self) -> (Zeroizing<String>, Vec<F>) {
        let (mut names, mut descriptors) = (vec!["uapi", "tun"], vec![self.uapi.socket, self.tun]);
        for (name, socket) in UDP.iter().zip(self.udp) {
            if let Some(socket) = socket {
                names.push(name);
                descriptors.push(socket);
            }
        }
        let Self {
            name, configuration, ..
        } = self;
        let head = format!(
            "device={name}\nuapi={}\ndescriptors={}\nconfiguration={}\n",
            file(self.uapi.file),
            names.join(","),
            configuration.len(),
        );
        // Once, for what a string grows out of is not wiped.
        let mut text = Zeroizing::new(String::with_capacity(head.len() + configuration.len()));
        text.push_str(&head);
        text.push_str(configuration);
        (text, descriptors)
    }
}

const UDP: [&str; 2] = ["udp4", "udp6"];

/// Bytes of head and of the whole, once the head is there; an error as soon as it is clear that this is no transfer.
pub fn measure(received: &[u8]) -> Result<Option<(usize, usize)>, FormatError> {
    let mut lines = received.split_inclusive(|byte| *byte == b'\n');
    let mut line = || {
        let line = lines.next().unwrap_or_default();
        String::from_utf8_lossy(line.strip_suffix(b"\n")?)
            .into_owned()
            .into()
    };
    let Some(version): Option<String> = line() else {
        return if received.len() > LONGEST_HEAD {
            Err(FormatError::Line("hand-over"))
        } else {
            Ok(None)
        };
    };
    if let Some(reason) = version.strip_prefix("error ") {
        return Err(FormatError::Refused(reason.into()));
    }
    if version.strip_prefix("hand-over=") != Some(VERSION) {
        return Err(FormatError::Version(version));
    }
    let Some(length): Option<String> = line() else {
        return if received.len() > LONGEST_HEAD {
            Err(FormatError::Line("length"))
        } else {
            Ok(None)
        };
    };
    let head = version.len() + length.len() + 2;
    let whole = length
        .strip_prefix("length=")
        .and_then(|length| length.parse::<usize>().ok())
        .and_then(|length| length.checked_add(head))
        .ok_or(FormatError::Line("length"))?;
    Ok(Some((head, whole)))
}

impl<F> Transfer<F> {
    /// Reads what is behind the head.
    pub fn parse(text: &str, mut descriptors: VecDeque<F>) -> Result<Self, FormatError> {
        let mut rest = text;
        let network = take(&mut rest, "network=")
            .map(|inode| inode.parse().map_err(|_| FormatError::Line("network")))
            .transpose()?;
        let control = take(&mut rest, "control=")
            .map(|file| parse_socket(file, &mut descriptors, "control"))
            .transpose()?;
        let mut devices = Vec::new();
        while !rest.is_empty() {
            devices.push(TransferredDevice::parse(&mut rest, &mut descriptors)?);
        }
        if !descriptors.is_empty() {
            return Err(FormatError::Descriptors);
        }
        Ok(Self {
            network,
            control,
            devices,
        })
    }
}

impl<F> TransferredDevice<F> {
    fn parse(rest: &mut &str, descriptors: &mut VecDeque<F>) -> Result<Self, FormatError> {
        let mut line = |prefix: &str, name: &'static str| take(rest, prefix).ok_or(FormatError::Line(name));
        let name = line("device=", "device")?;
        let file = line("uapi=", "uapi")?;
        let names = line("descriptors=", "descriptors")?;
        let length: usize = line("configuration=", "configuration")?
            .parse()
            .map_err(|_| FormatError::Line("configuration"))?;
        let (configuration, after) = rest
            .split_at_checked(length)
            .ok_or(FormatError::Line("configuration"))?;
        *rest = after;

        let udp = names
            .strip_prefix("uapi,tun")
            .ok_or(FormatError::Line("descriptors"))?;
        let (has_v4, udp) = skip(udp, ",udp4");
        let (has_v6, udp) = skip(udp, ",udp6");
        if !udp.is_empty() {
            return Err(FormatError::Line("descriptors"));
        }
        let uapi = parse_socket(file, descriptors, "uapi")?;
        let mut next = || descriptors.pop_front().ok_or(FormatError::Descriptors);
        Ok(Self {
            name: name.into(),
            uapi,
            tun: next()?,
            udp: [
                has_v4.then(&mut next).transpose()?,
                has_v6.then(&mut next).transpose()?,
            ],
            configuration: Zeroizing::new(configuration.into()),
        })
    }
}

fn file(FileId(device, inode): FileId) -> String {
    format!("{device}:{inode}")
}

fn parse_socket<F>(
    file: &str,
    descriptors: &mut VecDeque<F>,
    line: &'static str,
) -> Result<Socket<F>, FormatError> {
    let file = file
        .split_once(':')
        .and_then(|(device, inode)| Some(FileId(device.parse().ok()?, inode.parse().ok()?)))
        .ok_or(FormatError::Line(line))?;
    let socket = descriptors.pop_front().ok_or(FormatError::Descriptors)?;
    Ok(Socket { file, socket })
}

/// Returns the value of the next line, if it begins like this.
fn take<'a>(rest: &mut &'a str, prefix: &str) -> Option<&'a str> {
    let (value, after) = rest.strip_prefix(prefix)?.split_once('\n')?;
    *rest = after;
    Some(value)
}

fn skip<'a>(text: &'a str, prefix: &str) -> (bool, &'a str) {
    match text.strip_prefix(prefix) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        for transfer in [
            some(),
            Transfer {
                network: None,
                control: None,
                devices: Vec::new(),
            },
        ] {
            let (bytes, descriptors) = sent(&transfer);
            let (head, whole) = measure(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!(whole, bytes.len());
            assert_eq!(Transfer::parse(&bytes[head..], descriptors), Ok(transfer));
        }
    }

    #[test]
    fn a_device_comes_in_one_message_with_its_descriptors() {
        let messages = some().render();
        let descriptors: Vec<_> = messages
            .iter()
            .map(|(_, descriptors)| descriptors.clone())
            .collect();
        assert_eq!(
            descriptors,
            [vec![1], vec![2, 3, 4, 5], vec![6, 7], vec![8, 9, 10]]
        );
        assert!(
            messages[2]
                .0
                .starts_with("device=two\nuapi=5:6\ndescriptors=uapi,tun\n")
        );
    }

    #[test]
    fn no_part_of_it_is_taken_for_the_whole() {
        let (bytes, descriptors) = sent(&some());
        let (head, whole) = measure(bytes.as_bytes()).unwrap().unwrap();
        for end in 0..whole {
            match measure(&bytes.as_bytes()[..end]) {
                Ok(None) => assert!(end < head),
                Ok(Some((_, wanted))) => assert!(end >= head && end < wanted),
                Err(error) => panic!("{end}: {error}"),
            }
            // Nor if it were cut and said so, but where a device ends: then descriptors are left over.
            if end >= head {
                assert!(
                    Transfer::parse(&bytes[head..end], descriptors.clone()).is_err(),
                    "{end}"
                );
            }
        }
    }

    #[test]
    fn descriptors_too_few_or_too_many_are_refused() {
        let (bytes, mut descriptors) = sent(&some());
        let (head, _) = measure(bytes.as_bytes()).unwrap().unwrap();
        descriptors.push_back(11);
        let text = &bytes[head..];
        assert_eq!(
            Transfer::parse(text, descriptors.clone()),
            Err(FormatError::Descriptors)
        );
        descriptors.truncate(9);
        assert_eq!(Transfer::parse(text, descriptors), Err(FormatError::Descriptors));
    }

    #[test]
    fn another_version_and_a_refusal_are_said_in_words() {
        let refused = measure(b"error the commands are: up NAME, down NAME, list\n").unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("does not hand over: the commands are: up NAME, down NAME, list")
        );
        let other = measure(b"hand-over=2\nlength=5\nabcde").unwrap_err();
        assert_eq!(other, FormatError::Version("hand-over=2".into()));
        assert!(matches!(measure(b"errno=-22\n\n"), Err(FormatError::Version(_))));
        for wrong in [
            &b"hand-over=1\nlength=x\n"[..],
            b"hand-over=1\nlength=18446744073709551615\n",
            &[b'x'; 5000],
        ] {
            assert!(measure(wrong).is_err());
        }
    }

    #[test]
    fn wrong_lines_are_refused() {
        let (bytes, descriptors) = sent(&some());
        let (head, _) = measure(bytes.as_bytes()).unwrap().unwrap();
        for (right, wrong) in [
            ("network=7", "network=x"),
            ("control=1:2", "control=1"),
            ("uapi=5:6", "uapi=:"),
            ("device=two", "gadget=two"),
            ("uapi,tun,udp4,udp6", "tun,uapi,udp4,udp6"),
            ("uapi,tun,udp4,udp6", "uapi,tun,udp4,udp6,more"),
            ("configuration=0", "configuration=1000000"),
        ] {
            let text = bytes[head..].replacen(right, wrong, 1);
            assert_ne!(text, bytes[head..]);
            assert!(Transfer::parse(&text, descriptors.clone()).is_err(), "{wrong}");
        }
    }

    fn some() -> Transfer<u8> {
        let device = |name: &str, first: u8, udp, configuration: &str| TransferredDevice {
            name: name.into(),
            uapi: Socket {
                file: FileId(5, 6),
                socket: first,
            },
            tun: first + 1,
            udp,
            configuration: Zeroizing::new(configuration.into()),
        };
        Transfer {
            network: Some(7),
            control: Some(Socket {
                file: FileId(1, 2),
                socket: 1,
            }),
            devices: vec![
                device("one", 2, [Some(4), Some(5)], "listen_port=5\nfwmark=1\n"),
                device("two", 6, [None, None], ""),
                device("three", 8, [None, Some(10)], "device=no\n"),
            ],
        }
    }

    fn sent(transfer: &Transfer<u8>) -> (String, VecDeque<u8>) {
        let (texts, descriptors): (Vec<_>, Vec<_>) = transfer.render().into_iter().unzip();
        let text = texts.iter().map(|text| text.as_str()).collect();
        (text, descriptors.into_iter().flatten().collect())
    }
}
