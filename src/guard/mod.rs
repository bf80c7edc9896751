//! What the agent cannot get around: everything it does to the machine goes through a hand,
//! and a hand does what its policy lets it. Knows the kernel, and neither models nor faces.

pub mod confine;
pub mod hand;
pub mod policy;
pub mod supervisor;

#[cfg(test)]
mod broker_tests;
