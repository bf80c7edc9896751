//! Which change broke something.
//! Owns the search.
