//! What the kernel can be asked to keep a thread from, one way a file: calls, changes of modes and
//! owners, privileges. Plain data goes in; knows neither policies nor hands, and starts nothing.

pub mod broker;
pub mod calls;
pub mod network;
pub mod thread;
