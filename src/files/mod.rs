//! What the three file tools do: read, write and edit, on bytes and on the file system.
//! Owns their contracts towards the model; enforces nothing (a hand does, by where it
//! calls them from) and knows only the kernel.

pub mod edit;
pub mod file;
