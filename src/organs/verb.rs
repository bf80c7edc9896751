//! What can be asked of a host, by whom, and how it answers.
//!
//! Owns the requests and answers that the doors carry, and the one table that says which
//! authority each needs. Knows neither sockets nor how anything is done.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::guard::policy::Link;
use crate::kernel::event::Event;
use crate::organs::always::background::Happening;
use crate::organs::history::ask::Ask;
use crate::organs::reach::asks::{Asked, Said};
use crate::organs::reach::item::Item;
use crate::organs::recall::Wanted;

/// The version of this protocol. A door refuses another one by name.
pub const VERSION: u32 = 1;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// Say something in a session; answers with the events of the turn it belongs to.
    Run {
        /// The session; a new one when none is named.
        session: Option<String>,
        /// What is said.
        text: String,
        /// Made by the asker, so that asking again cannot say it twice.
        key: String,
        /// The model to ask.
        model: Option<String>,
        /// Whether it may join a turn under way instead of waiting for its own.
        steer: bool,
        /// The branch to run on, in a checkout of its own, instead of in the workspace.
        branch: Option<String>,
        /// The link by which a session that begins may do less than the one that asks.
        #[serde(default)]
        only: Option<Box<Link>>,
        /// Files that go with it, as absolute paths: they are copied into the workspace's
        /// `inbox/`, and pictures among them are shown to the model.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<PathBuf>,
    },
    /// Everything that happens in a session, until the asker goes. A value comes first:
    /// from then on nothing is missed.
    Watch {
        /// The session.
        session: String,
        /// Whether somebody is there who can answer its requests for more.
        #[serde(default)]
        answers: bool,
    },
    /// Stop the running turn.
    Stop {
        /// The session; all of them when none is named.
        session: Option<String>,
    },
    /// Take back what was said: out of the line, or by stopping the turn that answers it.
    TakeBack {
        /// The key it was said with.
        key: String,
    },
    /// What sessions there are.
    Sessions,
    /// End a session for good.
    End {
        /// The session.
        session: String,
    },
    /// What went over the wire.
    Wire {
        /// The session; the latest when none is named.
        session: Option<String>,
        /// The turn; the latest when none is named.
        turn: Option<u64>,
    },
    /// What was said and done in a session, so that it can be played and tried again.
    Recording {
        /// The session; the latest when none is named.
        session: Option<String>,
        /// The first turn that is wanted.
        from: u64,
    },
    /// What was used.
    Usage {
        /// From this day on, as `2026-11-21`.
        #[serde(default)]
        since: Option<String>,
        /// In so many days, today the last of them.
        #[serde(default)]
        days: Option<u64>,
    },
    /// What was said in past conversations.
    Recall(Wanted),
    /// The harness as a session sees it.
    About {
        /// The session; the latest when none is named.
        session: Option<String>,
    },
    /// Summarise a session's conversation now.
    Compact {
        /// The session.
        session: String,
    },
    /// Choose the model of a session.
    Choose {
        /// The session.
        session: String,
        /// The model.
        model: String,
    },
    /// What a session's hands may touch.
    Policy {
        /// The session; the latest when none is named.
        session: Option<String>,
    },
    /// Give hands more, or less, for good.
    Grant {
        /// What.
        items: Vec<Item>,
        /// Whether it is given; else it is taken back.
        give: bool,
    },
    /// Keep a secret, or forget it when no value comes with it.
    Secret {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<Hidden>,
    },
    /// What secrets there are; not what they are.
    Secrets,
    /// Ask for more, from a tool call, in the name of its session; answers when it is answered.
    Ask {
        /// What.
        item: Item,
        /// What it is needed for.
        why: String,
        /// How long an answer is waited for, in seconds.
        seconds: u64,
    },
    /// Answer such a request.
    Answer {
        /// Its number.
        id: i64,
        /// The answer.
        said: Said,
    },
    /// The latest of these requests.
    Asks,
    /// What is asked of the history.
    History(Ask),
    /// What goes on without anybody asking, until the asker goes. A value comes first.
    Background {
        /// Whether it is shown to a person.
        terminal: bool,
    },
    /// How the schedule, the services, the channels and the budget stand.
    Status,
    /// Set a reminder.
    At {
        /// The session that is to go on then; the caller's own, or the latest.
        session: Option<String>,
        /// When, in words.
        when: String,
        /// What about.
        text: String,
    },
    /// The reminders that are to come.
    Agenda,
    /// Cancel a reminder.
    Cancel {
        /// Its number.
        id: i64,
    },
    /// Send words to the owner, or to the chat of a session.
    Tell {
        /// The session to whose chat they go, or in whose name the owner gets them.
        session: Option<String>,
        /// The channel by which the owner gets them.
        channel: Option<String>,
        /// The words.
        text: String,
        /// Files of the workspace that go with them, as absolute paths.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<PathBuf>,
    },
    /// Let somebody talk from a chat.
    Pair {
        /// The code that they were given.
        code: String,
        /// Who it is; the owner when nobody is named.
        person: Option<String>,
        /// The link by which their conversations may do less.
        only: Option<Box<Link>>,
        /// Whether requests for more may be answered from there.
        answers: bool,
    },
    /// Take that back.
    Unpair {
        /// The channel.
        channel: String,
        /// The person, by name or by what the channel calls them.
        person: String,
    },
    /// Who may talk from where.
    People,
    /// The log of a service; or start it again.
    Service {
        /// Its name.
        name: String,
        /// Whether it is started again.
        restart: bool,
    },
    /// Try out whether a service speaks as channels do.
    Check {
        /// Its name.
        name: String,
    },
}

/// The value of a secret on its way to where it is kept. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("hidden")
    }
}

/// A key for something said.
pub fn fresh_key() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The owner, who showed the door's key or is in the host's own process.
    Owner,
    /// A hand of this session, known by the door it came through.
    Hand(String),
}

/// The authority a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs<'a> {
    /// Only the owner.
    Owner,
    /// The owner, or a hand of this session or of one above it.
    Reach(&'a str),
    /// The owner, or a hand of a session above this one: not of this one itself.
    Below(&'a str),
    /// The owner, or a hand of the session to which this request was put.
    Approver(i64),
    /// Anybody, about what is within their reach.
    Filtered,
}

impl Verb {
    /// The session it names, if it names one.
    pub fn session(&self) -> Option<&str> {
        match self {
            Self::Run { session, .. }
            | Self::Stop { session }
            | Self::Wire { session, .. }
            | Self::Recording { session, .. }
            | Self::About { session }
            | Self::At { session, .. }
            | Self::Tell { session, .. }
            | Self::Policy { session }
            | Self::Recall(Wanted { session, .. }) => session.as_deref(),
            Self::Watch { session, .. }
            | Self::End { session }
            | Self::Compact { session }
            | Self::Choose { session, .. } => Some(session),
            Self::TakeBack { .. }
            | Self::Sessions
            | Self::Usage { .. }
            | Self::Grant { .. }
            | Self::Secret { .. }
            | Self::Secrets
            | Self::Ask { .. }
            | Self::Answer { .. }
            | Self::Asks
            | Self::History(_)
            | Self::Background { .. }
            | Self::Status
            | Self::Agenda
            | Self::Cancel { .. }
            | Self::Pair { .. }
            | Self::Unpair { .. }
            | Self::People
            | Self::Service { .. }
            | Self::Check { .. } => None,
        }
    }

    /// The authority table.
    pub fn needs(&self) -> Needs<'_> {
        match self {
            Self::Compact { .. }
            | Self::Choose { .. }
            | Self::TakeBack { .. }
            | Self::Grant { .. }
            | Self::Secret { .. }
            | Self::Secrets
            | Self::Background { .. }
            | Self::Pair { .. }
            | Self::Unpair { .. }
            | Self::People
            | Self::Run { branch: Some(_), .. } => Needs::Owner,
            Self::History(ask) if ask.is_owners() => Needs::Owner,
            Self::End { session } | Self::Run { session: Some(session), .. } => {
                Needs::Below(session)
            }
            Self::Answer { id, .. } => Needs::Approver(*id),
            Self::Watch { session, .. }
            | Self::Stop { session: Some(session) }
            | Self::Wire { session: Some(session), .. }
            | Self::Recording { session: Some(session), .. }
            | Self::About { session: Some(session) }
            | Self::At { session: Some(session), .. }
            | Self::Tell { session: Some(session), .. }
            | Self::Policy { session: Some(session) } => Needs::Reach(session),
            Self::Run { .. }
            | Self::Stop { .. }
            | Self::Wire { .. }
            | Self::Recording { .. }
            | Self::About { .. }
            | Self::Policy { .. }
            | Self::Sessions
            | Self::Usage { .. }
            | Self::Ask { .. }
            | Self::Asks
            | Self::At { .. }
            | Self::Agenda
            | Self::Cancel { .. }
            | Self::Tell { .. }
            | Self::Status
            | Self::Service { .. }
            | Self::Check { .. }
            | Self::Recall(_)
            | Self::History(_) => Needs::Filtered,
        }
    }
}

/// A piece of an answer. The last one is `Done` or `Refused`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Something happened in a turn.
    Event(Event),
    /// A request for more has come, or is over.
    Asked(Asked),
    /// Something went on without anybody asking.
    Happened(Happening),
    /// What was asked for.
    Value(Value),
    /// That is all.
    Done,
    /// It cannot be done.
    Refused {
        /// Why, and what to do about it.
        why: String,
        /// The exit code it makes.
        exit: u8,
    },
}

/// Exit codes, as `--help` tells them.
pub mod exit {
    /// The turn failed, or something else did.
    pub const FAILED: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// No model to talk to.
    pub const NO_MODEL: u8 = 3;
    /// Interrupted.
    pub const INTERRUPTED: u8 = 130;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::organs::history::ask::{Favour, Which};

    /// The authority table as it is meant, one request a row: a change of it has to be
    /// made in two places.
    #[test]
    fn the_authority_each_request_needs() {
        let s = || "s".to_owned();
        let run_on = |session, branch| {
            let (text, key, model, steer) = (String::new(), String::new(), None, false);
            Verb::Run { session, text, key, model, steer, branch, only: None, files: Vec::new() }
        };
        let run = |session| run_on(session, None);
        let recall = |session| Verb::Recall(Wanted { query: s(), session, since: None, limit: 1 });
        for (verb, needs) in [
            (run(Some(s())), Needs::Below("s")),
            (run(None), Needs::Filtered),
            (run_on(Some(s()), Some(s())), Needs::Owner),
            (run_on(None, Some(s())), Needs::Owner),
            (Verb::Watch { session: s(), answers: true }, Needs::Reach("s")),
            (Verb::Stop { session: Some(s()) }, Needs::Reach("s")),
            (Verb::Stop { session: None }, Needs::Filtered),
            (Verb::TakeBack { key: s() }, Needs::Owner),
            (Verb::Sessions, Needs::Filtered),
            (Verb::End { session: s() }, Needs::Below("s")),
            (Verb::Wire { session: Some(s()), turn: None }, Needs::Reach("s")),
            (Verb::Wire { session: None, turn: Some(1) }, Needs::Filtered),
            (Verb::Recording { session: Some(s()), from: 1 }, Needs::Reach("s")),
            (Verb::Recording { session: None, from: 1 }, Needs::Filtered),
            (Verb::Usage { since: None, days: None }, Needs::Filtered),
            (recall(Some(s())), Needs::Filtered),
            (recall(None), Needs::Filtered),
            (Verb::About { session: Some(s()) }, Needs::Reach("s")),
            (Verb::About { session: None }, Needs::Filtered),
            (Verb::Policy { session: Some(s()) }, Needs::Reach("s")),
            (Verb::Policy { session: None }, Needs::Filtered),
            (Verb::Grant { items: vec![Item::Unix], give: true }, Needs::Owner),
            (Verb::Grant { items: vec![Item::Unix], give: false }, Needs::Owner),
            (Verb::Ask { item: Item::Unix, why: s(), seconds: 1 }, Needs::Filtered),
            (Verb::Answer { id: 7, said: Said::Yes }, Needs::Approver(7)),
            (Verb::Asks, Needs::Filtered),
            (Verb::Compact { session: s() }, Needs::Owner),
            (Verb::Choose { session: s(), model: s() }, Needs::Owner),
            (Verb::Secret { name: s(), value: Some(Hidden(s())) }, Needs::Owner),
            (Verb::Secret { name: s(), value: None }, Needs::Owner),
            (Verb::Secrets, Needs::Owner),
            (Verb::History(Ask::Log { limit: 1, path: None }), Needs::Filtered),
            (Verb::History(Ask::Undo { what: Which::Turns(1), favour: None }), Needs::Filtered),
            (Verb::History(Ask::Standing), Needs::Filtered),
            (Verb::History(Ask::Backup { to: None }), Needs::Owner),
            (Verb::History(Ask::Merge { branch: s(), favour: None }), Needs::Owner),
            (Verb::History(Ask::Drop { branch: s() }), Needs::Owner),
        ] {
            assert_eq!(verb.needs(), needs, "{verb:?}");
            // A name that a request carries is checked, whatever it is asked for.
            if let Needs::Reach(name) | Needs::Below(name) = needs {
                assert_eq!(verb.session(), Some(name), "{verb:?}");
            }
        }
    }

    #[test]
    fn what_is_asked_of_the_history_goes_over_the_wire_in_one_object() {
        for (ask, written) in [
            (
                Ask::Log { limit: 5, path: None },
                r#"{"verb":"history","ask":"log","limit":5,"path":null}"#,
            ),
            (
                Ask::Undo { what: Which::Turns(2), favour: Some(Favour::Marks) },
                r#"{"verb":"history","ask":"undo","what":{"turns":2},"favour":"marks"}"#,
            ),
            (
                Ask::Undo { what: Which::LastUndo, favour: None },
                r#"{"verb":"history","ask":"undo","what":"last_undo","favour":null}"#,
            ),
            (Ask::Standing, r#"{"verb":"history","ask":"standing"}"#),
        ] {
            let verb = Verb::History(ask);
            assert_eq!(serde_json::to_string(&verb).unwrap(), written);
            assert_eq!(serde_json::from_str::<Verb>(written).unwrap(), verb);
        }
        // What an older program says has no branch.
        let run = r#"{"verb":"run","session":null,"text":"","key":"","model":null,"steer":false}"#;
        assert!(matches!(serde_json::from_str(run).unwrap(), Verb::Run { branch: None, .. }));
        let usage = serde_json::from_str(r#"{"verb":"usage"}"#).unwrap();
        assert!(matches!(usage, Verb::Usage { since: None, days: None }));
    }
}
