//! Who may ask for what, enforced: the table of `verb` applied to the sessions there are.
//!
//! Owns what a caller reaches and what a request that names no session is about. Knows
//! neither doors nor how anything is done.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::organs::always::plan::Author;
use crate::organs::always::workers::JOB;
use crate::organs::history::ask::Ask;
use crate::organs::host::Host;
use crate::organs::lane::lock;
use crate::organs::reach::item::Item;
use crate::organs::recall::Wanted;
use crate::organs::sessions;
use crate::organs::verb::{Caller, Needs, Verb};

/// So often one goes back from a job to the session that wrote it.
const DEPTH: usize = 16;

impl Host {
    /// The authority table, enforced.
    pub(super) fn check(&self, caller: &Caller, verb: &Verb) -> Result<()> {
        verb.session().map_or(Ok(()), sessions::check_name)?;
        self.check_names(verb)?;
        let Caller::Hand(own) = caller else { return Ok(()) };
        match verb {
            Verb::Run { model: Some(spec), .. } | Verb::Ask { item: Item::Model(spec), .. } => {
                self.check_script(spec)?;
            }
            Verb::History(ask) => self.check_history(own, ask)?,
            Verb::Recall(Wanted { session: Some(session), .. }) => {
                anyhow::ensure!(
                    self.recalls(caller, session),
                    "session {session} is out of reach: what was said there is not for {own}"
                );
            }
            _ => {}
        }
        match verb.needs() {
            Needs::Filtered => Ok(()),
            Needs::Owner => {
                anyhow::bail!("only the owner may do that; say what is needed, and they can do it")
            }
            Needs::Approver(id) => {
                anyhow::ensure!(
                    self.may_answer(own, id)?,
                    "request {id} is not session {own}'s to answer: that is for whoever it was put to, which `fledgling asks` shows, and for the owner"
                );
                Ok(())
            }
            Needs::Reach(session) => {
                anyhow::ensure!(
                    self.reaches(caller, session),
                    "session {session} is out of reach: from a tool call only session {own} and the sessions it started can be addressed"
                );
                Ok(())
            }
            Needs::Below(session) => {
                anyhow::ensure!(
                    session != own,
                    "session {session} is the one this command runs in: its turn waits for this command, so it cannot take another; name a new session"
                );
                let fresh = !self.settings.home.transcript(session).exists();
                anyhow::ensure!(
                    self.reaches(caller, session) || (fresh && matches!(verb, Verb::Run { .. })),
                    "session {session} is out of reach: from a tool call only sessions that {own} started can be addressed; name a new one"
                );
                Ok(())
            }
        }
    }

    /// See that a hand is told nothing of files that it may not read, and has none changed that
    /// it may not change: the history is that of the whole folder in which its session works.
    fn check_history(&self, own: &str, ask: &Ask) -> Result<()> {
        let folder = self.folder(Some(own));
        let folder = folder.canonicalize().unwrap_or(folder);
        let (needed, what) = match ask {
            Ask::Standing => return Ok(()),
            Ask::Undo { .. } | Ask::Restore { .. } => (Item::Write(folder), "change"),
            _ => (Item::Read(folder), "read"),
        };
        anyhow::ensure!(
            self.has(own, &needed)?,
            "session {own} may not {what} the whole workspace, so its history is not for it; the session that began it can ask"
        );
        Ok(())
    }

    /// See that a hand names no script: it is a file that the host would read, with the host's
    /// rights. One that the owner named is open already.
    fn check_script(&self, spec: &str) -> Result<()> {
        let known = lock(&self.models).contains_key(spec);
        anyhow::ensure!(
            known || !spec.starts_with("script:"),
            "{spec} is a file that the host would have to read; only the owner names scripts"
        );
        Ok(())
    }

    /// Names become those of files, rows and commits: no request may have a secret in one.
    fn check_names(&self, verb: &Verb) -> Result<()> {
        let mut named = serde_json::to_value(verb)?;
        if let Some(named) = named.as_object_mut() {
            // What is said is cleared, what is to be kept as a secret is one, and a recording
            // names nothing.
            named.retain(|field, _| !["text", "value", "recording"].contains(&field.as_str()));
        }
        match self.withheld.finds(named.to_string().as_bytes()) {
            None => Ok(()),
            Some(name) => anyhow::bail!(
                "what is asked for has the value of the secret {name} in a name; choose another name"
            ),
        }
    }

    /// Whether a caller may know of a session: its own, or one started from it.
    pub(super) fn reaches(&self, caller: &Caller, session: &str) -> bool {
        let Caller::Hand(own) = caller else { return true };
        let worker = self.always.workers.get(own);
        // A job goes on in the conversation that wrote it, and one that is the owner's in those
        // that jobs began, also under an earlier name.
        let is_its = |name: &str| {
            let Some(worker) = &worker else { return false };
            worker.session.as_deref() == Some(name)
                || own.starts_with(JOB) && name.starts_with(JOB) && self.is_owners(own)
        };
        sessions::ancestry(&self.settings.home, session).any(|name| name == *own || is_its(&name))
    }

    /// Whether a caller may recall what was said in a session: what it reaches; and in what is the
    /// owner's own, all that is. So others' chats stay with those who talk there, and what was
    /// done with less stays with whoever had it done.
    pub(super) fn recalls(&self, caller: &Caller, session: &str) -> bool {
        let Caller::Hand(own) = caller else { return true };
        self.reaches(caller, session) || self.is_owners(own) && self.is_owners(session)
    }

    /// Whether a session or a job is the owner's own: nothing narrows it, and it goes back to the
    /// owner, not to somebody else's chat or to a service.
    fn is_owners(&self, name: &str) -> bool {
        let home = &self.settings.home;
        let mut name = name.to_owned();
        // A job may work for a session that it began itself: such a circle is nobody's.
        for _ in 0..DEPTH {
            let is_whole = |name| self.links(Some(name)).is_ok_and(|links| links.is_empty());
            if !name.starts_with(JOB) && !is_whole(&name) {
                return false;
            }
            let Some(first) = sessions::ancestry(home, &name).last() else { return false };
            let Some(job) = first.strip_prefix(JOB) else {
                return home.transcript(&first).exists();
            };
            match self.works_for(job) {
                Author::Session(session) => name = session,
                Author::Owner => return true,
                Author::Unknown => return false,
            }
        }
        false
    }

    /// For whom a job works: nobody knows where it is not on the schedule, or several of its name
    /// work for different ones.
    fn works_for(&self, job: &str) -> Author {
        let author = |session: Option<String>| session.map_or(Author::Owner, Author::Session);
        if let Some(worker) = self.always.workers.get(&format!("{JOB}{job}")) {
            return author(worker.session.clone());
        }
        let loaded = lock(&self.always.loaded);
        let mut named = loaded.jobs.iter().map(|one| &one.job).filter(|one| one.name == job);
        match named.next().map(|one| one.session.clone()) {
            Some(session) if named.all(|one| one.session == session) => author(session),
            _ => Author::Unknown,
        }
    }

    /// The session a request is about when it names none: the caller's, or the latest.
    pub(super) fn subject(&self, caller: &Caller, session: Option<String>) -> Result<String> {
        match (session, caller) {
            (Some(session), _) => {
                self.existing(&session)?;
                Ok(session)
            }
            (None, Caller::Hand(own)) => Ok(own.clone()),
            (None, Caller::Owner) => {
                let latest = sessions::latest(&self.settings.home)?;
                latest.context(
                    "there is no session yet; start one with `fledgling` or `fledgling run`",
                )
            }
        }
    }

    pub(super) fn existing(&self, session: &str) -> Result<PathBuf> {
        let path = self.settings.home.transcript(session);
        anyhow::ensure!(
            path.exists(),
            "there is no session {session:?}; `fledgling sessions` lists them"
        );
        Ok(path)
    }
}
