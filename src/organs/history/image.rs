//! Consistent images of SQLite databases in use.
//! Owns how one is taken and put back.
