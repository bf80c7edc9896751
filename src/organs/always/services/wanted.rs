//! Which services are to run, and what each may touch.
//!
//! Owns what a service's hand is given: what the session has that wrote it, narrowed to its own
//! folder for temporary files and to what lines in the file itself name. Whatever is wrong with
//! one service stops no other. Knows no process.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::organs::always::background::Kind;
use crate::organs::always::plan::{self, Author, Written};
use crate::organs::always::services::keeper::{self, Wanted};
use crate::organs::always::status::ServiceStatus;
use crate::organs::always::workers::{Known, Worker};
use crate::organs::hand_door::HandDoor;
use crate::organs::history::chronicle::Chronicle;
use crate::organs::history::writers::Writing;
use crate::organs::host::Host;
use crate::organs::lane::lock;
use crate::organs::reach::narrow;
use crate::organs::sessions;
use crate::organs::verb::Caller;

/// Lines of a file among which it says what it needs.
const HEAD: usize = 20;
/// How such a line begins, after whatever makes it a comment.
const MARK: &str = "fledgling:";

/// What a service holds as long as it is wanted.
#[derive(Debug)]
pub struct Equipment {
    door: HandDoor,
    _known: Known,
    _writing: Option<Writing>,
}

impl Host {
    /// These are the services of the last commit: have them run.
    pub(in crate::organs::always) async fn want_services(
        self: &Arc<Self>,
        services: Vec<(Written, Author)>,
    ) {
        let Some(keeper) = self.always.desk.keeper() else { return };
        let (mut wanted, mut refused) = (Vec::new(), Vec::new());
        let names: Vec<_> = services.iter().map(|(service, _)| name_of(&service.path)).collect();
        for (service, author) in services {
            let name = name_of(&service.path);
            match self.equip(&name, &service, author) {
                Ok(one) => wanted.push(one),
                Err(error) => {
                    lock(&self.always.desk.equipment).remove(&name);
                    let note = format!("{error:#}");
                    let state = "refused".to_owned();
                    refused.push(ServiceStatus { name, state, note, ..ServiceStatus::default() });
                }
            }
        }
        keeper.want(wanted);
        // Not before: what still runs must not be taken for somebody with a wider chain.
        lock(&self.always.desk.equipment).retain(|name, _| names.contains(name));
        let before = std::mem::replace(&mut *lock(&self.always.desk.refused), refused.clone());
        for one in refused.iter().filter(|one| !before.contains(one)) {
            self.fault(Kind::Service, &one.name, &format!("is not run: {}", one.note));
            self.tell_author(
                &one.name,
                &format!("The service {} is not run: {}.", one.name, one.note),
            )
            .await;
        }
    }

    fn equip(self: &Arc<Self>, name: &str, service: &Written, author: Author) -> Result<Wanted> {
        sessions::check_name(name).ok().context(
            "its name has other signs than letters, digits, dots, dashes and underscores",
        )?;
        let path = service.path.display();
        ensure!(service.executable, "it may not be executed: chmod +x {path}");
        let session = match author {
            Author::Owner => None,
            Author::Session(session) => Some(session),
            Author::Unknown => bail!(
                "the history does not tell who wrote it; save it yourself, or have the agent write it again"
            ),
        };
        let workspace = self.home().workspace();
        let temporary = self.home().scratch().join("services").join(name);
        std::fs::create_dir_all(&temporary)
            .with_context(|| format!("cannot make {}", temporary.display()))?;
        let only = narrow::parse(&phrases(&service.text), &workspace, None)?
            .context("it has no limits")?;
        let written: Vec<_> = only.write.clone();
        let links = self.links(session.as_deref())?;
        // Where nothing is confined, nothing can be narrowed.
        let is_off = self.reach().is_off();
        let links = if is_off {
            links
        } else {
            narrow::extended(links, Some(only), self.reach().always(), &workspace, &workspace)?
        };
        let env =
            vec![("FLEDGLING_SERVICE".into(), name.into()), ("TMPDIR".into(), temporary.into())];
        let own = format!("service:{name}");
        let worker = Worker { session, links, env };
        let known = self.always.workers.begin(&own, worker);
        let mut equipment = lock(&self.always.desk.equipment);
        // One that is there keeps its door.
        let door = match equipment.remove(name) {
            Some(Equipment { door, .. }) => door,
            None => HandDoor::open(self.clone(), &own)?,
        };
        let policy = self.policy(door.folder(), &workspace, Some(&own))?;
        let mut hasher = DefaultHasher::new();
        format!("{:?} {:?}", policy.chain, policy.env).hash(&mut hasher);
        let stamp = format!("{}:{:x}", service.id, hasher.finish());
        let wanted = Wanted {
            name: name.to_owned(),
            path: service.path.clone(),
            stamp,
            blob: Some(service.id),
            policy,
        };
        let writers = self.snapshots.writers();
        let inside = |path: &PathBuf| path.strip_prefix(&workspace).ok().map(Path::to_owned);
        let writing = if is_off {
            Some(writers.writes(&own, true))
        } else {
            let inside: Vec<_> = written.iter().filter_map(inside).collect();
            (!inside.is_empty()).then(|| writers.writes_within(&own, inside))
        };
        if writing.is_some() {
            // Should a kill end the host, what it wrote last is not the owner's.
            self.state.begin(&own, 0)?;
        }
        let one = Equipment { door, _known: known, _writing: writing };
        equipment.insert(name.to_owned(), one);
        Ok(wanted)
    }

    /// The services, for `fledgling status`.
    pub(in crate::organs::always) fn services(&self) -> Vec<ServiceStatus> {
        let Some(keeper) = self.always.desk.keeper() else { return Vec::new() };
        let zone = self.always.clock.zone();
        let local = |at: std::time::SystemTime| {
            let at = jiff::Timestamp::try_from(at).unwrap_or_default().to_zoned(zone.clone());
            at.strftime("%Y-%m-%d %H:%M:%S").to_string()
        };
        let mut all: Vec<_> = keeper
            .standing()
            .into_iter()
            .map(|one| {
                let state = match one.state {
                    keeper::State::Running => "runs",
                    keeper::State::Waiting(_) => "waits",
                    keeper::State::Quarantined => "quarantine",
                };
                ServiceStatus {
                    name: one.name,
                    state: state.to_owned(),
                    since: local(one.since),
                    starts: one.starts,
                    note: one.last_end.unwrap_or_default(),
                }
            })
            .collect();
        all.extend(lock(&self.always.desk.refused).iter().cloned());
        all
    }

    /// The end of a service's log; or start it again.
    pub(in crate::organs) fn service(
        &self,
        caller: &Caller,
        name: &str,
        restart: bool,
    ) -> Result<Value> {
        self.check_overseer(caller)?;
        let keeper = self.always.desk.keeper().context(
            "no service runs while there is only this one command; start `fledgling serve`, or leave a conversation open",
        )?;
        let known = keeper.standing().into_iter().find(|one| one.name == name);
        let known = known.with_context(|| {
            format!("there is no service {name}; `fledgling services` lists them")
        })?;
        if restart {
            keeper.restart(name);
            return Ok(json!({ "said": format!("{name} is started again.") }));
        }
        let log =
            if known.log_tail.is_empty() { "Its log is empty." } else { known.log_tail.trim_end() };
        Ok(json!({ "said": log }))
    }

    /// A service ended too often: the owner is told, and the session that wrote it.
    pub(in crate::organs::always) fn tell_quarantine(self: &Arc<Self>, name: &str, why: &str) {
        let text = format!(
            "The service {name} is in quarantine: {why}. It starts again when its file changes, or with `fledgling services {name} --restart`."
        );
        let day = self.today();
        self.tell_owner(
            &format!("quarantine:{name}:{day}:{}", crate::organs::verb::fresh_key()),
            Kind::Service,
            &text,
        );
        let (host, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move { host.tell_author(&name, &text).await });
    }

    /// Tell the session that wrote a service.
    async fn tell_author(self: &Arc<Self>, name: &str, text: &str) {
        let home = self.home().path().to_owned();
        let path = Path::new(plan::SERVICES).join(name);
        let author = move || plan::author_of_file(&Chronicle::open(&home)?, &path);
        if let Ok(Ok((Author::Session(session), _))) = tokio::task::spawn_blocking(author).await {
            self.note(session, text.to_owned()).await;
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a service says that it needs, as `run --only` takes it.
pub(super) fn phrases(text: &str) -> Vec<String> {
    let said = text.lines().take(HEAD).filter_map(|line| {
        let line = line.trim_start().trim_start_matches(['#', '/', '-', ';', '*', '"', ' ']);
        line.strip_prefix(MARK).map(|phrase| phrase.trim().to_owned())
    });
    let mut phrases: Vec<_> = said.filter(|phrase| !phrase.is_empty()).collect();
    if phrases.is_empty() {
        // Then it may do all but change the workspace.
        phrases.push("network full".to_owned());
    }
    phrases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_needs_in_comments_at_its_head() {
        let text = "#!/bin/sh\n# fledgling: write data logs\n  // fledgling: network 443\n";
        assert_eq!(phrases(text), ["write data logs", "network 443"]);
        assert_eq!(phrases("#!/bin/sh\necho fledgling: write data"), ["network full"]);
        let late = format!("{}# fledgling: write data", "\n".repeat(HEAD));
        assert_eq!(phrases(&late), ["network full"]);
    }
}
