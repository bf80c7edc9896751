//! What differs between two SQLite databases.
//! Owns the comparison of schemas and rows.
