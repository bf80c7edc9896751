//! Hears what changes in a large workspace.
//! Owns the watcher.
