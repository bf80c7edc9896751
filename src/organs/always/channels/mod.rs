//! Channels: services by which people talk to the agent from their chat clients.
//!
//! `contract` is what is said, `people` who may say it and where it goes, `courier` how answers
//! get out, `check` whether a service keeps to all that. These know no host; `desk`, `talk` and `guests` are where they meet it.

pub mod check;
pub mod commands;
pub mod contract;
pub mod courier;
pub mod desk;
pub mod guests;
pub mod pairing;
pub mod people;
pub mod split;
pub mod talk;
