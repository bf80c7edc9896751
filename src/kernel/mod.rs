//! The bootstrap agent itself: what is said, who says it, the four tools, the transcript
//! and the loop. It owns the traits that the floors above implement (`Model`, `Hands`,
//! `History`, `Inbox`, `Context`) and knows no provider, no process, no git and no terminal.

pub mod agent;
pub mod border;
pub mod conversation;
pub mod event;
pub mod interrupt;
pub mod message;
pub mod model;
pub mod session;
pub mod tool;
