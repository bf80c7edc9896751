//! How people reach the agent: what is printed, and the pages that are read.

pub mod clean;
pub mod help;
mod inline;
pub mod markdown;
mod rows;
pub mod sql;
mod wrap;
