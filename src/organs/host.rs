//! The host: the one process of a home in which its sessions live.
//!
//! Owns what all turns share, and its beginning and its end. Knows neither sockets nor
//! terminals, nor what can be asked of it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use anyhow::Result;

use crate::files::withheld::Withheld;
use crate::guard::policy::{Network, Policy};
use crate::kernel::model::Model;
use crate::organs::always::Always;
use crate::organs::backups::Backups;
use crate::organs::checkouts::Branches;
use crate::organs::config::Config;
use crate::organs::discreet::Discreet;
use crate::organs::hand_door;
use crate::organs::hands_lock;
use crate::organs::history::checkout;
use crate::organs::history::image::Images;
use crate::organs::history::snapshots::{self, Snapshots};
use crate::organs::home::{Home, HostLock};
use crate::organs::lane::{Lane, lock};
use crate::organs::line::Asker;
use crate::organs::models::Catalog;
use crate::organs::pictures::Sighted;
use crate::organs::prompt::Sources;
use crate::organs::reach::root::{NOTHING, Reach};
use crate::organs::recall::Recall;
use crate::organs::replay::played::Played;
use crate::organs::state::State;
use crate::organs::sweep;

/// What a host is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The home.
    pub home: Home,
    /// The owner's settings.
    pub config: Config,
    /// The models that can be reached.
    pub catalog: Catalog,
    /// The model to ask when a message names none.
    pub model: Option<String>,
    /// Whether to leave skills, memory and the workspace's bootstrap aside.
    pub safe: bool,
    /// Whether the process is there for more than a turn.
    pub resident: bool,
}

/// How far a host is on its way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Open,
    /// No turn begins any more.
    Closing,
    /// None runs any more either, and whoever still waits has to ask the next host.
    Closed,
}

/// No last word goes to whoever asked: the next host has it.
#[derive(Debug, thiserror::Error)]
#[error("fledgling is about to end; try again when it has")]
pub(super) struct Ending;

/// The running host.
pub struct Host {
    pub(super) settings: Settings,
    pub(super) sources: Sources,
    pub(super) state: State,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) branches: Branches,
    /// What the owner says about the history.
    pub(super) kept: snapshots::Settings,
    pub(super) backups: Backups,
    pub(super) bash_path: String,
    /// What its hands reach.
    pub(super) reach: RwLock<Reach>,
    /// How often what is given has changed.
    pub(super) grants: tokio::sync::watch::Sender<u64>,
    /// What the supervisors of its tool calls hold open, see `hands_lock`.
    pub(super) hands: Arc<File>,
    /// What nobody is told.
    pub(super) withheld: Withheld,
    /// What goes on without a terminal.
    pub(super) always: Always,
    /// The index of what was said.
    pub(super) recall: Recall,
    pub(super) models: Mutex<HashMap<String, Arc<dyn Model>>>,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    notices: Mutex<Vec<String>>,
    phase: Mutex<Phase>,
    /// Held for reading while something is tried in a folder of its own.
    pub(super) tries: tokio::sync::RwLock<()>,
    /// Those who said something and wait for what comes of it.
    pub(super) askers: Mutex<Vec<Weak<Asker>>>,
    _lock: HostLock,
}

impl Host {
    /// Become the host of a home whose lock is held, and put right what a kill left.
    pub async fn open(settings: Settings, held: HostLock) -> Result<Arc<Self>> {
        let home = settings.home.clone();
        let newborn = home.create()?;
        // As root it looks through all of /etc.
        let (whose, config) = (home.clone(), settings.config.clone());
        let reaching = tokio::task::spawn_blocking(move || Reach::of(&whose, &config));
        hand_door::sweep(&home.doors());
        let hands = home.file("hands.lock");
        let (hands, alone) =
            tokio::task::spawn_blocking(move || hands_lock::take(&hands)).await??;
        checkout::sweep(home.path());
        let state = State::open(&home.file("state.db"))?;
        let (hands, withheld) = (Arc::new(hands), Withheld::default());
        withheld.learn(settings.catalog.secrets())?;
        let reach = reaching.await??;
        let rights = reach.rights();
        let policy = Policy {
            workspace: home.workspace(),
            scratch: home.scratch(),
            env: Vec::new(),
            chain: reach.helper(Vec::new(), Vec::new(), Network::None).unwrap_or(NOTHING),
            own: Vec::new(),
            held: hands.clone(),
            withheld: withheld.clone(),
        };
        let images = Images::new(policy, home.program().join("fledgling"));
        let kept = snapshots::Settings::of(&settings.config, withheld.clone(), images);
        let unconfined = reach.is_off();
        let kept = snapshots::Settings { resident: settings.resident, unconfined, ..kept };
        // Databases are read by other processes, which must not be waited for on this thread.
        let (root, terms) = (home.path().to_owned(), kept.clone());
        let opening = tokio::task::spawn_blocking(move || Snapshots::open(&root, &terms));
        let snapshots = opening.await??;
        let host = Arc::new(Self {
            sources: Sources::new(home, settings.safe, settings.config.limits, rights),
            settings,
            state,
            snapshots: snapshots.into(),
            branches: Branches::default(),
            kept,
            reach: reach.into(),
            grants: tokio::sync::watch::Sender::new(0),
            hands,
            withheld,
            always: Always::default(),
            backups: Backups::default(),
            bash_path: std::env::var("PATH").unwrap_or_default(),
            recall: Recall::default(),
            models: Mutex::default(),
            lanes: Mutex::default(),
            notices: Mutex::default(),
            phase: Mutex::default(),
            askers: Mutex::default(),
            tries: tokio::sync::RwLock::default(),
            _lock: held,
        });
        if newborn {
            let path = host.settings.home.path().display().to_string();
            host.notice(format!("A new agent was born in {path}."));
            let offers: Vec<_> = host.reach().offers().iter().map(|place| place.name).collect();
            if !offers.is_empty() {
                let offers = offers.join(", ");
                host.notice(format!(
                    "Not given to tool calls: {offers}. `fledgling doctor` tells how."
                ));
            }
        }
        host.backup_failure().into_iter().for_each(|text| host.notice(text));
        host.recover(alone).await?;
        let (swept, waiting) = (host.settings.home.clone(), host.state.all_enclosed()?);
        tokio::task::spawn_blocking(move || sweep::sweep(&swept, waiting));
        Ok(host)
    }

    /// The home it hosts.
    pub fn home(&self) -> &Home {
        &self.settings.home
    }

    /// What the owner should know since the last time this was asked.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.notices))
    }

    pub(super) fn notice(&self, text: String) {
        lock(&self.notices).push(text);
    }

    /// The lane of a session.
    pub fn lane(&self, session: &str) -> Arc<Lane> {
        lock(&self.lanes).entry(session.to_owned()).or_default().clone()
    }

    /// How long the turn of a session has been under way, in seconds, if one is.
    pub(super) fn runs_for(&self, session: &str) -> Option<u64> {
        lock(&self.lanes).get(session).and_then(|lane| lane.seconds())
    }

    pub(super) fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    /// All lanes there are so far, by session.
    pub(super) fn lanes(&self) -> Vec<(String, Arc<Lane>)> {
        lock(&self.lanes).iter().map(|(name, lane)| (name.clone(), lane.clone())).collect()
    }

    /// The sessions that have a turn under way.
    pub fn running(&self) -> Vec<String> {
        let busy = self.lanes().into_iter().filter(|(_, lane)| lane.busy());
        let mut names: Vec<_> = busy.map(|(name, _)| name).collect();
        names.sort();
        names
    }

    /// Returns when no turn runs and none waits its turn.
    pub async fn idle(&self) {
        loop {
            for (_, lane) in self.lanes() {
                let _ = lane.gate.lock().await;
            }
            // While one lane was waited for, a turn may have begun in another.
            if self.running().is_empty() {
                return;
            }
        }
    }

    /// Whether it is there for more than a turn.
    pub fn stays(&self) -> bool {
        self.settings.resident
    }

    /// Begin nothing more, and wait so long for what runs to end by itself.
    pub async fn wind_down(&self, patience: Duration) {
        *lock(&self.phase) = Phase::Closing;
        self.always.wake.notify_one();
        let over = async { tokio::join!(self.idle(), self.always.runs.idle()) };
        let _ = tokio::time::timeout(patience, over).await;
    }

    /// Interrupt every turn, begin none, and wait for them to be recorded. What waits its
    /// turn stays in the inbox, and whoever asked for it finds the next host.
    pub async fn stop_all(&self) {
        *lock(&self.phase) = Phase::Closing;
        for (_, lane) in self.lanes() {
            lane.stop();
        }
        self.stop_staying().await;
        self.idle().await;
        *lock(&self.phase) = Phase::Closed;
        for (_, lane) in self.lanes() {
            lane.dismiss();
        }
    }

    /// The model a message of a session goes to.
    pub(super) async fn model_for(
        &self,
        session: &str,
        asked: Option<&str>,
    ) -> Result<Arc<dyn Model>> {
        let spec = match asked {
            Some(spec) => Some(spec.to_owned()),
            None => self.known_spec(session)?,
        };
        let spec = match spec {
            Some(spec) => spec,
            None => self.settings.catalog.default_spec().await?,
        };
        self.model(&spec).await
    }

    /// The name of the model that answers in a session, if it is known without a request.
    pub fn known_spec(&self, session: &str) -> Result<Option<String>> {
        let named = self.state.choice(session)?.or_else(|| self.settings.model.clone());
        Ok(named.or_else(|| self.settings.catalog.known_spec()))
    }

    /// The model of this name; the same one as long as the host lives.
    pub(super) async fn model(&self, spec: &str) -> Result<Arc<dyn Model>> {
        if let Some(model) = lock(&self.models).get(spec) {
            return Ok(model.clone());
        }
        let mut model = self.settings.catalog.model(spec).await?;
        if spec.starts_with("script:") {
            model = Played::over(model, &self.settings.home);
        }
        let model = Sighted::over(Discreet::over(model, &self.withheld), self.home());
        lock(&self.models).insert(spec.to_owned(), model.clone());
        Ok(model)
    }
}
