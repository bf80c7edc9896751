//! The upkeep of the workspace's history: whose change it is, what is found and what is
//! left out, how it is kept and looked at, and how it is taken back. That hands cannot write
//! it is their policy's business; knows no terminal and no model.

pub mod archive;
pub mod ask;
pub mod backup;
pub mod beneath;
pub mod bisect;
pub mod branch;
pub mod change;
pub mod checkout;
pub mod chronicle;
pub mod compare;
pub mod content;
pub mod difference;
pub mod exchange;
pub mod gate;
pub mod gitdir;
pub mod ignored;
pub mod image;
pub mod keeper;
pub mod known;
pub mod left_out;
pub mod lookout;
pub mod pack;
pub mod put;
pub mod rows;
pub mod scan;
pub mod shell;
pub mod snapshots;
pub mod stamp;
pub mod takeback;
pub mod undo;
pub mod walk;
pub mod watch;
pub mod why;
pub mod writers;
