//! Services: executables of the workspace that are kept running.

pub mod keeper;
pub mod patience;
