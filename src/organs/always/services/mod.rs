//! Services: executables of the workspace that are kept running.
//!
//! Each has a hand of its own, for as long as it runs. What they say is somebody else's to
//! understand, see `channels`.

pub mod keeper;
pub mod lines;
pub mod log;
pub mod patience;
pub mod program;
pub mod trial;
pub mod wanted;

#[cfg(test)]
mod tests;
