//! What differs between two trees.
//! Owns the comparison.
