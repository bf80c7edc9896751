//! The program's table of contents: parse, run, print one error, exit.
//!
//! Owns the order of the first steps: the keys leave the environment and the process
//! becomes opaque to others before anything else exists. Knows no command.

mod cli;
mod face;
mod files;
mod guard;
mod kernel;
mod organs;
mod walls;
mod wires;

use std::process::ExitCode;

use crate::face::screen::{Place, Screen, write};
use crate::organs::models::NoModel;
use crate::organs::verb::exit;

fn main() -> ExitCode {
    // SAFETY: this is the only thread so far.
    let keys = unsafe { organs::keys::Keys::take_from_environment() };
    walls::thread::hide_from_others();
    let cli = cli::Cli::read();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(cli.run(keys));
            // Whoever left at once must not wait for what still blocks a thread.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Whoever read our output has enough of it.
            let broken = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
            if error.downcast_ref().is_some_and(broken) {
                return ExitCode::SUCCESS;
            }
            // A server's words, or a file's, may stand in it: `wrapped` cleans them.
            let screen = Screen::of(Place::Err);
            let text = face::turn_view::wrapped(&format!("fledgling: {error:#}"), screen);
            let _ = write(Place::Err, &text);
            ExitCode::from(code_of(&error))
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(refusal) = error.downcast_ref::<face::Refusal>() {
        return refusal.exit;
    }
    match error.downcast_ref() {
        Some(NoModel::Nothing | NoModel::Absent(_)) => exit::NO_MODEL,
        Some(NoModel::Unusable(_)) => exit::USAGE,
        None => exit::FAILED,
    }
}
