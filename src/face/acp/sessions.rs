//! The conversations that a client has open: begun, gone on with, listed, closed.
//!
//! Owns their names and that each is watched from when it is opened, wherever its turns come
//! from. Does not know what is said in them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::face::acp::protocol::{Begin, Fault, List, NOT_FOUND, PARAMS};
use crate::face::acp::updates::{Replay, View, note, replay};
use crate::face::acp::{Acp, Of, commands};
use crate::face::asking::visible;
use crate::face::screen::{Place, write};
use crate::kernel::event::Event;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Verb};

/// A conversation that a client has open.
pub(super) struct Open {
    /// What of it the client is shown.
    pub(super) view: View,
    /// What the model is told with the next message.
    pub(super) note: Option<String>,
    /// The model that the command line names, until another one is chosen.
    pub(super) model: Option<String>,
    /// The latest turn of which the end was shown.
    pub(super) shown: u64,
    watching: Option<AbortHandle>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watching.iter().for_each(AbortHandle::abort);
    }
}

impl Acp {
    /// `session/new`.
    pub(super) async fn begin(&mut self, id: &Value, begin: Begin) -> Result<(), Fault> {
        let note = note(&folder(&begin)?, &self.home.workspace());
        let session = self.named.clone().unwrap_or_else(|| self.fresh_name());
        self.open(&session, note).await?;
        self.answer(id, Ok(json!({"sessionId": session})));
        self.update(&session, &commands::available());
        Ok(())
    }

    /// `session/load`, which tells all that happened so far before it answers, and
    /// `session/resume`, which does not.
    pub(super) async fn go_on(
        &mut self,
        id: &Value,
        begin: Begin,
        tell: bool,
    ) -> Result<(), Fault> {
        let note = note(&folder(&begin)?, &self.home.workspace());
        let Some(session) = begin.session_id else {
            return Err(Fault::new(PARAMS, "which session? sessionId is missing"));
        };
        sessions::check_name(&session)?;
        if !self.home.transcript(&session).exists() {
            let why = format!("there is no session {session}; session/list lists them");
            return Err(Fault::new(NOT_FOUND, why));
        }
        // From here on nothing is missed.
        self.open(&session, note.clone()).await?;
        let (home, name) = (self.home.clone(), session.clone());
        let read = tokio::task::spawn_blocking(move || replay(&home, &name, note.as_deref()));
        let Replay { updates, calls, noted } = read.await.map_err(anyhow::Error::from)??;
        let open = self.opened(&session)?;
        open.note = open.note.take().filter(|_| !noted);
        if tell {
            open.view.go_on(calls);
            for update in &updates {
                self.update(&session, update);
            }
        }
        self.answer(id, Ok(json!({})));
        self.update(&session, &commands::available());
        Ok(())
    }

    /// `session/list`. A conversation belongs to no folder of an editor, so it is said to be of
    /// whichever one is asked for, and can be gone on with from everywhere.
    pub(super) fn list(&self, list: &List) -> Result<Value, Fault> {
        let folder = list.cwd.clone().map_or_else(|| self.home.workspace(), PathBuf::from);
        let listed = sessions::list(&self.home)?;
        // What an agent began for itself is its own.
        let owners = listed.into_iter().filter(|one| one.parent.is_none() && !one.ended);
        let shown = owners.map(|one| {
            let at = one.last.parse::<jiff::civil::DateTime>().ok();
            let at = at.and_then(|at| at.to_zoned(jiff::tz::TimeZone::system()).ok());
            let at = at.map(|at| at.timestamp().to_string());
            json!({"sessionId": one.name, "cwd": folder, "title": one.about, "updatedAt": at})
        });
        Ok(json!({"sessions": shown.collect::<Vec<_>>()}))
    }

    /// `session/close`.
    pub(super) async fn close(&mut self, session: &str) -> Result<(), Fault> {
        self.opened(session)?;
        self.cancel(|prompt| prompt.session == session).await;
        self.sessions.remove(session);
        Ok(())
    }

    /// A conversation that the client has open.
    pub(super) fn opened(&mut self, session: &str) -> Result<&mut Open, Fault> {
        self.sessions.get_mut(session).ok_or_else(|| {
            let why =
                format!("session {session} is not open: session/new or session/load comes first");
            Fault::new(NOT_FOUND, why)
        })
    }

    async fn open(&mut self, session: &str, note: Option<String>) -> Result<(), Fault> {
        // One that is open already is not left unwatched: somebody may wait for its turn.
        if let Some(open) = self.sessions.get_mut(session) {
            open.note = note;
            return Ok(());
        }
        let (view, model) = (View::of(&self.home, session), self.model.clone());
        let open = Open { view, note, model, shown: 0, watching: None };
        self.sessions.insert(session.to_owned(), open);
        self.watch(session).await.inspect_err(|_| _ = self.sessions.remove(session))
    }

    /// Hear all that happens in a session from now on.
    pub(super) async fn watch(&mut self, session: &str) -> Result<(), Fault> {
        let verb = Verb::Watch { session: session.to_owned(), answers: true };
        let mut heard = self.link.ask(verb).await?;
        // The first answer says that nothing is missed any more. None comes from a host that
        // has just ended, which is found out with the next.
        if let Some(Answer::Refused { why, .. }) = heard.recv().await {
            return Err(anyhow::Error::msg(why).into());
        }
        let watching = self.listen(heard, Of::Session(session.to_owned()));
        if let Some(before) = self.opened(session)?.watching.replace(watching) {
            before.abort();
        }
        Ok(())
    }

    /// Something happened in a session.
    pub(super) fn happened(&mut self, session: &str, answer: Answer) {
        let Ok(open) = self.opened(session) else { return };
        match answer {
            Answer::Event(event) => {
                let updates = open.view.event(&event);
                if let Event::TurnEnded { turn, .. } = event {
                    open.shown = turn;
                }
                for update in &updates {
                    self.update(session, update);
                }
                self.end_prompts(session);
            }
            Answer::Asked(asked) => self.asked(session, &asked),
            _ => {}
        }
    }

    /// A name for a conversation. Several of these programs may name some at the same time, long
    /// before the first message makes one, so the day alone does not do.
    fn fresh_name(&self) -> String {
        let day = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
        loop {
            let name = format!("{day}-{:06x}", fastrand::u32(..1 << 24));
            if !self.home.transcript(&name).exists() && !self.sessions.contains_key(&name) {
                return name;
            }
        }
    }
}

/// The folder of the client's project.
fn folder(begin: &Begin) -> Result<PathBuf, Fault> {
    let path = Path::new(&begin.cwd);
    if !path.is_absolute() {
        let why = format!("cwd is not an absolute path: {}", visible(&begin.cwd));
        return Err(Fault::new(PARAMS, why));
    }
    if !begin.mcp_servers.is_empty() {
        let text =
            "MCP servers are not used: the agent's tools are bash and files in its workspace.";
        // Nobody may be there to read it.
        let _ = write(Place::Err, text);
    }
    // It is told to the model, in one line.
    Ok(visible(&begin.cwd).into())
}
