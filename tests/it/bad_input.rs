//! Bad input.
//! x
