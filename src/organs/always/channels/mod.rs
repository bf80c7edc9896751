//! Channels: services by which people talk to the agent from their chat clients.

pub mod contract;
pub mod courier;
pub mod people;
pub mod split;
