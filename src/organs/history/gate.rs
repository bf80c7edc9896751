//! Keeps secrets out of the history.
//! Owns what counts as one.
