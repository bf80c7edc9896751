//! The program's table of contents: parse, run, print one error, exit.
mod kernel;
fn main() {}
