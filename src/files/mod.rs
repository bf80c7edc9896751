//! What the three file tools do, on bytes and on the file system, what is kept of a
//! command's output, what of either is withheld, and which characters of a text nobody sees.
//! Owns their contracts towards the model; enforces nothing (a hand does, by where it
//! calls them from) and knows only the kernel.

pub mod edit;
pub mod file;
pub mod output;
pub mod picture;
pub mod visible;
pub mod withheld;
