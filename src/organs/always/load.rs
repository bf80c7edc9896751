//! What of the last commit is in force: its crontab, its services.
//!
//! Owns that a change takes effect once it is committed, that a crontab with a mistake in it
//! changes nothing (the schedule before it stays in force), and that owner and agent are told.
//! Whatever the workspace holds, nothing here fails for it. Knows neither times nor processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use git2::Oid;

use crate::kernel::session::Session;
use crate::organs::always::background::Kind;
use crate::organs::always::plan::{self, Author, CRONTAB, Written};
use crate::organs::always::schedule::crontab::{Crontab, Fault};
use crate::organs::always::schedule::job::Planned;
use crate::organs::history::chronicle::Chronicle;
use crate::organs::host::{Host, Phase};
use crate::organs::lane::lock;

/// Faults of a crontab that are told in one go.
const TOLD: usize = 5;

/// What is in force.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The commit.
    head: Option<Oid>,
    /// The crontab of that commit; zeros where there is none.
    crontab: Option<Oid>,
    /// What is wrong with it; then the one before it is in force.
    pub faults: Vec<Fault>,
    /// The jobs in force.
    pub jobs: Vec<Planned>,
    /// For whom each service works: to find that out again with each commit takes the longer
    /// the longer ago it was written.
    authors: BTreeMap<(PathBuf, Oid), Author>,
}

/// What a commit holds of the plan.
struct Found {
    head: Oid,
    crontab: Option<Written>,
    /// Each service with the one for whom it works.
    services: Vec<(Written, Author)>,
}

impl Host {
    /// Load what is committed, whenever there may be something new.
    pub(super) async fn keep_loaded(self: Arc<Self>) {
        let mut grants = self.grants.subscribe();
        let mut ready = Some(&self.always.ready);
        loop {
            // The first time it is when the owner's changes have been taken in that were made
            // while no host was there.
            tokio::select! {
                () = self.always.look.notified() => {}
                // Services have other rights then, or another key.
                _ = grants.changed() => lock(&self.always.loaded).head = None,
            }
            if self.phase() != Phase::Open {
                return;
            }
            if let Err(error) = self.load().await {
                let text =
                    format!("Crontab and services of the last commit cannot be read: {error:#}");
                self.fault(Kind::Host, "", &text);
            }
            if let Some(ready) = ready.take() {
                ready.notify_one();
            }
        }
    }

    /// Put in force what the last commit has.
    async fn load(self: &Arc<Self>) -> Result<()> {
        let (known, known_crontab, authors) = {
            let loaded = lock(&self.always.loaded);
            (loaded.head, loaded.crontab, loaded.authors.clone())
        };
        let home = self.home().path().to_owned();
        let look = move || -> Result<Option<Found>> {
            let chronicle = Chronicle::open(&home)?;
            let head = chronicle.head()?;
            if known == Some(head.id()) {
                return Ok(None);
            }
            let tree = head.tree()?;
            let crontab = plan::crontab(&tree, &chronicle)?;
            let services = plan::services(&tree, &chronicle)?.into_iter().map(|service| {
                let known = authors.get(&(service.path.clone(), service.id)).cloned();
                let find = || plan::author_of_file(&chronicle, &service.path).map(|found| found.0);
                let author = known.map_or_else(find, Ok)?;
                Ok((service, author))
            });
            let services = services.collect::<Result<Vec<_>>>()?;
            Ok(Some(Found { head: head.id(), crontab, services }))
        };
        let found = tokio::task::spawn_blocking(look).await.context("it was broken off")??;
        let Some(Found { head, crontab, services }) = found else { return Ok(()) };
        let id = crontab.as_ref().map_or_else(|| Oid::ZERO_SHA1, |crontab| crontab.id);
        if Some(id) != known_crontab {
            let text = crontab.map(|crontab| crontab.text).unwrap_or_default();
            self.load_crontab(id, text).await?;
        }
        let author = |(service, author): &(Written, Author)| {
            ((service.path.clone(), service.id), author.clone())
        };
        let authors = services.iter().map(author).collect();
        self.want_services(services).await;
        let mut loaded = lock(&self.always.loaded);
        (loaded.head, loaded.crontab, loaded.authors) = (Some(head), Some(id), authors);
        Ok(())
    }

    async fn load_crontab(self: &Arc<Self>, id: Oid, text: String) -> Result<()> {
        let (now, zone) = (self.always.clock.now(), self.always.clock.zone());
        let Crontab { lines, mut faults } = Crontab::parse(&text, &zone);
        let known = self.state.job_rows(0)?;
        let mut jobs = Vec::new();
        for line in lines {
            let (session, rev) = match known.iter().find(|row| row.job.key == line.key) {
                Some(row) => (row.job.session.clone(), row.job.rev.clone()),
                None => match self.author_of(text.lines().nth(line.number - 1)).await? {
                    (Author::Owner, rev) => (None, rev),
                    (Author::Session(session), rev) => (Some(session), rev),
                    (Author::Unknown, _) => {
                        let why = "nobody knows who wrote it, so it is not run; change it yourself, or have the agent write it again".to_owned();
                        let (number, line) = (line.number, line.command);
                        faults.push(Fault { number, line, why });
                        continue;
                    }
                },
            };
            jobs.push(Planned::new(line, session, rev));
        }
        if faults.is_empty() {
            self.state.set_jobs(&jobs, now)?;
        } else {
            let rows = self.state.job_rows(0)?.into_iter();
            jobs = rows.filter_map(|row| Planned::of_row(row.job, &zone).ok()).collect();
            self.tell_faults(id, &faults).await;
        }
        let mut loaded = lock(&self.always.loaded);
        (loaded.faults, loaded.jobs) = (faults, jobs);
        drop(loaded);
        self.always.wake.notify_one();
        Ok(())
    }

    async fn author_of(&self, line: Option<&str>) -> Result<(Author, String)> {
        let (home, line) = (self.home().path().to_owned(), line.unwrap_or_default().to_owned());
        let look = move || plan::author_of_line(&Chronicle::open(&home)?, &line);
        tokio::task::spawn_blocking(look).await.context("it was broken off")?
    }

    /// Tell the owner, and the session that wrote the crontab last.
    async fn tell_faults(self: &Arc<Self>, id: Oid, faults: &[Fault]) {
        let told: Vec<_> = faults.iter().take(TOLD).map(Fault::to_string).collect();
        let more = faults.len().saturating_sub(TOLD);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let text = format!(
            "The crontab has mistakes, so the schedule before it stays in force: {}{more}.",
            told.join("; ")
        );
        if !self.tell_owner(&format!("{CRONTAB}:{id}"), Kind::Job, &text) {
            // They know since an earlier start.
            self.fault(Kind::Job, CRONTAB, &text);
        }
        let home = self.home().path().to_owned();
        let author = move || plan::author_of_file(&Chronicle::open(&home)?, CRONTAB.as_ref());
        if let Ok(Ok((Author::Session(session), _))) = tokio::task::spawn_blocking(author).await
            && Session::open(&self.home().transcript(&session)).is_ok()
        {
            self.note(session, text).await;
        }
    }
}
