//! Bringing the workspace from one tree to another.
//! Owns how files are put back.
