//! What the three file tools do, on bytes and on the file system, and what is kept of a
//! command's output; and what of either is withheld.
//! Owns their contracts towards the model; enforces nothing (a hand does, by where it
//! calls them from) and knows only the kernel.

pub mod edit;
pub mod file;
pub mod output;
pub mod withheld;
