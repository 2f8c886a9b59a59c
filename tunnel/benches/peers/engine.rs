//! What can be measured, and in which network.

use clap::ValueEnum;

/// A device to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Engine {
    /// This one
    Spanwire,
    /// This one, packet by packet
    Plain,
    /// This one without a cipher
    NullCipher,
    /// The newest wireguard-go
    WireguardGo,
    /// boringtun-cli with its four threads
    Boringtun,
    /// boringtun-cli with one thread
    Boringtun1,
    /// gotatun-cli
    Gotatun,
}

/// A network between the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum SetUp {
    /// A veth as it is
    Veth,
    /// All processes of a side on a core of its own
    Core,
    /// A veth that leaves the segmentation of UDP to the sender's kernel
    NoUdpSegmentation,
}

impl Engine {
    /// Returns the program that `benches/tools` has to build for this engine; `None` for this crate's own device.
    pub(crate) fn tool(self) -> Option<&'static str> {
        match self {
            Self::Spanwire | Self::Plain | Self::NullCipher => None,
            Self::WireguardGo => Some("wireguard-go"),
            Self::Boringtun | Self::Boringtun1 => Some("boringtun-cli"),
            Self::Gotatun => Some("gotatun"),
        }
    }
}

/// Returns the programs to build for these engines, each once.
pub(crate) fn tools(engines: &[Engine]) -> Vec<&'static str> {
    let mut tools: Vec<_> = engines.iter().filter_map(|engine| engine.tool()).collect();
    tools.sort_unstable();
    tools.dedup();
    tools
}

/// Returns the name on the command line: `wireguard-go` for `Engine::WireguardGo`.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .expect("no variant is skipped")
}
