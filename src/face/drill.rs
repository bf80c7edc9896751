//! `fledgling doctor --drill`: the history is backed up, a home is brought back from the
//! backup and lives through a turn, so that recovery is proven and not hoped for.
//!
//! Owns the exercise. It happens in a temporary folder that is gone afterwards, however it
//! ends; of the real home only the history is read, so that it may be in use meanwhile.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use git2::{ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};

use crate::face::doctor::Found;
use crate::face::run::interrupted;
use crate::face::tour::{Folder, scripted};
use crate::kernel::event::{Changes, End, Event};
use crate::kernel::interrupt::{Interrupt, interrupt};
use crate::organs::config::Config;
use crate::organs::history::archive::MAIN;
use crate::organs::history::scan::Scan;
use crate::organs::history::scan::Terms;
use crate::organs::history::{backup, gitdir};
use crate::organs::home::{Home, HostLock};
use crate::organs::host::{Host, Settings};
use crate::organs::reach::root::Reach;
use crate::organs::reach::settings::Confine;
use crate::organs::verb::{self, Answer, Caller, Verb, exit};

/// The model's side of the turn.
const RECORDING: &str = include_str!("drill.jsonl");
/// What the recording calls the file that is written, and what is in it.
const FILE: &str = "drill.txt";
const CONTENT: &[u8] = b"brought back\n";
const ASKED: &str = "Are you all there? Write a file and read it.";

/// The step at which it went wrong, and why.
type Failed = (&'static str, anyhow::Error);

/// Run the exercise and say each step. The exit code is 0 when all of it went well.
pub async fn drill(settings: Settings) -> Result<u8> {
    let folder = Folder::new("drill")?;
    let (interrupter, stop) = interrupt();
    let (home, config) = (settings.home, settings.config);
    let mut exercise = Box::pin(exercise(home, config, &folder.0, stop));
    let done = tokio::select! {
        done = &mut exercise => done,
        () = interrupted() => {
            interrupter.raise();
            // Nothing may write any more when the folder is removed.
            let _ = exercise.await;
            return Ok(exit::INTERRUPTED);
        }
    };
    let Err((at, error)) = done else { return Ok(0) };
    Found::Bad(format!("{error:#}")).say(at)?;
    Ok(exit::FAILED)
}

async fn exercise(
    home: Home,
    config: Config,
    folder: &Path,
    stop: Interrupt,
) -> Result<(), Failed> {
    let at = |step| move |error| (step, error);
    let done = |step, text: String| Found::Good(text).say(step).map_err(at(step));
    let reach = Reach::of(&home, &config).map_err(at("backup"))?;
    let store = folder.join("backup.git");
    let copy = Home::resolve(Some(folder.join("home"))).map_err(at("backup"))?;

    let (from, to, stopped, by) = (home, store.clone(), stop.clone(), reach.clone());
    let backed = blocking(move || back_up(&from, &to, &by, &stopped)).await;
    let (before, text) = backed.map_err(at("backup"))?;
    done("backup", text)?;

    let (into, stopped) = (copy.clone(), stop.clone());
    let restored = blocking(move || bring_back(&store, &into, before, &reach, &stopped)).await;
    let (lock, head, text) = restored.map_err(at("restore"))?;
    done("restore", text)?;

    let text = live((copy, config.confine), lock, folder, head, &stop).await.map_err(at("turn"))?;
    done("turn", text)
}

/// The latest commit, which must be in the backup.
fn back_up(home: &Home, to: &Path, reach: &Reach, stop: &Interrupt) -> Result<(Oid, String)> {
    let history = home.file("history.git");
    ensure!(history.exists(), "there is no history yet in {}", home.path().display());
    let before = head(&gitdir::look(&history)?)?;
    let held = Arc::new(File::open("/dev/null").context("cannot open /dev/null")?);
    let backed = backup::backup(home, text_of(to)?, reach, &held, stop)?;
    Ok((before, format!("the history up to {} is in a temporary folder", backed.commit)))
}

/// The lock of the home that came back, and its latest commit.
fn bring_back(
    from: &Path,
    into: &Home,
    before: Oid,
    reach: &Reach,
    stop: &Interrupt,
) -> Result<(HostLock, Oid, String)> {
    let lock = backup::restore_home(into, text_of(from)?, reach, stop)?;
    let repository = gitdir::look(&into.file("history.git"))?;
    let head = head(&repository)?;
    // A turn may have ended between the look and the backup.
    ensure!(
        head == before || repository.graph_descendant_of(head, before)?,
        "the latest change {before} is not in the backup, which ends with {head}"
    );
    let tree = repository.find_commit(head)?.tree()?;
    let index = repository.path().join("index");
    let mut scan = Scan::new(into.workspace(), &repository, index, Terms::default())?;
    let found = scan.look(&repository, Some(&tree))?;
    if let Some(first) = found.changes.first() {
        let (path, count) = (first.change.path.display(), found.changes.len());
        bail!("files that are not as they were in the history: {count}, for instance {path}");
    }
    let mut files = 0;
    tree.walk(TreeWalkMode::PreOrder, |_, entry| {
        files += usize::from(entry.kind() != Some(ObjectType::Tree));
        TreeWalkResult::Ok
    })?;
    let mut commits = repository.revwalk()?;
    commits.push(head)?;
    let commits = commits.count();
    let text =
        format!("a home came back from it: commits: {commits}, files: {files}, all the same");
    Ok((lock, head, text))
}

/// A turn in the home that came back.
async fn live(
    (home, confine): (Home, Confine),
    lock: HostLock,
    folder: &Path,
    before: Oid,
    stop: &Interrupt,
) -> Result<String> {
    let recording = folder.join("drill.jsonl");
    let file = format!("drill-{:08x}.txt", fastrand::u32(..));
    std::fs::write(&recording, RECORDING.replace(FILE, &file))
        .with_context(|| format!("cannot write {}", recording.display()))?;
    let host = scripted(home.clone(), lock, &recording, confine).await?;
    let ended = tokio::select! {
        ended = turn(&host) => ended,
        () = stop.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    host.stop_all().await;
    let changes = ended?;
    let commit = changes.commit.context("the turn wrote a file and made no commit")?;
    let repository = gitdir::look(&home.file("history.git"))?;
    let made = repository.revparse_single(&commit)?.peel_to_commit()?;
    let parent = made.parent_id(0)?;
    ensure!(parent == before, "something was recorded before the turn: {parent}");
    let written = made.tree()?.get_path(file.as_ref())?.to_object(&repository)?.peel_to_blob()?;
    ensure!(written.content() == CONTENT, "{file} is not in {commit} as it was written");
    Ok(format!("a scripted turn wrote a file and read it there; it is commit {commit}"))
}

async fn turn(host: &Arc<Host>) -> Result<Changes> {
    let (session, text) = (Some("drill".to_owned()), ASKED.to_owned());
    let verb = Verb::Run {
        session,
        text,
        key: verb::fresh_key(),
        model: None,
        steer: false,
        branch: None,
        only: None,
        files: Vec::new(),
    };
    let mut answers = host.ask(Caller::Owner, verb);
    while let Some(answer) = answers.recv().await {
        match answer {
            Answer::Event(Event::TurnEnded { end: End::Done, changes, .. }) => return Ok(changes),
            Answer::Event(Event::TurnEnded { why, .. }) => bail!("the turn failed: {why}"),
            Answer::Refused { why, .. } => bail!("the turn was refused: {why}"),
            _ => {}
        }
    }
    bail!("it ended in the middle of the turn")
}

fn head(repository: &Repository) -> Result<Oid> {
    repository.refname_to_id(MAIN).context("there is no change in the history yet")
}

fn text_of(path: &Path) -> Result<&str> {
    let shown = path.display();
    path.to_str().with_context(|| format!("{shown} is not UTF-8; set TMPDIR to a folder that is"))
}

/// The one runtime thread never waits for git.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the drill was broken off")?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::organs::config::Config;
    use crate::organs::history::snapshots::{self, Snapshots};
    use crate::organs::keys::Keys;
    use crate::organs::models::Catalog;

    fn settings(folder: &Path) -> Settings {
        let home = Home::resolve(Some(folder.join("home"))).unwrap();
        let config = Config::default();
        let catalog = Catalog::new(config.clone(), Keys::default());
        Settings { home, config, catalog, model: None, safe: false, resident: false }
    }

    fn run(settings: &Settings, folder: &Path) -> Result<(), Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let aside = folder.join("aside");
        fs::create_dir(&aside).unwrap();
        runtime.block_on(exercise(settings.home.clone(), Config::default(), &aside, interrupt().1))
    }

    #[test]
    fn a_home_in_use_passes_and_is_not_changed() {
        let temp = tempfile::tempdir().unwrap();
        let settings = settings(temp.path());
        settings.home.create_root().unwrap();
        let _lock = settings.home.lock().unwrap().unwrap();
        settings.home.create().unwrap();
        fs::write(settings.home.workspace().join(FILE), CONTENT).unwrap();
        let _snapshots =
            Snapshots::open(settings.home.path(), &snapshots::Settings::default()).unwrap();
        fs::write(settings.home.workspace().join("edit"), "not recorded yet").unwrap();
        let repository = gitdir::look(&settings.home.file("history.git")).unwrap();
        let before = head(&repository).unwrap();
        run(&settings, temp.path()).unwrap();
        assert_eq!(head(&repository).unwrap(), before);
        assert!(!settings.home.sessions().join("drill.jsonl").exists());
    }

    #[test]
    fn a_damaged_history_is_found_out() {
        let temp = tempfile::tempdir().unwrap();
        let settings = settings(temp.path());
        let (step, error) = run(&settings, temp.path()).unwrap_err();
        assert!(step == "backup" && error.to_string().contains("no history yet"), "{error:#}");
        settings.home.create_root().unwrap();
        settings.home.create().unwrap();
        drop(Snapshots::open(settings.home.path(), &snapshots::Settings::default()).unwrap());
        let repository = gitdir::look(&settings.home.file("history.git")).unwrap();
        let tree = repository.find_reference(MAIN).unwrap().peel_to_tree().unwrap();
        let id = tree.get_name("bootstrap.md").unwrap().id().to_string();
        let object = repository.path().join("objects").join(&id[..2]).join(&id[2..]);
        fs::remove_file(object).unwrap();
        fs::remove_dir_all(temp.path().join("aside")).unwrap();
        let (step, error) = run(&settings, temp.path()).unwrap_err();
        assert_eq!(step, "backup", "{error:#}");
    }
}
