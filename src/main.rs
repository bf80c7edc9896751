//! The program's table of contents: parse, run, print one error, exit.
#![allow(dead_code)]
mod kernel;
mod wires;
fn main() {}
