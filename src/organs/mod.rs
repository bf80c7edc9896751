//! What can be cut off and the loop still lives.

pub mod beneath;
pub mod gitdir;
pub mod scan;
pub mod snapshots;
