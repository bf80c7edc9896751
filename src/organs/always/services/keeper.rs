//! Services, kept running.
//!
//! Owns a task for each service that is wanted: it starts it, waits after it ended, and puts
//! it in quarantine. There is never more than one of a name: the next is started when the last
//! is gone. Knows neither where services come from nor what they say: events tell.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::organs::always::services::log::Log;
use crate::organs::always::services::patience::{ENDS, Next, Patience};
use crate::organs::always::services::program::{self, Ended};
pub use crate::organs::always::services::program::{Event, Wanted};
use crate::organs::lane::lock;

/// Keeps services running. Dropping it ends them without waiting for their end.
#[derive(Debug)]
pub struct Keeper {
    /// Has a file for each service.
    logs: PathBuf,
    events: UnboundedSender<Event>,
    services: Arc<Mutex<Services>>,
}

/// Only its own task takes a service away, and only while nobody wants it.
#[derive(Debug, Default)]
struct Services {
    all: BTreeMap<String, Service>,
    /// Nothing is started any more.
    closed: bool,
}

#[derive(Debug)]
struct Service {
    /// What is to run; nothing where it is to stop.
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    known: Arc<Mutex<Known>>,
    log: Arc<Mutex<Log>>,
}

/// How a service does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// How often it was started.
    pub starts: u64,
    /// How it last ended, in words.
    pub last_end: Option<String>,
    /// The end of its log. Whoever shows it has to mind control characters.
    pub log_tail: String,
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It ended, and is started again at this time.
    Waiting(SystemTime),
    /// It ended too often.
    Quarantined,
}

#[derive(Debug)]
struct Known {
    state: State,
    since: SystemTime,
    starts: u64,
    last_end: Option<String>,
}

impl Keeper {
    /// Nothing runs yet. Logs are files of this folder, which no hand may reach. The events
    /// have to be taken: services wait for whoever is slow with their lines.
    pub fn new(logs: PathBuf) -> (Self, UnboundedReceiver<Event>) {
        let (events, heard) = mpsc::unbounded_channel();
        (Self { logs, events, services: Arc::default() }, heard)
    }

    /// These are to run and no others: starts the new ones, stops those that are gone, starts
    /// anew those with another stamp, and leaves the rest alone. Waits for none of it.
    pub fn want(&self, wanted: Vec<Wanted>) {
        let mut services = lock(&self.services);
        if services.closed {
            return;
        }
        for (name, service) in &services.all {
            if !wanted.iter().any(|wanted| wanted.name == *name) {
                service.order(None);
            }
        }
        for wanted in wanted {
            if let Some(service) = services.all.get(&wanted.name) {
                service.order(Some(wanted));
            } else {
                let name = wanted.name.clone();
                let service = self.begin(wanted);
                services.all.insert(name, service);
            }
        }
    }

    /// Start it anew, whether it runs, waits or is in quarantine. False where there is none.
    pub fn restart(&self, name: &str) -> bool {
        let services = lock(&self.services);
        let Some(service) = services.all.get(name) else { return false };
        service.wanted.send_modify(|_| {});
        service.wanted.borrow().is_some()
    }

    /// Put a line that it printed into its log, as nobody else wants it.
    pub fn note(&self, name: &str, line: &str) {
        if let Some(service) = lock(&self.services).all.get(name) {
            lock(&service.log).note(line);
        }
    }

    /// Stop all of them for good, and wait until they are gone. Nothing is started any more.
    pub async fn stop_all(&self) {
        let orders: Vec<_> = {
            let mut services = lock(&self.services);
            services.closed = true;
            services
                .all
                .values()
                .inspect(|service| service.order(None))
                .map(|service| service.wanted.clone())
                .collect()
        };
        for order in orders {
            order.closed().await;
        }
    }

    /// How each of them does.
    pub fn standing(&self) -> Vec<Standing> {
        let services = lock(&self.services);
        let wanted = services.all.iter().filter(|(_, service)| service.wanted.borrow().is_some());
        let standing = wanted.map(|(name, service)| {
            let known = lock(&service.known);
            let Known { state, since, starts, .. } = *known;
            let (name, last_end) = (name.clone(), known.last_end.clone());
            Standing { name, state, since, starts, last_end, log_tail: lock(&service.log).tail() }
        });
        standing.collect()
    }

    fn begin(&self, wanted: Wanted) -> Service {
        let path = self.logs.join(format!("{}.log", wanted.name));
        let log = Log::open(&path, &wanted.policy.withheld);
        let log = Arc::new(Mutex::new(log));
        let (state, since) = (State::Running, SystemTime::now());
        let known = Arc::new(Mutex::new(Known { state, since, starts: 0, last_end: None }));
        let keeping = Keeping {
            name: wanted.name.clone(),
            services: Arc::downgrade(&self.services),
            events: self.events.clone(),
            known: known.clone(),
            log: log.clone(),
        };
        let (wanted, orders) = watch::channel(Some(Arc::new(wanted)));
        tokio::spawn(keeping.go_on(orders));
        Service { wanted, known, log }
    }
}

impl Service {
    /// Its task is only told where that is something else than it has.
    fn order(&self, order: Option<Wanted>) {
        self.wanted.send_if_modified(|wanted| {
            let stamp = |wanted: &Wanted| wanted.stamp.clone();
            let other = wanted.as_deref().map(stamp) != order.as_ref().map(stamp);
            *wanted = order.map(Arc::new);
            other
        });
    }
}

/// The task of one service.
struct Keeping {
    name: String,
    services: Weak<Mutex<Services>>,
    events: UnboundedSender<Event>,
    known: Arc<Mutex<Known>>,
    log: Arc<Mutex<Log>>,
}

/// What is wanted.
type Orders = watch::Receiver<Option<Arc<Wanted>>>;

impl Keeping {
    async fn go_on(self, mut orders: Orders) {
        let mut patience = Patience::default();
        loop {
            let wanted = orders.borrow_and_update().clone();
            // Where the keeper is gone, nothing is wanted.
            let Some(wanted) = wanted.filter(|_| orders.has_changed().is_ok()) else {
                if self.leave(&orders) {
                    return;
                }
                continue;
            };
            match self.run(&wanted, other(&mut orders), &mut patience).await {
                None => patience.pardon(),
                Some(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = other(&mut orders) => patience.pardon(),
                },
            }
        }
    }

    /// Run it once. How long to wait for the next time; nothing where it was told to end.
    async fn run(
        &self,
        wanted: &Wanted,
        told: impl Future<Output = ()>,
        patience: &mut Patience,
    ) -> Option<Duration> {
        self.enter(State::Running, "started", |known| known.starts += 1);
        let begin = Instant::now();
        let ended = program::run(wanted, &self.log, &self.events, told).await;
        let failed = |error| Ended { how: format!("{error:#}"), stopped: false, left: false };
        let Ended { how, stopped, .. } = ended.unwrap_or_else(failed);
        let ran = begin.elapsed();
        lock(&self.log).say(&how);
        lock(&self.known).last_end = Some(how.clone());
        let (name, told) = (self.name.clone(), how.clone());
        let _ = self.events.send(Event::Ended { name, how: told, ran });
        if stopped {
            return None;
        }
        Some(match patience.ended(ran) {
            Next::Again(wait) => {
                let words = format!("starts again in {} s", wait.as_secs());
                self.enter(State::Waiting(SystemTime::now() + wait), &words, |_| {});
                wait
            }
            Next::Quarantine { wait, fresh } => {
                let words =
                    format!("in quarantine; tried again in {} minutes", wait.as_secs() / 60);
                self.enter(State::Quarantined, &words, |_| {});
                if fresh {
                    let (name, why) = (self.name.clone(), self.why(&how));
                    let _ = self.events.send(Event::Quarantined { name, why });
                }
                wait
            }
        })
    }

    fn why(&self, how: &str) -> String {
        let log = lock(&self.log);
        let said = match log.last() {
            "" => String::new(),
            last => format!("; the last line in its log: {last}"),
        };
        format!("it ended {ENDS} times in a row, at last with: {how}{said}")
    }

    fn enter(&self, state: State, words: &str, also: impl FnOnce(&mut Known)) {
        lock(&self.log).say(words);
        let mut known = lock(&self.known);
        (known.state, known.since) = (state, SystemTime::now());
        also(&mut known);
    }

    /// Nothing is wanted: it is taken away, unless something is wanted by now.
    fn leave(&self, orders: &Orders) -> bool {
        let Some(services) = self.services.upgrade() else { return true };
        let mut services = lock(&services);
        let leaves = !matches!(orders.has_changed(), Ok(true));
        if leaves {
            services.all.remove(&self.name);
        }
        leaves
    }
}

/// Done when something else is wanted.
async fn other(orders: &mut Orders) {
    // It fails where the keeper is gone.
    let _ = orders.changed().await;
}
