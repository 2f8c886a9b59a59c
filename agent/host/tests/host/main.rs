//! Tests of what a machine should look like.

mod nft_syntax;
mod samples;
mod snapshots;
