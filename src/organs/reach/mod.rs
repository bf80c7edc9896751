//! What hands reach: found out from the system and from the owner's settings, shown to
//! people and agents, widened and narrowed by name. Owns everything between `config.toml`
//! and a chain of links; that a chain holds is the guard's business.

pub mod asking;
pub mod asks;
pub mod given;
pub mod grant;
pub mod hint;
pub mod item;
pub mod kernel;
pub mod narrow;
pub mod root;
pub mod settings;
pub mod system;
pub mod toolchains;
