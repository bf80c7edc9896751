//! The history, read.
//! Owns what commits say.
