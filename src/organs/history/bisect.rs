//! Which change broke it: something is tried on the files of one commit after another, until
//! the first with which it fails is known.
//!
//! Owns the search, and how a command is tried, in a folder of its own each time: what it does
//! there reaches neither the next try nor the history. Files that history leaves out are not
//! there. Changes nothing; knows no workspace but the commits' own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use git2::{Commit, Repository};

use crate::files::output::End;
use crate::guard::policy::Policy;
use crate::kernel::interrupt::Interrupt;
use crate::organs::history::ask::{Culprit, Logged};
use crate::organs::history::backup::fill;
use crate::organs::history::checkout::{BISECT, Checkout};
use crate::organs::history::shell::Job;
use crate::organs::history::snapshots::SHORT_ID;

/// As long as a bash call of the agent may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Exit codes, as `git bisect run` takes them: this one says that it cannot be told.
const UNTOLD: i32 = 125;
/// Up to this one they say that it is broken; beyond, something is wrong with the command.
const BROKEN: i32 = 127;
/// Lines of a command's output that are shown.
const SHOWN: usize = 20;

/// What to look for.
pub struct Search<'a> {
    /// Where the commits are.
    pub repository: &'a Repository,
    /// The branch, by its full name.
    pub branch: &'a str,
    /// What succeeds where all is well.
    pub trial: &'a dyn Trial,
    /// A commit in which all was well; the first one when none is named.
    pub good: Option<&'a str>,
    /// Ends the search.
    pub interrupt: &'a Interrupt,
    /// A commit as it is told.
    pub logged: &'a dyn Fn(&Commit<'_>) -> Result<Logged>,
}

/// What can be tried with a commit.
pub trait Trial {
    /// What it is, at the beginning of a sentence: `the command`.
    fn name(&self) -> &'static str;
    /// Try it, and tell what it said.
    fn run(&self, commit: &Commit<'_>) -> Result<(Verdict, String)>;
}

/// What a trial says of a commit.
pub enum Verdict {
    /// All is well.
    Good,
    /// It is broken.
    Bad,
    /// It cannot be told.
    Untold,
}

/// A bash command that succeeds where all is well.
pub struct Commanded<'a> {
    /// Where the commits are.
    pub repository: &'a Repository,
    /// What the command is given, but for the workspace: that is another for each try, and
    /// so is what in `HOME` and `PATH` points to it. Tries happen beside its scratch folder.
    pub policy: &'a Policy,
    /// The command.
    pub command: &'a str,
    /// Ends it.
    pub interrupt: &'a Interrupt,
}

/// Find the first commit with which the trial fails. `progress` hears a sentence before
/// each try. Where commits that cannot be tried are in the way, they are named, and the
/// change is the first that is known to fail. Blocks.
pub fn bisect(search: &Search<'_>, progress: &mut dyn FnMut(String)) -> Result<Culprit> {
    let commits = search.commits()?;
    let mut tries = Tries { search, progress, runs: 0, output: String::new() };
    let (mut good, mut bad) = (0, commits.len() - 1);
    let what = search.trial.name();
    let spread = |good: usize, bad: usize| (bad - good).max(1).next_power_of_two().ilog2();
    match tries.run(&commits[bad], spread(good, bad) + 2)? {
        Verdict::Bad => {}
        Verdict::Good => bail!(
            "{what} succeeds with the latest change, {}: nothing is broken now",
            named(&commits[bad])
        ),
        Verdict::Untold => bail!(
            "{what} cannot tell about the latest change, {} (exit code {UNTOLD}){}",
            named(&commits[bad]),
            tries.said()
        ),
    }
    let mut output = tries.said();
    let first =
        if bad == 0 { Verdict::Bad } else { tries.run(&commits[good], spread(good, bad) + 1)? };
    ensure!(
        matches!(first, Verdict::Good),
        "{what} does not succeed with {} either; name a commit with which it does{}",
        named(&commits[good]),
        tries.said()
    );
    let mut untold = Vec::new();
    while let Some(middle) = middle(good, bad, &untold) {
        match tries.run(&commits[middle], spread(good, bad))? {
            Verdict::Good => good = middle,
            Verdict::Bad => (bad, output) = (middle, tries.said()),
            Verdict::Untold => untold.push(middle),
        }
    }
    untold.sort_unstable();
    let between = untold.iter().filter(|index| (good..bad).contains(*index));
    Ok(Culprit {
        change: Some((search.logged)(&commits[bad])?),
        skipped: between.map(|index| (search.logged)(&commits[*index])).collect::<Result<_>>()?,
        runs: tries.runs,
        output: output.trim_start().to_owned(),
    })
}

/// What lies nearest to the middle and may be tried.
fn middle(good: usize, bad: usize, untold: &[usize]) -> Option<usize> {
    let open = (good + 1..bad).filter(|index| !untold.contains(index));
    open.min_by_key(|index| (2 * index).abs_diff(good + bad))
}

impl<'a> Search<'a> {
    /// From the good one to the latest, each the first parent of the next.
    fn commits(&self) -> Result<Vec<Commit<'a>>> {
        let head = self.repository.find_reference(self.branch);
        let head = head.and_then(|head| head.peel_to_commit());
        let mut commit = head.with_context(|| format!("cannot read {}", self.branch))?;
        let good = match self.good {
            Some(rev) => {
                let found = self.repository.revparse_single(rev);
                let found = found.and_then(|found| found.peel_to_commit());
                Some(found.with_context(|| format!("there is no commit {rev}"))?)
            }
            None => None,
        };
        let mut commits = vec![commit.clone()];
        while good.as_ref().is_none_or(|good| good.id() != commit.id()) {
            match (commit.parent_ids().next(), &good) {
                (Some(parent), _) => commit = self.repository.find_commit(parent)?,
                (None, None) => break,
                (None, Some(good)) => bail!(
                    "{} is not among the changes that led to the latest one; name another",
                    named(good)
                ),
            }
            commits.push(commit.clone());
        }
        commits.reverse();
        Ok(commits)
    }
}

/// The tries of one search.
struct Tries<'a> {
    search: &'a Search<'a>,
    progress: &'a mut dyn FnMut(String),
    runs: usize,
    output: String,
}

impl Tries<'_> {
    fn run(&mut self, commit: &Commit<'_>, left: u32) -> Result<Verdict> {
        ensure!(!self.search.interrupt.raised(), "interrupted");
        (self.progress)(format!("{left} to go: trying {}", named(commit)));
        let (verdict, output) = self.search.trial.run(commit)?;
        (self.runs, self.output) = (self.runs + 1, output);
        Ok(verdict)
    }

    /// The end of what was said last, on lines of its own.
    fn said(&self) -> String {
        end_of(&self.output)
    }
}

fn end_of(output: &str) -> String {
    let lines: Vec<_> = output.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    if last.is_empty() { last } else { format!("\n{last}") }
}

impl Trial for Commanded<'_> {
    fn name(&self) -> &'static str {
        "the command"
    }

    fn run(&self, commit: &Commit<'_>) -> Result<(Verdict, String)> {
        let Self { repository, policy, command, interrupt } = *self;
        let checkout = Checkout::new(&policy.scratch, BISECT)?;
        fill(repository, &commit.tree()?, &checkout.0)?;
        let policy = &moved(policy, &checkout.0)?;
        let job = Job { policy, command, input: None, timeout: TIMEOUT, interrupt };
        let (end, output) = job.run()?;
        let status = match end {
            End::Exited { status, .. } => status,
            End::Interrupted => bail!("interrupted"),
            End::TimedOut => {
                bail!("with {} the command took over {} s", named(commit), TIMEOUT.as_secs())
            }
        };
        let verdict = match status.code() {
            Some(0) => Verdict::Good,
            Some(UNTOLD) => Verdict::Untold,
            Some(1..=BROKEN) => Verdict::Bad,
            _ => bail!(
                "with {} the command ended in a way that says neither yes nor no ({status}){}",
                named(commit),
                end_of(&output)
            ),
        };
        Ok((verdict, output))
    }
}

/// The policy for another workspace.
fn moved(policy: &Policy, workspace: &Path) -> Result<Policy> {
    let mut policy = policy.clone();
    policy.own.push(workspace.to_owned());
    let old = std::mem::replace(&mut policy.workspace, workspace.to_owned());
    for (name, value) in &mut policy.env {
        if name == "HOME" {
            *value = workspace.into();
        } else if name == "PATH" {
            let folders = std::env::split_paths(value).map(|folder| {
                folder.strip_prefix(&old).map_or(folder.clone(), |rest| workspace.join(rest))
            });
            let folders: Vec<_> = folders.collect();
            *value = std::env::join_paths(folders)
                .with_context(|| format!("{} cannot stand in PATH", workspace.display()))?;
        }
    }
    Ok(policy)
}

/// As it stands in a sentence.
fn named(commit: &Commit<'_>) -> String {
    let subject = String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default());
    format!("{} \"{subject}\"", &commit.id().to_string()[..SHORT_ID])
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::{self, File};

    use git2::{FileMode, Signature};

    use super::*;
    use crate::files::withheld::Withheld;
    use crate::guard::policy::Chain;
    use crate::kernel::interrupt::interrupt;
    use crate::organs::history::archive::MAIN;

    struct Home {
        temp: tempfile::TempDir,
        repository: Repository,
        said: RefCell<Vec<String>>,
    }

    impl Home {
        /// Commits, the oldest first, each with these files besides a link and a script.
        fn new(commits: impl IntoIterator<Item = Vec<(&'static str, String)>>) -> Self {
            let temp = tempfile::tempdir().unwrap();
            for folder in ["scratch", "workspace"] {
                fs::create_dir(temp.path().join(folder)).unwrap();
            }
            let repository = Repository::init_bare(temp.path().join("history.git")).unwrap();
            for (number, files) in commits.into_iter().enumerate() {
                let mut update = git2::build::TreeUpdateBuilder::new();
                let blob = |content: &str| repository.blob(content.as_bytes()).unwrap();
                update.upsert("link", blob("number"), FileMode::Link);
                update.upsert("bin/say", blob("#!/bin/sh\necho $1\n"), FileMode::BlobExecutable);
                update.upsert("number", blob(&number.to_string()), FileMode::Blob);
                for (path, content) in files {
                    update.upsert(path, blob(&content), FileMode::Blob);
                }
                let empty = repository.treebuilder(None).unwrap().write().unwrap();
                let empty = repository.find_tree(empty).unwrap();
                let tree = update.create_updated(&repository, &empty).unwrap();
                let tree = repository.find_tree(tree).unwrap();
                let me = Signature::now("me", "me@x").unwrap();
                let main = repository.find_reference("refs/heads/main");
                let parents: Vec<_> =
                    main.iter().map(|main| main.peel_to_commit().unwrap()).collect();
                let parents: Vec<_> = parents.iter().collect();
                let message = format!("change {number}");
                let branch = Some("refs/heads/main");
                repository.commit(branch, &me, &me, &message, &tree, &parents).unwrap();
            }
            Self { temp, repository, said: RefCell::default() }
        }

        /// So many commits with nothing but their number in them.
        fn plain(count: usize) -> Self {
            Self::new(vec![Vec::new(); count])
        }

        fn search(&self, command: &str, good: Option<&str>, stop: &Interrupt) -> Result<Culprit> {
            let path = |name| self.temp.path().join(name);
            let paths = [path("workspace/bin"), "/usr/bin".into(), "/bin".into()];
            let env = vec![
                ("PATH".into(), std::env::join_paths(paths).unwrap()),
                ("HOME".into(), path("workspace").into()),
            ];
            let held = File::open("/dev/null").unwrap().into();
            let (workspace, scratch) = (path("workspace"), path("scratch"));
            let (chain, own, withheld) = (Chain::Off, Vec::new(), Withheld::default());
            let policy = Policy { workspace, scratch, env, chain, own, held, withheld };
            let logged = |commit: &Commit<'_>| {
                let subject = commit.summary().unwrap().unwrap().to_owned();
                Ok(Logged { subject, ..Logged::default() })
            };
            let (repository, policy, interrupt) = (&self.repository, &policy, stop);
            let trial = &Commanded { repository, policy, command, interrupt };
            let search =
                Search { branch: MAIN, repository, trial, good, interrupt: stop, logged: &logged };
            let found = bisect(&search, &mut |text| self.said.borrow_mut().push(text));
            let left = fs::read_dir(self.temp.path()).unwrap().flatten();
            let mut left = left.map(|entry| entry.file_name().into_string().unwrap());
            assert!(!left.any(|name| name.starts_with("bisect-")), "a checkout is left");
            assert_eq!(fs::read_dir(&policy.workspace).unwrap().count(), 0);
            found
        }

        fn find(&self, command: &str) -> Culprit {
            self.search(command, None, &interrupt().1).unwrap()
        }

        fn fail(&self, command: &str) -> String {
            format!("{:#}", self.search(command, None, &interrupt().1).unwrap_err())
        }
    }

    fn subject(found: &Culprit) -> &str {
        &found.change.as_ref().unwrap().subject
    }

    #[test]
    fn the_change_is_found_in_few_runs_wherever_it_is() {
        for count in [1, 2, 3, 10, 100] {
            let home = Home::plain(count + 1);
            for bug in [1, count.div_ceil(3), count] {
                let found = home.find(&format!("[ $(cat link) -lt {bug} ]"));
                assert_eq!(subject(&found), format!("change {bug}"));
                assert!(found.skipped.is_empty());
                let most = count.next_power_of_two().ilog2() as usize + 2;
                assert!(found.runs <= most, "{} runs for {count}", found.runs);
            }
        }
    }

    #[test]
    fn what_happens_is_told() {
        let home = Home::plain(4);
        let found = home.find("say \"it is $(cat number)\"; [ $(cat number) -lt 2 ]");
        assert_eq!(found.output, "it is 2");
        let said = home.said.borrow();
        assert_eq!(said.len(), found.runs);
        assert!(said[0].starts_with("4 to go: trying ") && said[0].ends_with(" \"change 3\""));
        assert!(said[1].starts_with("3 to go: trying ") && said[1].ends_with(" \"change 0\""));
    }

    #[test]
    fn what_cannot_be_tried_is_left_out_and_named_where_it_matters() {
        let home = Home::plain(21);
        let odd = "n=$(cat number); [ $((n % 2)) = 0 ] || [ $n = 13 ] || exit 125; [ $n -lt ";
        let found = home.find(&format!("{odd} 13 ]"));
        assert_eq!((subject(&found), found.skipped.len()), ("change 13", 0));
        let found = home.find(&format!("{odd} 8 ]"));
        assert_eq!(subject(&found), "change 8");
        assert_eq!(found.skipped.len(), 1);
        assert_eq!(found.skipped[0].subject, "change 7");
        let found = home.find("case $(cat number) in 0) ;; 20) exit 1;; *) exit 125;; esac");
        assert_eq!((subject(&found), found.skipped.len()), ("change 20", 19));
    }

    #[test]
    fn without_a_good_and_a_bad_end_there_is_nothing_to_search() {
        let home = Home::plain(3);
        assert!(home.fail("true").contains("\"change 2\": nothing is broken now"));
        let error = home.fail("echo because; false");
        assert!(error.contains("does not succeed with") && error.contains("\"change 0\" either"));
        assert!(error.ends_with("\nbecause"), "{error}");
        assert!(home.fail("no-such-command").contains("command not found"));
        assert!(home.fail("exit 125").contains("cannot tell about the latest change"));
        assert!(home.fail("exit 128").contains("neither yes nor no"));
        assert!(home.fail("kill -9 $$").contains("neither yes nor no"));
        assert!(Home::plain(1).fail("false").contains("\"change 0\" either"));
    }

    #[test]
    fn the_good_one_can_be_named() {
        let home = Home::plain(10);
        // As if it had been broken once before.
        let command = "n=$(cat number); [ $n -gt 2 ] && [ $n -lt 6 ]";
        assert!(home.fail(command).contains("\"change 0\" either"));
        let found = home.search(command, Some("main~5"), &interrupt().1).unwrap();
        assert_eq!(subject(&found), "change 6");
        let stop = interrupt().1;
        assert!(home.search("false", Some("main"), &stop).is_err());
        let error = home.search("false", Some("nothing"), &stop).unwrap_err();
        assert!(error.to_string().contains("there is no commit nothing"));
        let tree =
            home.repository.find_reference("refs/heads/main").unwrap().peel_to_tree().unwrap();
        let me = Signature::now("me", "me@x").unwrap();
        let stray = home.repository.commit(None, &me, &me, "stray", &tree, &[]).unwrap();
        let error = home.search("false", Some(&stray.to_string()), &stop).unwrap_err();
        assert!(error.to_string().contains("not among the changes that led to"), "{error}");
    }

    #[test]
    fn each_try_has_its_own_files_and_leaves_nothing() {
        let home = Home::plain(9);
        let before = home.repository.find_reference("refs/heads/main").unwrap().target();
        let command = "[ ! -e mark ] && [ -x bin/say ] && [ \"$HOME\" = \"$PWD\" ] || exit 200
            touch mark; echo 0 > number.new; mv number.new number; rm -rf bin
            mkdir shut; touch shut/x; chmod 0 shut; (setsid sleep 1000 &); [ $(cat link) = 0 ] || exit 201
            n=${PWD##*/}; git init -q . 2> /dev/null; git add -A 2> /dev/null; exit 0";
        assert!(home.fail(command).contains("nothing is broken now"));
        let found = home.find("n=$(cat number); echo 0 > number; sleep 1000 & [ $n -lt 5 ]");
        assert_eq!(subject(&found), "change 5");
        assert_eq!(home.repository.find_reference("refs/heads/main").unwrap().target(), before);
    }

    #[test]
    fn it_can_be_stopped() {
        let home = Home::plain(3);
        let (interrupter, stop) = interrupt();
        let fifo = home.temp.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let command = format!("exec > {}; sleep 1000", fifo.display());
        let raiser = std::thread::spawn(move || {
            // Opens as soon as the command is at it.
            let opened = File::open(fifo).unwrap();
            interrupter.raise();
            opened
        });
        let error = home.search(&command, None, &stop).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        raiser.join().unwrap();
        let error = home.search("true", None, &stop).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        assert_eq!(home.said.borrow().len(), 1);
    }
}
