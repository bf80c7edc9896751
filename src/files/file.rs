//! Read, write and edit on the file system, for the confined thread of a hand.
//!
//! Owns what a path may be and how a file is replaced: whole or not at all, through a
//! temporary sibling. Reading streams, so that a file's size costs no memory. Checks no
//! permission: what the thread may not touch, the kernel refuses.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use crate::files::edit::{self, likeness};
use crate::files::picture;
use crate::kernel::interrupt::Interrupt;
use crate::kernel::tool::{OUTPUT_LIMIT, Outcome, Replacement};

/// Bytes up to which a file's lines are counted to its end: a moment's work.
const COUNTED: u64 = 64 << 20;
/// Bytes up to which a file is edited: it is held in memory twice.
const EDITED: u64 = 16 << 20;
/// Bytes at the start of a file among which a NUL makes it binary, as git has it.
const SNIFFED: usize = 8 << 10;
/// Percent of likeness from which another file's name is offered for a missing one.
const ALIKE: usize = 40;

/// Text from line `offset`, at most `limit` lines; a picture; or a directory's entries.
pub fn read(
    workspace: &Path,
    path: &Path,
    offset: usize,
    limit: usize,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let (full, shown) = (workspace.join(path), path.display());
    let text = if full.is_dir() {
        let list = list(&full).with_context(|| format!("cannot list {shown}"))?;
        let window = Window::read(&mut list.as_bytes(), offset, limit, true)?;
        window.text(&shown, "empty directory")?
    } else {
        let file = open(path, &full)?;
        let size = file.metadata().map_or(0, |meta| meta.len());
        let mut reader = BufReader::with_capacity(1 << 16, Stoppable { inner: file, interrupt });
        let failed = || format!("cannot read {shown}");
        let start = reader.fill_buf().with_context(failed)?;
        if picture::media_type(start).is_some() {
            return look(path, &mut reader, size);
        }
        let binary = start.iter().take(SNIFFED).any(|byte| *byte == 0);
        ensure!(!binary, "{shown} is a binary file of {size} bytes; use bash to look into it");
        let window = Window::read(&mut reader, offset, limit, size <= COUNTED);
        window.with_context(failed)?.text(&shown, "empty file")?
    };
    Ok(Outcome { text, ..Outcome::default() })
}

/// A picture, which is as large as this.
fn look(path: &Path, reader: &mut impl Read, size: u64) -> Result<Outcome> {
    let shown = path.display();
    ensure!(size <= picture::LIMIT as u64, picture::too_large(&shown, size));
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    let read = reader.take(picture::LIMIT as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {shown}"))?;
    let (image, text) = picture::picture(&shown, &path.to_string_lossy(), bytes)?;
    Ok(Outcome { text, images: vec![image], ..Outcome::default() })
}

/// Create or replace a file, with its parent directories.
pub fn write(workspace: &Path, path: &Path, content: &[u8]) -> Result<Outcome> {
    let wrote = replace(workspace, path, content)?;
    let (lines, bytes) = (content.split_inclusive(|byte| *byte == b'\n').count(), content.len());
    let text = format!("wrote {} ({lines} lines, {bytes} bytes)", path.display());
    Ok(Outcome { text, wrote: vec![wrote], ..Outcome::default() })
}

/// Make these replacements in a file, all or none.
pub fn edit(workspace: &Path, path: &Path, edits: &[Replacement]) -> Result<Outcome> {
    let shown = path.display();
    let mut content = Vec::new();
    let file = open(path, &workspace.join(path))?;
    file.take(EDITED + 1)
        .read_to_end(&mut content)
        .with_context(|| format!("cannot read {shown}"))?;
    let fits = content.len() as u64 <= EDITED;
    ensure!(fits, "{shown} is over {EDITED} bytes, too large to edit; use bash");
    let content =
        edit::edit(&content, edits).map_err(|why| anyhow!("cannot edit {shown}: {why}"))?;
    let wrote = replace(workspace, path, &content)?;
    let text = format!("edited {shown}: {} replacements", edits.len());
    Ok(Outcome { text, wrote: vec![wrote], ..Outcome::default() })
}

/// Open a regular file for reading. A FIFO's other end is not waited for.
fn open(path: &Path, full: &Path) -> Result<File> {
    let shown = path.display();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(full)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("there is no {shown}{}", similar(full)),
            // What a socket answers.
            _ if error.raw_os_error() == Some(libc::ENXIO) => irregular(&shown),
            _ => anyhow!(error).context(format!("cannot open {shown}")),
        })?;
    let meta = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    ensure!(!meta.is_dir(), "{shown} is a directory");
    if meta.is_file() { Ok(file) } else { Err(irregular(&shown)) }
}

fn irregular(shown: &impl Display) -> anyhow::Error {
    anyhow!("{shown} is not a regular file (a FIFO, a socket or a device)")
}

/// What somebody may have meant who asked for a file that is not there.
fn similar(full: &Path) -> String {
    let Some(entries) = full.parent().and_then(|parent| fs::read_dir(parent).ok()) else {
        return ", nor its directory".to_owned();
    };
    let name = |name: &OsStr| name.to_string_lossy().to_lowercase();
    let wanted = name(full.file_name().unwrap_or_default());
    let rated = entries.flatten().map(|entry| {
        let entry = entry.file_name();
        (likeness(wanted.as_bytes(), name(&entry).as_bytes()), entry)
    });
    let mut alike: Vec<_> = rated.filter(|(alike, _)| *alike >= ALIKE).collect();
    alike.sort_by(|one, other| other.cmp(one));
    let names: Vec<_> = alike.iter().take(3).map(|(_, name)| name.to_string_lossy()).collect();
    if names.is_empty() { String::new() } else { format!("; similar: {}", names.join(", ")) }
}

/// A directory's entries, one a line: `name SIZE`, `name/`, `name -> target`.
fn list(full: &Path) -> io::Result<String> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(full)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // It may be gone by now.
        let Ok(meta) = entry.metadata() else { continue };
        entries.push(if meta.is_dir() {
            format!("{name}/\n")
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            format!("{name} -> {}\n", target.display())
        } else {
            format!("{name} {}\n", meta.len())
        });
    }
    entries.sort();
    Ok(entries.concat())
}

/// Reads until interrupted: passing over gigabytes takes seconds.
struct Stoppable<'a, R> {
    inner: R,
    interrupt: &'a Interrupt,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.interrupt.raised() {
            return Err(io::Error::other("interrupted"));
        }
        self.inner.read(buffer)
    }
}

/// A part of a text, in whole lines.
#[derive(Debug)]
struct Window {
    bytes: Vec<u8>,
    /// The numbers of its first and its last line; the last is less when it holds none.
    first: usize,
    last: usize,
    /// Whether its only line is too long to be shown whole.
    cut: bool,
    /// Lines of the whole text, where they were counted.
    total: Option<usize>,
}

impl Window {
    /// Read up to `limit` lines from line `first`, as many as may be shown. Goes on to the
    /// end of the text only to count its lines.
    fn read(
        reader: &mut impl BufRead,
        first: usize,
        limit: usize,
        count: bool,
    ) -> io::Result<Self> {
        let mut window =
            Self { bytes: Vec::new(), first, last: first - 1, cut: false, total: None };
        let bytes = &mut window.bytes;
        // Lines that were passed, whole.
        let mut lines = 0;
        while lines < first - 1 && reader.skip_until(b'\n')? > 0 {
            lines += 1;
        }
        while lines < first.saturating_add(limit) - 1 {
            let start = bytes.len();
            let room = (OUTPUT_LIMIT + 1 - start) as u64;
            if reader.take(room).read_until(b'\n', bytes)? == 0 {
                window.total = Some(lines);
                return Ok(window);
            }
            lines += 1;
            let full = bytes.len() > OUTPUT_LIMIT;
            if full && count && !bytes.ends_with(b"\n") {
                reader.skip_until(b'\n')?;
            }
            window.cut = full && start == 0;
            if full && !window.cut {
                bytes.truncate(start);
                break;
            }
            window.last = lines;
            if full {
                bytes.truncate(OUTPUT_LIMIT);
                break;
            }
        }
        while count && reader.skip_until(b'\n')? > 0 {
            lines += 1;
        }
        window.total = count.then_some(lines);
        Ok(window)
    }

    /// As the model is shown it, with a last line about what it is not shown. `empty` is
    /// what a text without lines is.
    fn text(mut self, path: &impl Display, empty: &str) -> Result<String> {
        let Self { first, last, cut, total, .. } = self;
        if last < first {
            let total = total.unwrap_or_default();
            ensure!(first == 1, "{path} has {total} lines, none from offset {first} on");
            return Ok(format!("[{empty}]"));
        }
        if let (true, Err(error)) = (cut, str::from_utf8(&self.bytes))
            && error.error_len().is_none()
        {
            self.bytes.truncate(error.valid_up_to());
        }
        let mut notes = Vec::new();
        if cut {
            notes.push(format!("line {last} goes on after these {OUTPUT_LIMIT} bytes; use bash"));
        }
        if first > 1 || total != Some(last) {
            let of = total.map_or(String::new(), |total| format!(" of {total}"));
            let more = match total {
                Some(total) if total == last => String::new(),
                _ => format!("; go on with offset {}", last + 1),
            };
            notes.push(format!("lines {first}–{last}{of}{more}"));
        }
        let mut text = match String::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => {
                notes.push("not UTF-8: invalid bytes are shown as U+FFFD".to_owned());
                String::from_utf8_lossy(error.as_bytes()).into_owned()
            }
        };
        for note in notes {
            let newline = if text.ends_with('\n') { "" } else { "\n" };
            text.push_str(&format!("{newline}[{note}]\n"));
        }
        Ok(text)
    }
}

/// Put a new file in the place of what the path leads to, if anything, and say which file
/// that is. Symlinks and the file's mode stay; other names of the file keep the old content.
fn replace(workspace: &Path, path: &Path, content: &[u8]) -> Result<PathBuf> {
    let shown = path.display();
    let target =
        target(&workspace.join(path)).with_context(|| format!("cannot resolve {shown}"))?;
    let old = fs::metadata(&target).ok();
    if let Some(old) = &old {
        ensure!(!old.is_dir(), "cannot write {shown}: it is a directory");
        ensure!(old.is_file(), "cannot write: {}", irregular(&shown));
    }
    let name = target.file_name().unwrap_or_default().as_bytes();
    // A name has at most 255 bytes.
    let name = String::from_utf8_lossy(&name[..name.len().min(100)]);
    let temporary = target.with_file_name(format!(".{name}.fledgling-{:08x}", fastrand::u32(..)));
    let written = (|| -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        if let Some(old) = &old {
            // Root writes for others; nobody else can, and need not.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(content)?;
        fs::rename(&temporary, &target)
    })();
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {shown}, nothing was changed"))?;
    Ok(target)
}

/// The file behind a path, which need not exist yet; its directory does afterwards.
fn target(full: &Path) -> io::Result<PathBuf> {
    let mut target = full.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        let parent = target.parent().unwrap_or(Path::new("/")).to_owned();
        if let Ok(link) = fs::read_link(&target) {
            target = parent.join(link);
        } else {
            fs::create_dir_all(&parent)?;
            let name = target.file_name().ok_or(ErrorKind::IsADirectory)?;
            return Ok(parent.canonicalize()?.join(name));
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::kernel::interrupt::interrupt;
    use crate::kernel::tool::READ_LINES;

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn read_from(folder: &TempDir, name: &str, offset: usize, limit: usize) -> String {
        let path = Path::new(name);
        let read = read(folder.path(), path, offset, limit, &interrupt().1);
        read.map_or_else(|error| format!("error: {error:#}"), |outcome| outcome.text)
    }

    fn write_to(folder: &TempDir, name: &str, content: &str) -> Result<PathBuf, String> {
        let written = write(folder.path(), Path::new(name), content.as_bytes());
        written.map(|mut outcome| outcome.wrote.remove(0)).map_err(|error| format!("{error:#}"))
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn read_gives_lines_and_says_where_to_go_on() {
        let folder = folder(&[("f", "1\n2\n3\n4\n5"), ("none", ""), ("bad", "")]);
        for (offset, limit, expected) in [
            (1, READ_LINES, "1\n2\n3\n4\n5"),
            (1, 5, "1\n2\n3\n4\n5"),
            (1, 4, "1\n2\n3\n4\n[lines 1–4 of 5; go on with offset 5]\n"),
            (2, 2, "2\n3\n[lines 2–3 of 5; go on with offset 4]\n"),
            (5, 9, "5\n[lines 5–5 of 5]\n"),
            (6, 9, "error: f has 5 lines, none from offset 6 on"),
            (
                usize::MAX,
                usize::MAX,
                &format!("error: f has 5 lines, none from offset {} on", usize::MAX),
            ),
        ] {
            assert_eq!(read_from(&folder, "f", offset, limit), expected);
        }
        assert_eq!(read_from(&folder, "none", 1, 1), "[empty file]");
        fs::write(folder.path().join("bad"), b"a\xff\n").unwrap();
        let expected = "a\u{FFFD}\n[not UTF-8: invalid bytes are shown as U+FFFD]\n";
        assert_eq!(read_from(&folder, "bad", 1, 1), expected);
    }

    #[test]
    fn read_cuts_at_whole_lines() {
        let many = "123456789\n".repeat(4_000);
        let long = format!("a{}\nb\n", "ä".repeat(OUTPUT_LIMIT));
        let folder = folder(&[("many", &many), ("long", &long)]);
        let text = read_from(&folder, "many", 1, 10_000);
        let fits = OUTPUT_LIMIT / 10;
        let note = format!("[lines 1–{fits} of 4000; go on with offset {}]\n", fits + 1);
        assert_eq!(text, many[..OUTPUT_LIMIT].to_owned() + &note);
        let text = read_from(&folder, "long", 1, 10);
        let rest = text.trim_start_matches(['a', 'ä']);
        let notes = "\n[line 1 goes on after these 30000 bytes; use bash]\n\
            [lines 1–1 of 2; go on with offset 2]\n";
        assert_eq!(rest, notes);
        assert_eq!(read_from(&folder, "long", 2, 10), "b\n[lines 2–2 of 2]\n");
    }

    #[test]
    fn a_huge_file_costs_nothing() {
        let folder = folder(&[("huge", &"x\n".repeat(SNIFFED)), ("line", &"x".repeat(SNIFFED))]);
        for name in ["huge", "line"] {
            let file = File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_len(3 << 30).unwrap();
        }
        let expected = "x\nx\n[lines 1–2; go on with offset 3]\n";
        assert_eq!(read_from(&folder, "huge", 1, 2), expected);
        let text = read_from(&folder, "line", 1, 2);
        assert!(text.contains("[line 1 goes on after these 30000 bytes; use bash]"));
        let (interrupter, stopped) = interrupt();
        interrupter.raise();
        let error = read(folder.path(), Path::new("line"), 2, 1, &stopped).unwrap_err();
        assert_eq!(format!("{error:#}"), "cannot read line: interrupted");
        let edits = [Replacement { old: "x".to_owned(), new: "y".to_owned() }];
        let error = edit(folder.path(), Path::new("line"), &edits).unwrap_err();
        assert!(error.to_string().contains("too large to edit"));
    }

    #[test]
    fn read_lists_directories() {
        let folder = folder(&[("b.txt", "12345"), ("a", "")]);
        assert_eq!(read_from(&folder, ".", 1, 10), "a 0\nb.txt 5\n");
        fs::create_dir(folder.path().join("sub")).unwrap();
        symlink("b.txt", folder.path().join("link")).unwrap();
        assert_eq!(
            read_from(&folder, "", 2, 2),
            "b.txt 5\nlink -> b.txt\n[lines 2–3 of 4; go on with offset 4]\n"
        );
        assert_eq!(read_from(&folder, "sub", 1, 10), "[empty directory]");
    }

    #[test]
    fn what_is_no_text_file_is_named() {
        let folder = folder(&[("notes.txt", "a"), ("Nodes.txt", "b"), ("image", "\0\0")]);
        let fifo = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        symlink("/dev/null", folder.path().join("device")).unwrap();
        for (name, expected) in [
            ("image", "image is a binary file of 2 bytes; use bash to look into it"),
            ("note.txt", "there is no note.txt; similar: notes.txt, Nodes.txt"),
            ("zzz", "there is no zzz"),
            ("x/y", "there is no x/y, nor its directory"),
            ("fifo", "fifo is not a regular file (a FIFO, a socket or a device)"),
            ("socket", "socket is not a regular file (a FIFO, a socket or a device)"),
            ("device", "device is not a regular file (a FIFO, a socket or a device)"),
        ] {
            assert_eq!(read_from(&folder, name, 1, 1), format!("error: {expected}"));
        }
        let error = write_to(&folder, "fifo", "x").unwrap_err();
        assert!(error.starts_with("cannot write: fifo is not a regular file"), "{error}");
        assert_eq!(write_to(&folder, ".", "x").unwrap_err(), "cannot write .: it is a directory");
        let error = edit(folder.path(), Path::new("."), &[]).unwrap_err();
        assert_eq!(error.to_string(), ". is a directory");
    }

    #[test]
    fn write_keeps_mode_and_links_and_leaves_nothing_behind() {
        let folder = folder(&[("script", "old")]);
        let script = folder.path().join("script");
        fs::set_permissions(&script, Permissions::from_mode(0o750)).unwrap();
        symlink("script", folder.path().join("link")).unwrap();
        symlink("new/file", folder.path().join("dangling")).unwrap();
        let real = folder.path().canonicalize().unwrap();
        assert_eq!(write_to(&folder, "link", "new"), Ok(real.join("script")));
        assert_eq!(fs::read_to_string(&script).unwrap(), "new");
        assert_eq!(fs::metadata(&script).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(write_to(&folder, "dangling", "x"), Ok(real.join("new/file")));
        assert_eq!(fs::metadata(real.join("new/file")).unwrap().mode() & 0o7133, 0);
        assert_eq!(write_to(&folder, "new/../a/b/c", "x"), Ok(real.join("a/b/c")));
        let error = write_to(&folder, &"n".repeat(300), "x").unwrap_err();
        assert!(error.contains("nothing was changed"), "{error}");
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(write_to(&folder, "loop", "x").unwrap_err().starts_with("cannot resolve loop"));
        assert_eq!(names(&folder), ["a", "dangling", "link", "loop", "new", "script"]);
    }

    #[test]
    fn edit_replaces_or_leaves_alone() {
        let folder = folder(&[("f", "a\nb\n")]);
        let edits = |old: &str| [Replacement { old: old.to_owned(), new: "x".to_owned() }];
        let outcome = edit(folder.path(), Path::new("f"), &edits("a")).unwrap();
        assert_eq!(outcome.text, "edited f: 1 replacements");
        assert_eq!(outcome.wrote, [folder.path().canonicalize().unwrap().join("f")]);
        let error = edit(folder.path(), Path::new("f"), &edits("nowhere")).unwrap_err();
        assert!(error.to_string().starts_with("cannot edit f: edit 1: old does not occur"));
        assert_eq!(fs::read_to_string(folder.path().join("f")).unwrap(), "x\nb\n");
    }
}
