//! What can be cut off while the loop still lives: the host and its doors, prompts,
//! sessions, models, the home. Owns how a home is run; knows no terminal.

pub mod always;
pub mod asked;
pub mod authority;
pub mod backups;
pub mod begin;
pub mod checkouts;
pub mod compact;
pub mod config;
pub mod discreet;
pub mod door;
pub mod hand_door;
pub mod hands;
pub mod hands_lock;
pub mod history;
pub mod home;
pub mod host;
pub mod keys;
pub mod lane;
pub mod line;
pub mod link;
pub mod listener;
pub mod models;
pub mod prompt;
pub mod reach;
pub mod recovery;
pub mod replay;
pub mod report;
pub mod secrets;
pub mod sessions;
pub mod state;
pub mod sweep;
pub mod turn;
pub mod verb;
pub mod watching;
pub mod wirelog;
