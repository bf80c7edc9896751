//! What systemd and launchd are asked to do with a service, and what they answer.
//!
//! Owns their commands. Does not know what the service is, or who wrote its file.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Output;

use crate::guard::supervisor;

/// What starts programs with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// That of most Linux systems; here, the one of a user.
    Systemd,
    /// That of macOS.
    Launchd,
}

/// A command's words.
pub type Words = Vec<String>;

impl Manager {
    /// That of this machine.
    pub fn here() -> Self {
        if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd }
    }

    /// What it is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Launchd => "launchd",
        }
    }

    /// What has a service run, now and with every session. One that runs as another file had
    /// it is ended first, where the file has `changed`.
    pub fn starting(self, name: &str, file: &Path, changed: bool) -> Vec<Words> {
        match self {
            Self::Systemd => {
                let mut steps = vec![words(&["systemctl", "--user", "daemon-reload"])];
                steps.extend(changed.then(|| systemctl(&["try-restart", name])));
                steps.push(systemctl(&["enable", "--now", name]));
                steps
            }
            Self::Launchd => {
                vec![words(&["launchctl", "bootstrap", &domain(), &file.to_string_lossy()])]
            }
        }
    }

    /// What ends a service, now and for good.
    pub fn stopping(self, name: &str) -> Words {
        match self {
            Self::Systemd => systemctl(&["disable", "--now", name]),
            Self::Launchd => words(&["launchctl", "bootout", &target(name)]),
        }
    }

    /// Have it forget a service whose file is gone, if it can: only so that it is not listed.
    pub fn forget(self) {
        if self == Self::Systemd {
            let _ = run(&systemctl(&["daemon-reload"]));
        }
    }

    /// What is to be known about a service, each with its question. The last of it is whether
    /// it runs.
    pub fn questions(self, name: &str) -> Vec<(&'static str, Words)> {
        match self {
            Self::Systemd => vec![
                ("enabled", systemctl(&["is-enabled", name])),
                ("running", systemctl(&["is-active", name])),
            ],
            Self::Launchd => vec![("running", words(&["launchctl", "print", &target(name)]))],
        }
    }

    /// The answer to a question, and whether it is a yes.
    pub fn answer(self, question: &Words) -> (bool, String) {
        let ended = match run(question) {
            Ok(ended) => ended,
            Err(why) => return (false, format!("unknown: {why}")),
        };
        let said = text(&ended.stdout);
        if ended.status.success() && self.affirms(&said) {
            (true, "yes".to_owned())
        } else if said.is_empty() {
            (false, format!("unknown: {}", complaint(question, &ended)))
        } else {
            (false, format!("no: {}", said.lines().next().unwrap_or_default()))
        }
    }

    /// Whether these words, said with success, mean yes.
    fn affirms(self, said: &str) -> bool {
        self == Self::Systemd || said.lines().any(|line| line.trim() == "state = running")
    }
}

/// Run a command that has to be a success, or say why it was none.
pub fn done(words: &Words) -> Result<(), String> {
    let ended = run(words)?;
    ended.status.success().then_some(()).ok_or_else(|| complaint(words, &ended))
}

fn run(words: &Words) -> Result<Output, String> {
    let (program, arguments) = words.split_first().ok_or("there is nothing to run")?;
    supervisor::run_for_answer(program, arguments).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no {program} on PATH"),
        _ => format!("cannot run {program}: {error}"),
    })
}

fn complaint(words: &Words, ended: &Output) -> String {
    format!("`{}` says: {}", shell_words::join(words), text(&ended.stderr))
}

fn text(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim().to_owned()
}

fn systemctl(rest: &[&str]) -> Words {
    words(&[&["systemctl", "--user"], rest].concat())
}

/// The session of this user, to launchd.
fn domain() -> String {
    // SAFETY: it takes nothing and cannot fail.
    format!("gui/{}", unsafe { libc::getuid() })
}

fn target(name: &str) -> String {
    format!("{}/{name}", domain())
}

fn words(words: &[&str]) -> Words {
    words.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starting(manager: Manager, changed: bool) -> String {
        let steps = manager.starting("name", Path::new("/a b"), changed);
        steps.iter().map(shell_words::join).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_systemd_is_asked() {
        let (reload, enable) =
            ("systemctl --user daemon-reload", "systemctl --user enable --now name");
        assert_eq!(starting(Manager::Systemd, false), format!("{reload}; {enable}"));
        let restart = "systemctl --user try-restart name";
        assert_eq!(starting(Manager::Systemd, true), format!("{reload}; {restart}; {enable}"));
    }

    #[test]
    fn what_launchd_is_asked() {
        let domain = domain();
        let bootstrap = format!("launchctl bootstrap {domain} '/a b'");
        assert_eq!(starting(Manager::Launchd, true), bootstrap);
        let target = format!("{domain}/name");
        let manager = Manager::Launchd;
        assert_eq!(manager.stopping("name"), words(&["launchctl", "bootout", &target]));
        let print = words(&["launchctl", "print", &target]);
        assert_eq!(manager.questions("name"), [("running", print)]);
        assert!(manager.affirms("x = {\n\tstate = running\n}"));
        assert!(!manager.affirms("x = {\n\tstate = not running\n}"));
    }
}
