//! Requests for more, put to the client.
//!
//! Owns how a request is shown there, and which of its answers counts as what. Everything that
//! is not a clear yes is a no. Gives nothing itself.

use serde_json::{Value, json};

use crate::face::acp::calls::words;
use crate::face::acp::updates::thought;
use crate::face::acp::{Acp, protocol};
use crate::face::asking::{told, visible};
use crate::face::views;
use crate::organs::reach::asks::{Asked, Said};
use crate::organs::reach::item::Item;
use crate::organs::verb::Verb;

/// A question that the client has not answered.
pub(super) struct Permission {
    session: String,
    /// The request's number.
    ask: i64,
    lasting: bool,
}

impl Acp {
    /// More is asked for in a session, or what was is over.
    pub(super) fn asked(&mut self, session: &str, asked: &Asked) {
        let known = self.permissions.iter().find(|(_, one)| one.ask == asked.id);
        let known = known.map(|(number, _)| *number);
        match (asked.answer, known) {
            (None, None) => {
                let number = self.number();
                let (ask, lasting) = (asked.id, asked.lasting);
                let permission = Permission { session: session.to_owned(), ask, lasting };
                self.permissions.insert(number, permission);
                let method = "session/request_permission";
                let params = question(session, asked);
                // Not every client makes a call of what it is asked about.
                let mut begun = params["toolCall"].clone();
                begun["sessionUpdate"] = "tool_call".into();
                self.update(session, &begun);
                self.out.line(protocol::tell(Some(number), method, &params));
            }
            (Some(said), known) => {
                known.map(|number| self.permissions.remove(&number));
                let given = matches!(said, Said::Yes | Said::Always);
                let update = json!({
                    "sessionUpdate": "tool_call_update",
                    "toolCallId": call(asked.id),
                    "status": if given { "completed" } else { "failed" },
                    "content": [words(&told(asked))],
                });
                self.update(session, &update);
            }
            (None, Some(_)) => {}
        }
    }

    /// The client answered. What it could not answer it was asked in vain, which is a no.
    pub(super) async fn permitted(&mut self, id: &Value, result: Option<&Value>) {
        let number = id.as_u64().unwrap_or_default();
        let Some(permission) = self.permissions.remove(&number) else { return };
        let Permission { session, ask: id, lasting } = permission;
        let chosen = result.and_then(|result| result["outcome"]["optionId"].as_str());
        let said = match chosen.and_then(Said::parse) {
            Some(Said::Always) if lasting => Said::Always,
            Some(Said::Yes) => Said::Yes,
            _ => Said::No,
        };
        let asked = self.link.ask(Verb::Answer { id, said }).await;
        let why = match asked {
            Ok(mut answers) => views::answer(&mut answers, |_| {}).await.err(),
            Err(error) => Some(error),
        };
        // A yes may come too late; a no that does makes no difference.
        if let Some(why) = why.filter(|_| said != Said::No) {
            self.update(&session, &thought(&format!("{why:#}\n")));
        }
    }
}

fn call(ask: i64) -> String {
    format!("ask-{ask}")
}

fn question(session: &str, asked: &Asked) -> Value {
    let Asked { id, item, reason, lasting, .. } = asked;
    let shown = visible(&item.to_string());
    let kind = match item {
        Item::Read(_) => "read",
        Item::Write(_) => "edit",
        Item::Network(_) => "fetch",
        _ => "other",
    };
    let of = if asked.session == session {
        String::new()
    } else {
        format!(" Conversation: {}.", asked.session)
    };
    let why = format!("Why, in the agent's words: {}\n\n{}{of}", visible(reason), item.cost());
    let option = |said: Said, kind: &str, name: &str| json!({"optionId": said.word(), "kind": kind, "name": name});
    let mut options = vec![option(Said::Yes, "allow_once", "Allow for this conversation")];
    if *lasting {
        options.push(option(Said::Always, "allow_always", "Allow always (config.toml)"));
    }
    options.push(option(Said::No, "reject_once", "Reject"));
    json!({
        "sessionId": session,
        "toolCall": {
            "toolCallId": call(*id),
            "title": format!("Allow tool calls to: {shown}"),
            "kind": kind,
            "status": "pending",
            "content": [words(&why)],
        },
        "options": options,
    })
}
