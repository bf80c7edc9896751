//! What an agent is told when something was refused: whether it was for lack of a grant, what
//! it may touch, and how to ask.
//!
//! Owns how a refusal is recognised in what a call says. It is a guess, and only adds words.

use std::path::{Component, Path, PathBuf};

use crate::guard::policy::{Chain, Link, Policy};
use crate::organs::reach::item::Shown;

/// As programs say it.
const REFUSALS: [&str; 5] =
    ["permission denied", "operation not permitted", "eacces", "eperm", "permissionerror"];
/// What may stand around a path in a message.
const QUOTES: [char; 5] = ['\'', '"', '`', '‘', '’'];
const AROUND: [char; 9] = [' ', '\t', ':', ',', ';', '(', ')', '[', ']'];
/// What a refusal is about that names no path, and what would be needed.
const PLACES: [(&str, &str); 4] = [
    ("pseudo-terminal", "A terminal of its own needs `write /dev/pts`. "),
    ("pty.py", "A terminal of its own needs `write /dev/pts`. "),
    ("multiprocessing", "Python's multiprocessing needs `write /dev/shm`. "),
    ("/dev/shm", "Shared memory needs `write /dev/shm`. "),
];
/// Bytes at the end of an output in which a refusal is looked for.
const LOOKED_AT: usize = 4_000;
/// Paths that are named.
const NAMED: usize = 3;

/// Whether it may be that a call was refused something.
pub fn is_likely(text: &str) -> bool {
    end(text).lines().any(|line| is_refusal(&line))
}

fn end(text: &str) -> &str {
    let start = text.len().saturating_sub(LOOKED_AT);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at));
    start.map_or("", |start| &text[start..])
}

fn is_refusal(line: &&str) -> bool {
    let line = line.to_lowercase();
    REFUSALS.iter().any(|refusal| line.contains(refusal))
}

/// What to add to what a call said, if it was refused what its policy does not allow. Blocks: it
/// looks where paths lead.
pub fn after(text: &str, failed: bool, policy: &Policy) -> Option<String> {
    let Chain::Links(links) = &policy.chain else { return None };
    let text = end(text);
    let refused: Vec<_> = text.lines().filter(is_refusal).collect();
    if refused.is_empty() {
        return None;
    }
    let place = PLACES.iter().find(|(sign, _)| text.contains(sign));
    let place = place.map_or("", |(_, needed)| needed);
    let paths = refused.iter().flat_map(|line| words(past_speaker(line)));
    let paths = paths.filter(|word| word.starts_with('/') || word.starts_with("../"));
    // Bash's names for connections.
    let paths =
        paths.filter(|word| !word.starts_with("/dev/tcp/") && !word.starts_with("/dev/udp/"));
    let (mut unread, mut unchanged) = (Vec::new(), Vec::new());
    for path in paths.map(|word| plain(&policy.workspace.join(word))) {
        // Grants are free of symlinks.
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let covered = |grants: &[PathBuf]| grants.iter().any(|grant| real.starts_with(grant));
        let may_change = |link: &Link| covered(&link.write) || covered(&policy.own);
        let shown = path.display().to_string();
        if !links.iter().all(|link| covered(&link.read) || may_change(link)) {
            unread.push(shown);
        } else if !links.iter().all(may_change) {
            unchanged.push(shown);
        }
    }
    // Who complains is often named besides, and may be read.
    let (mut found, not) = if unread.is_empty() {
        (unchanged, "be read but not changed")
    } else {
        (unread, "not be read")
    };
    found.dedup();
    if found.is_empty() && !failed {
        return None;
    }
    found.truncate(NAMED);
    let found = match &found[..] {
        [] => String::new(),
        found => format!("{} may {not}. ", found.join(", ")),
    };
    let sockets = if policy.chain.unix() { "allowed" } else { "none" };
    let write = links.last().map_or(&[][..], |leaf| &leaf.write);
    let write: Vec<_> = write.iter().map(|path| path.display().to_string()).collect();
    let write = [write, vec!["TMPDIR".to_owned()]].concat().join(", ");
    Some(format!(
        "[Tool calls are confined: {found}{place}They may change {write}; network: {}; Unix sockets: {sockets}. `fledgling policy` shows all. If it is needed, ask: fledgling ask read|write|network|unix … --why REASON]\n",
        Shown(&policy.chain.network()),
    ))
}

/// A line without the path of the program that complains, where it begins with that.
fn past_speaker(line: &str) -> &str {
    let speaker = line.split_once(": ").filter(|(speaker, _)| !speaker.contains(' '));
    match speaker {
        Some((speaker, rest)) if speaker.starts_with('/') && rest.contains('/') => rest,
        _ => line,
    }
}

/// The words of a line; what is quoted is one, spaces and all.
fn words(line: &str) -> Vec<&str> {
    let parts = line.split(QUOTES).enumerate();
    let words = parts.flat_map(|(number, part)| {
        let around: &[char] = if number % 2 == 1 { &[] } else { &AROUND };
        part.split(around)
    });
    words.collect()
}

/// Without `.` and `..`, as far as the words alone tell.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::guard::policy::Network;

    fn policy() -> Policy {
        let link = Link {
            read: vec!["/usr".into()],
            write: vec!["/home/w".into()],
            network: Network::None,
            unix: false,
            secrets: None,
            tools: None,
        };
        Policy {
            workspace: "/home/w".into(),
            scratch: "/home/s".into(),
            env: Vec::new(),
            chain: Chain::Links(vec![link]),
            own: vec!["/home/s".into()],
            held: File::open("/dev/null").unwrap().into(),
            withheld: crate::files::withheld::Withheld::default(),
        }
    }

    #[test]
    fn a_refusal_says_what_was_missing() {
        for (text, said) in [
            ("cat: /etc/x: Permission denied\n", "/etc/x may not be read"),
            ("cat: '../k/x': Permission denied\n", "/home/k/x may not be read"),
            (
                "touch: cannot touch '/usr/x': Permission denied",
                "/usr/x may be read but not changed",
            ),
            ("cat: '/etc/a b/c': Permission denied", "/etc/a b/c may not be read"),
            ("PermissionError: [Errno 13] Permission denied: '/a'", "/a may not be read"),
        ] {
            for failed in [false, true] {
                let note = after(text, failed, &policy()).unwrap();
                assert!(note.contains(&format!("confined: {said}. They")), "{note}");
            }
        }
        let note = after("curl: (7) Permission denied", true, &policy()).unwrap();
        assert!(
            note.contains("confined: They may change /home/w, TMPDIR; network: none"),
            "{note}"
        );
    }

    #[test]
    fn other_failures_are_left_alone() {
        for text in ["no such file", "", "/home/w/x: not found"] {
            assert_eq!(after(text, true, &policy()), None, "{text}");
        }
        assert_eq!(after("/home/w/x: Permission denied", false, &policy()), None);
        assert_eq!(after("Permission denied", false, &policy()), None);
        let off = Policy { chain: Chain::Off, ..policy() };
        assert_eq!(after("/etc/x: Permission denied", true, &off), None);
    }
}
