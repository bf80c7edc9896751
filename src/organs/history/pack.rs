//! Keeps the history small.
//! Owns when and how objects are packed.
