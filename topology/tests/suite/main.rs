//! What the crate must show from outside: scenarios with committed output, properties, and the packet walk.

#[cfg(test)]
mod advice;
#[cfg(test)]
mod arbitrary;
mod borrowed;
#[cfg(test)]
mod combinations;
#[cfg(test)]
mod expect;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod handover;
#[cfg(test)]
mod mixtures;
#[cfg(test)]
mod probes;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod walk;
