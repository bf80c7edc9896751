//! The desk at which services report: what they print is understood, what people say goes to
//! their sessions, and letters go out.
//!
//! Owns the loop over all of this, and that an answer to a message is acknowledged only once the
//! message is safe. Which services run is `services::wanted`'s; what a message leads to is
//! `talk`'s; rows decide everything else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::organs::always::background::Kind;
use crate::organs::always::channels::contract::{Heard, Outbound, heard};
use crate::organs::always::channels::courier::{Courier, News};
use crate::organs::always::outbox::Dead;
use crate::organs::always::services::keeper::Keeper;
use crate::organs::always::services::program::{Event, Input, Room};
use crate::organs::always::services::wanted::Equipment;
use crate::organs::always::status::ServiceStatus;
use crate::organs::host::{Host, Phase};
use crate::organs::lane::lock;

/// How often somebody is told that an answer is being worked on.
const TYPING: Duration = Duration::from_secs(5);
/// Lines for which there is always room beside acknowledgements, and how soon it is looked
/// whether a service has read what it was told.
const RESERVE: usize = 256;
const BEHIND: Duration = Duration::from_millis(20);
/// Events that are dealt with before any of them is acknowledged.
const BATCH: usize = 64;
/// Characters of a message that the log of a host shows.
const SHOWN: usize = 60;

/// The services of a host.
#[derive(Debug, Default)]
pub struct Desk {
    keeper: OnceLock<Keeper>,
    /// What each service was given, by its name.
    pub(in crate::organs::always) equipment: Mutex<BTreeMap<String, Equipment>>,
    /// Those that are not run, with why.
    pub(in crate::organs::always) refused: Mutex<Vec<ServiceStatus>>,
    /// The content of each service that runs, by its name.
    blobs: Mutex<BTreeMap<String, String>>,
    /// Those that turned out to be channels.
    channels: Mutex<Vec<String>>,
    /// Whether all have ended, so that nothing more comes.
    over: AtomicBool,
}

impl Desk {
    /// The one who keeps services running, once there is one.
    pub fn keeper(&self) -> Option<&Keeper> {
        self.keeper.get()
    }

    /// The services that speak as channels do, as far as they have spoken.
    pub fn channels(&self) -> Vec<String> {
        lock(&self.channels).clone()
    }

    /// The content with which a service runs. One that is told to end, as its file is another
    /// now, is what it was for as long as it is heard.
    pub fn blob(&self, name: &str) -> Option<String> {
        lock(&self.blobs).get(name).cloned()
    }

    /// End all services, and wait for it.
    pub async fn stop(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.stop_all().await;
        }
        self.over.store(true, Ordering::Release);
    }
}

/// A service that runs.
struct Counter {
    courier: Courier,
    input: Input,
    /// Chats in which somebody waits for an answer, with their sessions.
    waiting: BTreeMap<String, String>,
    /// Messages that are in their inboxes and not acknowledged yet. As long as they are not,
    /// their lines take up room, so that nobody is told faster than they listen.
    taken: VecDeque<(String, Room)>,
    /// How many of them are on disk.
    flushed: usize,
}

impl Counter {
    fn say(&mut self, outbound: &Outbound) {
        let line = self.courier.line(outbound);
        // One that does not read is ended by its keeper, and gets everything again.
        self.input.send(line);
    }
}

impl Host {
    /// Let services report from now on.
    pub(in crate::organs::always) fn open_desk(&self) -> Option<UnboundedReceiver<Event>> {
        let (keeper, events) = Keeper::new(self.home().file("logs"));
        self.always.desk.keeper.set(keeper).ok().map(|()| events)
    }

    /// Hear services and carry letters until the host ends.
    pub(in crate::organs::always) async fn keep_desk(
        self: Arc<Self>,
        mut events: UnboundedReceiver<Event>,
    ) {
        let mut counters = BTreeMap::new();
        let mut typed = Instant::now();
        loop {
            // What services still said is heard to its end.
            if self.always.desk.over.load(Ordering::Acquire) && events.is_empty() {
                return lock(&self.always.desk.equipment).clear();
            }
            let nap = self.deliver(&mut counters);
            let typing = counters.values().any(|counter: &Counter| !counter.waiting.is_empty());
            let behind = counters.values().any(|counter| !counter.taken.is_empty());
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.report(&mut counters, event).await;
                    // What has come meanwhile waits for the disk together.
                    for _ in 0..BATCH {
                        let Ok(event) = events.try_recv() else { break };
                        self.report(&mut counters, event).await;
                    }
                    self.acknowledge(&mut counters);
                    // However much a service says at once, it is given what it is told.
                    tokio::task::yield_now().await;
                }
                () = self.always.mail.notified() => {}
                () = tokio::time::sleep(nap.unwrap_or_default()), if nap.is_some() => {}
                () = tokio::time::sleep(BEHIND), if behind => self.acknowledge(&mut counters),
                () = tokio::time::sleep_until(typed + TYPING), if typing => {
                    typed = Instant::now();
                    self.type_on(&mut counters);
                }
            }
        }
    }

    /// Services may have it forgotten what they gave, once it is on disk.
    fn acknowledge(&self, counters: &mut BTreeMap<String, Counter>) {
        if counters.values().any(|counter| counter.flushed < counter.taken.len()) {
            if let Err(error) = self.state.flush() {
                self.fault(Kind::Host, "", &format!("{error:#}"));
                // Whoever is not answered gives it again in its next run.
                return counters.retain(|_, counter| counter.taken.is_empty());
            }
            for counter in counters.values_mut() {
                counter.flushed = counter.taken.len();
            }
        }
        for counter in counters.values_mut() {
            while counter.input.room() > RESERVE
                && let Some((id, _room)) = counter.taken.pop_front()
            {
                counter.flushed -= 1;
                counter.say(&Outbound::Ack { id });
            }
        }
    }

    async fn report(self: &Arc<Self>, counters: &mut BTreeMap<String, Counter>, event: Event) {
        let now = self.always.clock.now().as_second();
        match event {
            Event::Started { name, blob, sender } => {
                let blob = blob.map(|blob| (name.clone(), blob.to_string()));
                lock(&self.always.desk.blobs).extend(blob);
                let mut courier = Courier::new(&name);
                let started = courier.started(&self.state, now);
                self.complain(&name, started);
                self.noted(Kind::Service, &name, "started");
                let waiting = BTreeMap::new();
                let (taken, flushed) = (VecDeque::new(), 0);
                let counter = Counter { courier, input: sender, waiting, taken, flushed };
                counters.insert(name, counter);
            }
            Event::Ended { name, how, ran } => {
                lock(&self.always.desk.blobs).remove(&name);
                if let Some(mut counter) = counters.remove(&name) {
                    self.complain(&name, counter.courier.stopped(&self.state));
                }
                let ran = ran.as_secs();
                self.happened(Kind::Service, &name, &format!("ran for {ran} s: {how}"));
            }
            Event::Quarantined { name, why } => self.tell_quarantine(&name, &why),
            Event::Line { name, line, room } => {
                let Some(counter) = counters.get_mut(&name) else { return };
                if let Err(error) = self.take_line(&name, (&line, room), counter, now).await {
                    self.fault(Kind::Channel, &name, &format!("{error:#}"));
                    // Its input ends with this, and so does it: what was not acknowledged
                    // comes again in its next run.
                    counters.remove(&name);
                }
            }
        }
    }

    /// Have the owner told where something failed that should not.
    pub(in crate::organs::always) fn complain(&self, name: &str, done: Result<()>) {
        if let Err(error) = done {
            self.fault(Kind::Host, name, &format!("{error:#}"));
        }
    }

    /// A service printed a line.
    async fn take_line(
        self: &Arc<Self>,
        name: &str,
        (line, room): (&str, Room),
        counter: &mut Counter,
        now: i64,
    ) -> Result<()> {
        let heard = heard(line);
        match &heard {
            Heard::NotJson | Heard::Unknown => {
                self.always.desk.keeper().into_iter().for_each(|keeper| keeper.note(name, line));
                return Ok(());
            }
            Heard::Wrong { id, why } => {
                if let Some(keeper) = self.always.desk.keeper() {
                    keeper.note(name, &format!("{why}: {line}"));
                }
                // It would come again no better.
                counter.taken.extend(id.clone().map(|id| (id, room)));
            }
            Heard::Message(message) => {
                let chat = message.chat.clone();
                let text: String = message.text.chars().take(SHOWN).collect();
                let session = self.hear_message(name, message.clone(), now).await?;
                counter.taken.push_back((message.id.clone(), room));
                if let Some((person, session)) = session {
                    let text = text.lines().next().unwrap_or_default();
                    self.happened(Kind::Channel, name, &format!("{person}: {text}"));
                    if counter.waiting.insert(chat.clone(), session).is_none() {
                        counter.say(&Outbound::Typing { chat });
                    }
                }
            }
            _ => {}
        }
        let mut channels = lock(&self.always.desk.channels);
        if !channels.iter().any(|known| known == name) {
            channels.push(name.to_owned());
        }
        drop(channels);
        match counter.courier.heard(&self.state, &heard, now)? {
            Some(News::Dead(dead)) => self.tell_dead_letter(name, &dead),
            Some(News::Delivered(_)) | None => {}
        }
        Ok(())
    }

    /// Give out what is due. How long there is nothing to do, if that is known.
    fn deliver(&self, counters: &mut BTreeMap<String, Counter>) -> Option<Duration> {
        // What is given out now could not be acknowledged any more.
        if self.phase() != Phase::Open {
            return None;
        }
        let now = self.always.clock.now().as_second();
        let mut wake: Option<i64> = None;
        for (name, counter) in counters {
            let due = counter.courier.due(&self.state, now).and_then(|(out, dead)| {
                for outbound in &out {
                    counter.say(outbound);
                }
                for dead in &dead {
                    self.tell_dead_letter(name, dead);
                }
                counter.courier.wake(&self.state)
            });
            match due {
                Ok(due) => wake = wake.into_iter().chain(due).min(),
                Err(error) => self.fault(Kind::Channel, name, &format!("{error:#}")),
            }
        }
        let wake = Timestamp::from_second(wake?).ok();
        Some(self.always.clock.nap(wake))
    }

    /// Whoever waits for an answer that is being worked on is told so.
    fn type_on(&self, counters: &mut BTreeMap<String, Counter>) {
        for counter in counters.values_mut() {
            counter.waiting.retain(|_, session| self.lane(session).busy());
            for chat in counter.waiting.keys().cloned().collect::<Vec<_>>() {
                counter.say(&Outbound::Typing { chat });
            }
        }
    }

    fn tell_dead_letter(&self, channel: &str, dead: &Dead) {
        let Dead { letter, error } = dead;
        if letter.to.is_none() {
            // Another one to the same place would come to nothing, too: a terminal shows it.
            let text = format!("A message to you could not be delivered: {error}");
            return self.fault(Kind::Channel, channel, &text);
        }
        let text = format!(
            "A message could not be delivered through {channel} and is given up ({error}):\n{}",
            letter.shown()
        );
        self.tell_owner(&format!("dead-letter:{}", letter.key), Kind::Channel, &text);
    }
}
