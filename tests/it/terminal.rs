//! A real terminal for tests: a program runs in a PTY, and what it prints stands on a
//! screen that can be looked at.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use portable_pty::{Child, CommandBuilder, ExitStatus, MasterPty, PtySize, native_pty_system};
use vt100::{Parser, Screen};

use crate::BOUND;

/// A program in a terminal. Dropping it kills the program.
pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    shared: Arc<Shared>,
}

struct Shared {
    view: Mutex<View>,
    changed: Condvar,
}

struct View {
    parser: Parser,
    /// All that was printed, control sequences included.
    raw: Vec<u8>,
    closed: bool,
}

impl Terminal {
    /// Start a command, with its own environment alone, on a screen of this size.
    pub fn start(command: &Command, cols: u16, rows: u16) -> Self {
        let pty = native_pty_system().openpty(size(cols, rows)).expect("a pty");
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        builder.env_clear();
        for (name, value) in command.get_envs() {
            builder.env(name, value.unwrap_or_default());
        }
        if let Some(folder) = command.get_current_dir() {
            builder.cwd(folder);
        }
        let child = pty.slave.spawn_command(builder).expect("a program that can be started");
        let reader = pty.master.try_clone_reader().expect("a reader of the pty");
        let keys = pty.master.take_writer().expect("a writer of the pty");
        let parser = Parser::new(rows, cols, 1000);
        let view = Mutex::new(View { parser, raw: Vec::new(), closed: false });
        let shared = Arc::new(Shared { view, changed: Condvar::new() });
        let shown = Arc::clone(&shared);
        std::thread::spawn(move || show(reader, &shown));
        Self { master: pty.master, keys, child, shared }
    }

    /// Press keys: text, or control characters as a terminal sends them.
    pub fn send(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("a terminal");
    }

    /// Wait until the screen looks so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut looks: impl FnMut(&Screen) -> bool) {
        let (screen, found) = self.wait(|view| looks(view.parser.screen()));
        assert!(found, "the screen never showed {what}:\n{screen}");
    }

    /// Wait until this stands on the screen.
    #[track_caller]
    pub fn wait_text(&self, text: &str) {
        self.wait_for(&format!("{text:?}"), |screen| screen.contents().contains(text));
    }

    /// Wait until the program ended and all it printed is on the screen.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let (screen, ended) = self.wait(|view| view.closed);
        assert!(ended, "the program does not end:\n{screen}");
        self.child.wait().expect("it was started")
    }

    fn wait(&self, mut until: impl FnMut(&View) -> bool) -> (String, bool) {
        let view = self.shared.view.lock().expect("nothing panics with it");
        let waited = self
            .shared
            .changed
            .wait_timeout_while(view, BOUND, |view| !view.closed && !until(view));
        let (view, _) = waited.expect("nothing panics with it");
        (view.parser.screen().contents(), until(&view))
    }

    /// The text on the screen.
    pub fn text(&self) -> String {
        self.look(Screen::contents)
    }

    /// The text on the screen, with the sequences that colour it.
    pub fn formatted(&self) -> String {
        self.look(|screen| String::from_utf8_lossy(&screen.contents_formatted()).into_owned())
    }

    /// The row and the column of the cursor, from 0.
    pub fn cursor(&self) -> (u16, u16) {
        self.look(Screen::cursor_position)
    }

    /// All that was printed, as it came.
    pub fn raw(&self) -> String {
        let view = self.shared.view.lock().expect("nothing panics with it");
        String::from_utf8_lossy(&view.raw).into_owned()
    }

    /// The process in the terminal.
    pub fn pid(&self) -> i32 {
        self.child.process_id().expect("it is not reaped yet").cast_signed()
    }

    /// Make the screen another size, and tell the program.
    pub fn resize(&self, cols: u16, rows: u16) {
        let mut view = self.shared.view.lock().expect("nothing panics with it");
        view.parser.screen_mut().set_size(rows, cols);
        self.master.resize(size(cols, rows)).expect("a pty");
    }

    fn look<T>(&self, take: impl FnOnce(&Screen) -> T) -> T {
        take(self.shared.view.lock().expect("nothing panics with it").parser.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(cols: u16, rows: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

fn show(mut reader: impl Read, shared: &Shared) {
    let mut piece = [0; 4096];
    loop {
        let read = reader.read(&mut piece);
        let mut view = shared.view.lock().expect("nothing panics with it");
        match read {
            Ok(length @ 1..) => {
                view.parser.process(&piece[..length]);
                view.raw.extend(&piece[..length]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // Linux fails with EIO when the last process has left the terminal.
            _ => {
                view.closed = true;
                shared.changed.notify_all();
                return;
            }
        }
        shared.changed.notify_all();
    }
}

mod tests {
    use super::*;

    #[test]
    fn bash_in_a_terminal() {
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "-i"]).env("TERM", "xterm-256color");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("PS1", "ready> ");
        let mut terminal = Terminal::start(&command, 40, 10);
        terminal.wait_text("ready>");
        terminal.wait_for("a cursor after the prompt", |screen| screen.cursor_position() == (0, 7));
        terminal.send("stty size; printf '\\033[1mbold\\033[0m\\n'\r");
        terminal.wait_text("10 40");
        terminal.wait_text("\nbold");
        assert!(terminal.formatted().contains("\x1b[1mbold"), "{:?}", terminal.formatted());
        terminal.resize(60, 12);
        terminal.send("stty size\r");
        terminal.wait_text("12 60");
        terminal.send("echo go; cat\r");
        terminal.wait_text("\ngo");
        terminal.send("hello\r");
        terminal.wait_text("hello\nhello");
        // A terminal forgets what was typed ahead of a Ctrl-C.
        terminal.send("\x03");
        terminal.wait_text("^C\nready>");
        terminal.send("exit 7\r");
        assert_eq!(terminal.wait_end().exit_code(), 7);
        assert!(terminal.raw().contains("\x1b[1m") && terminal.text().contains("exit 7"));
        assert_eq!(terminal.cursor().1, 0);
    }

    #[test]
    fn dropping_it_kills_the_program() {
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", "trap '' HUP; echo up; while :; do read -r -t 60; done"]);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let terminal = Terminal::start(&command, 20, 5);
        terminal.wait_text("up");
        let pid = terminal.pid();
        drop(terminal);
        // SAFETY: signal 0 only asks whether the process is there.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1);
    }
}
