//! Sessions that may do less than those that start them: one more link in their chain.
//!
//! Owns how such a link is typed and what it must not hold: the files by which the agent lives
//! are changed by sessions with the root's chain alone. Whether a link says more than the ones
//! above it does not matter: the kernel intersects.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::guard::confine::DEPTH;
use crate::guard::policy::{Link, Network};
use crate::kernel::tool::SPECS;
use crate::organs::reach::item;

/// What is believed or run by others, in the workspace.
const CONTROL: [&str; 6] = ["bootstrap.md", "crontab", "services", "bin", "skills", "agents"];
/// As it is typed.
const USAGE: &str =
    "read PATH…, write PATH…, network full|none|PORT…, unix none, secret NAME…, tools NAME…";

/// A link that allows what was typed, one phrase a right. What no phrase is about stays as it
/// is above, but nothing is changed that is not named.
pub fn parse(phrases: &[String], current: &Path, home: Option<&Path>) -> Result<Option<Link>> {
    if phrases.is_empty() {
        return Ok(None);
    }
    let mut link = Link {
        read: vec!["/".into()],
        write: Vec::new(),
        network: Network::Full,
        unix: true,
        secrets: None,
        tools: None,
    };
    for phrase in phrases {
        let words = shell_words::split(phrase).with_context(|| {
            format!("cannot tell the words of {phrase:?} apart; does a quote stay open?")
        })?;
        let (right, rest) = words.split_first().with_context(|| format!("usage: {USAGE}"))?;
        let paths = || -> Result<Vec<PathBuf>> {
            ensure!(!rest.is_empty(), "{right} needs to be told which; usage: {USAGE}");
            let path = |word| item::path(word, current, home);
            Ok(rest.iter().map(path).collect())
        };
        match right.as_str() {
            "read" => link.read = paths()?,
            "write" => link.write = paths()?,
            "network" => link.network = item::network(rest)?,
            "unix" => {
                ensure!(rest == ["none"], "here unix can only be taken away: unix none");
                link.unix = false;
            }
            "secret" => link.secrets = Some(rest.iter().cloned().collect()),
            "tools" => {
                let known = |name: &String| SPECS.iter().any(|spec| spec.name == name);
                let odd = rest.iter().find(|name| !known(name));
                ensure!(
                    odd.is_none(),
                    "there is no tool {:?}; there are read, write, edit and bash",
                    odd.map_or("", String::as_str)
                );
                link.tools = Some(rest.iter().cloned().collect());
            }
            _ => bail!("{right:?} cannot be narrowed; usage: {USAGE}"),
        }
    }
    Ok(Some(link))
}

/// The chain of a session that begins below these links, in this folder. What is `always` read
/// is so by this one, too.
pub fn extended(
    mut chain: Vec<Link>,
    link: Option<Link>,
    always: impl Iterator<Item = PathBuf>,
    workspace: &Path,
    folder: &Path,
) -> Result<Vec<Link>> {
    let Some(mut link) = link else { return Ok(chain) };
    // The root is the first.
    ensure!(
        chain.len() + 2 <= DEPTH,
        "this would be agent {} in a row that each narrowed the next; {DEPTH} are the most",
        chain.len() + 2
    );
    let real = |path: &PathBuf| {
        path.canonicalize().with_context(|| {
            format!("{} is not there; make it first, or name another", path.display())
        })
    };
    for paths in [&mut link.read, &mut link.write] {
        *paths = paths.iter().map(real).collect::<Result<_>>()?;
    }
    if link.read != [Path::new("/")] {
        link.read.extend(always);
    }
    let workspace = workspace.canonicalize().unwrap_or_else(|_| workspace.to_owned());
    link.write.iter().try_for_each(|path| keeps_control(path, &workspace))?;
    // The checkout of a branch is its own.
    if folder.canonicalize().is_ok_and(|folder| folder != workspace) {
        link.write.push(real(&folder.to_owned())?);
    }
    chain.push(link);
    Ok(chain)
}

/// See that a path which a narrowed session is to change holds nothing that is the root's.
pub fn keeps_control(path: &Path, workspace: &Path) -> Result<()> {
    let workspace = workspace.canonicalize().unwrap_or_else(|_| workspace.to_owned());
    let controls = CONTROL.map(|name| workspace.join(name));
    let wide = |control: &&PathBuf| control.starts_with(path) || path.starts_with(control);
    let Some(control) = controls.iter().find(wide) else { return Ok(()) };
    bail!(
        "{} cannot be given to a narrowed session: {} is changed by the owner's own conversations only; let it work on a branch, with --branch NAME, or name other folders",
        path.display(),
        control.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(phrases: &[&str]) -> Result<Option<Link>> {
        let phrases: Vec<_> = phrases.iter().map(|phrase| (*phrase).to_owned()).collect();
        parse(&phrases, Path::new("/here"), None)
    }

    #[test]
    fn what_no_phrase_is_about_stays_but_nothing_is_changed() {
        assert_eq!(parsed(&[]).unwrap(), None);
        let link = parsed(&["network none", "tools read bash"]).unwrap().unwrap();
        assert_eq!((link.read, link.write), (vec!["/".into()], Vec::new()));
        assert_eq!((link.network, link.unix, link.secrets), (Network::None, true, None));
        assert_eq!(link.tools, Some(["bash".to_owned(), "read".to_owned()].into()));
        let link = parsed(&["write 'a b' c", "read /x", "unix none", "secret"]).unwrap().unwrap();
        assert_eq!(link.write, [PathBuf::from("/here/a b"), "/here/c".into()]);
        assert_eq!((link.read, link.unix), (vec!["/x".into()], false));
        assert_eq!(link.secrets, Some([].into()));
        for wrong in ["", "fly", "read", "unix", "tools hammer", "network", "write '"] {
            assert!(parsed(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn control_files_are_the_roots() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for folder in ["workspace/bin/x", "workspace/notes", "branches/a"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let (workspace, branch) = (root.join("workspace"), root.join("branches/a"));
        let extend = |path: &str, folder: &Path| {
            let phrase = format!("write {}", root.join(path).display());
            let link = parse(&[phrase], &root, None).unwrap();
            extended(Vec::new(), link, [].into_iter(), &workspace, folder)
        };
        for path in ["workspace", "workspace/bin", "workspace/bin/x", ""] {
            let error = extend(path, &workspace).unwrap_err().to_string();
            assert!(error.contains("owner's own conversations only"), "{path}: {error}");
        }
        let notes = extend("workspace/notes", &workspace).unwrap();
        assert_eq!(notes[0].write, [workspace.join("notes")]);
        let both = extend("workspace/notes", &branch).unwrap();
        assert_eq!(both[0].write, [workspace.join("notes"), branch.clone()]);
        assert!(extend("absent", &workspace).is_err());
        let full = vec![notes[0].clone(); DEPTH - 1];
        let link = parse(&["network none".to_owned()], &root, None).unwrap();
        assert_eq!(
            extended(full.clone(), None, [].into_iter(), &workspace, &workspace).unwrap(),
            full
        );
        let error =
            extended(full, link, [].into_iter(), &workspace, &workspace).unwrap_err().to_string();
        assert!(error.contains("14 are the most"), "{error}");
    }
}
