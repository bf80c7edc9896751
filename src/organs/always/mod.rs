//! What goes on without a terminal: a schedule, services, and chats with the owner.
//!
//! An organ: without it the loop lives, and answers whoever asks. Only a host that stays
//! (`serve`, or an open conversation) has it running.

pub mod channels;
pub mod schedule;
pub mod services;
