//! The history on a screen: lists, changes, what was taken back and why.
//! Owns how they look.
