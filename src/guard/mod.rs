//! What the agent cannot get around.

pub mod history;
