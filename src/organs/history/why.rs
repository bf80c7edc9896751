//! Why a line is as it is.
//! Owns the way from a line to the words that asked for it.
