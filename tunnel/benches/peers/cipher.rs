//! What the cipher costs, and a device without one.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, ensure};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use spanwire_testbed::programs;

/// Long enough for a figure of three digits.
const PACKETS: u64 = 200_000;
/// A full packet of an interface with MTU 1420.
const PACKET: usize = 1_420;

/// Builds the device without a cipher, beside the others' builds, and returns where it is.
pub(crate) fn build_without() -> anyhow::Result<PathBuf> {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("null-cipher");
    let status = programs::command("cargo")?
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "spanwire-tunnel",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "--cfg spanwire_null_cipher")
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cargo is missing")?;
    ensure!(status.success(), "cannot build the device without a cipher");
    Ok(target.join("release/spanwire-tunnel"))
}

/// Nanoseconds that sealing a packet takes.
pub(crate) fn nanoseconds() -> f64 {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("a key has 32 bytes");
    let key = LessSafeKey::new(key);
    let mut packet = [0x5a; PACKET];
    let start = Instant::now();
    for counter in 0..PACKETS {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut packet);
        let _ = std::hint::black_box(tag);
    }
    start.elapsed().as_secs_f64() * 1e9 / PACKETS as f64
}
