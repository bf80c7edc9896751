//! The history, elsewhere.
//! Owns the way there and back.
