//! What differs between two SQLite databases.
//! Owns the comparison of schemas and rows.

use anyhow::{Result, bail};

use crate::organs::history::ask::TableDiff;

/// Compare two databases; at most so many rows of a table are listed.
pub fn compare(_old: Option<&[u8]>, _new: Option<&[u8]>, _rows: usize) -> Result<Vec<TableDiff>> {
    bail!("databases cannot be compared yet")
}
