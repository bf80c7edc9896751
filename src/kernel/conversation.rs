//! A transcript's lines folded into a conversation that every provider accepts.
//!
//! Keeps one invariant: whatever lines are taken, in whatever order, each call is followed
//! by its one result and no result lacks its call. Does no IO and knows no model.

use std::collections::HashSet;

use crate::kernel::message::{Assistant, Block, Call, CallResult, Incoming, Message, Stop};
use crate::kernel::session::{Entry, Line};

/// What a call without a recorded result is answered with.
const UNRECORDED: &str = "interrupted: no result was recorded; it may have run in part";

/// The conversation so far.
#[derive(Debug, Default)]
pub struct Conversation {
    /// As a model sees it; valid for a request once nothing is owed.
    pub messages: Vec<Message>,
    /// The number of the latest turn; 0 before the first.
    pub turn: u64,
    /// Whether that turn has begun and not ended.
    pub open: bool,
    /// Whether it was ended for good.
    pub ended: bool,
    /// The keys of all messages taken.
    pub keys: HashSet<String>,
    /// What could not be made sense of, in sentences.
    pub notices: Vec<String>,
    /// The ids of all calls so far.
    ids: HashSet<String>,
}

impl Conversation {
    /// Take the next line.
    pub fn take(&mut self, Entry { at, line }: Entry) {
        match line {
            Line::Session { .. } | Line::Foreign => {}
            Line::User { turn, incoming } => {
                self.turn = turn;
                self.open = true;
                let Incoming { key, origin, text, images } = incoming;
                self.keys.insert(key);
                let text = format!("[{}]\n{text}", stamp(&at));
                self.push(Message::User { origin, text, images });
            }
            Line::Assistant(reply) => self.take_reply(reply),
            Line::Result(result) => self.take_result(result),
            Line::Note { text } => self.push(Message::Note(text)),
            Line::Summary { text, keep } => {
                self.close();
                let mut tail = self.messages.split_off(self.messages.len().saturating_sub(keep));
                // Results without their calls would make the conversation invalid.
                if matches!(tail.first(), Some(Message::Results(_))) {
                    tail.remove(0);
                }
                self.messages = vec![Message::Note(text)];
                self.messages.append(&mut tail);
            }
            Line::TurnEnd { .. } => self.open = false,
            Line::Ended => self.ended = true,
        }
    }

    fn take_reply(&mut self, mut reply: Assistant) {
        // Of a reply that did not arrive whole only its words count: half a call or
        // unsigned thinking would be refused by the provider.
        if reply.stop == Stop::Cut {
            reply.blocks.retain(|block| matches!(block, Block::Text(_)));
        }
        reply.blocks.retain(|block| !matches!(block, Block::Text(text) if text.trim().is_empty()));
        self.ids.extend(reply.calls().map(|call| call.id.clone()));
        if !reply.blocks.is_empty() {
            self.push(Message::Assistant(reply));
        }
    }

    /// Give a new id to each call whose id an earlier one has: some servers count anew in
    /// each reply, and providers want ids to be unique in a conversation.
    pub fn name_apart(&mut self, reply: &mut Assistant) {
        for block in &mut reply.blocks {
            let Block::Call(call) = block else { continue };
            while !self.ids.insert(call.id.clone()) {
                call.id = format!("{}_{}", call.id, self.ids.len());
            }
        }
    }

    fn take_result(&mut self, result: CallResult) {
        let known = self.owed().iter().any(|call| call.id == result.id);
        match self.messages.last_mut() {
            _ if !known => {
                let why = format!("a result without a call was skipped: {}", result.id);
                self.notices.push(why);
            }
            Some(Message::Results(results)) => results.push(result),
            _ => self.messages.push(Message::Results(vec![result])),
        }
    }

    fn push(&mut self, message: Message) {
        self.close();
        self.messages.push(message);
    }

    /// What answers the calls at its end that have no result yet.
    pub fn missing(&self) -> Vec<CallResult> {
        let missing = |call: Call| CallResult {
            id: call.id,
            text: UNRECORDED.to_owned(),
            error: true,
            images: Vec::new(),
        };
        self.owed().into_iter().map(missing).collect()
    }

    fn owed(&self) -> Vec<Call> {
        let (reply, results) = match self.messages.as_slice() {
            [.., Message::Assistant(reply), Message::Results(results)] => {
                (reply, results.as_slice())
            }
            [.., Message::Assistant(reply)] => (reply, [].as_slice()),
            _ => return Vec::new(),
        };
        let answered = |call: &&Call| !results.iter().any(|result| result.id == call.id);
        reply.calls().filter(answered).cloned().collect()
    }

    /// Fill in every owed result.
    fn close(&mut self) {
        for result in self.missing() {
            self.take_result(result);
        }
    }
}

/// `2026-11-21T09:00:05+01:00` as the model reads it: to the minute.
fn stamp(at: &str) -> String {
    let (date, rest) = at.split_once('T').unwrap_or((at, ""));
    let zone = rest.get(8..).unwrap_or_default();
    format!("{date} {} {zone}", rest.get(..5).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kernel::message::{Origin, Usage};

    fn lines() -> impl Strategy<Value = Line> {
        let id = || (0..4_u8).prop_map(|id| format!("call_{id}"));
        let call = id().prop_map(|id| {
            Block::Call(Call { id, name: "bash".to_owned(), input: json!({"command": "ls"}) })
        });
        let text =
            prop_oneof![Just(" ".to_owned()), Just("words".to_owned())].prop_map(Block::Text);
        let thought = Just(Block::Opaque { wire: "w".to_owned(), value: json!({"t": 1}) });
        let stop = prop_oneof![Just(Stop::End), Just(Stop::Cut), Just(Stop::MaxTokens)];
        let reply = (prop::collection::vec(prop_oneof![call, text, thought], 0..4), stop);
        let result = id().prop_map(|id| CallResult {
            id,
            text: "done".to_owned(),
            error: false,
            images: Vec::new(),
        });
        let incoming = Incoming {
            key: "k".to_owned(),
            origin: Origin::Owner,
            text: "t".to_owned(),
            images: Vec::new(),
        };
        prop_oneof![
            Just(Line::User { turn: 1, incoming }),
            reply.prop_map(|(blocks, stop)| {
                let (model, usage) = ("m".to_owned(), Usage::default());
                Line::Assistant(Assistant { blocks, stop, model, usage })
            }),
            result.prop_map(Line::Result),
            Just(Line::Note { text: "n".to_owned() }),
            (0..5_usize).prop_map(|keep| Line::Summary { text: "s".to_owned(), keep }),
            Just(Line::Foreign),
        ]
    }

    proptest! {
        /// Lines may be lost, torn or doubled in any way: what comes out can be sent.
        #[test]
        fn any_lines_make_a_valid_conversation(lines in prop::collection::vec(lines(), 0..24)) {
            let mut conversation = Conversation::default();
            for mut line in lines {
                // As the transcript's writer does; a foreign file is the readers' problem.
                if let Line::Assistant(reply) = &mut line {
                    conversation.name_apart(reply);
                }
                conversation.take(Entry { at: "2026-11-21T09:00:05+01:00".to_owned(), line });
            }
            conversation.close();
            let mut owed: Vec<String> = Vec::new();
            for message in &conversation.messages {
                if let Message::Results(results) = message {
                    let mut answered: Vec<_> = results.iter().map(|one| one.id.clone()).collect();
                    answered.sort();
                    owed.sort();
                    prop_assert_eq!(&answered, &owed);
                    owed.clear();
                    continue;
                }
                prop_assert!(owed.is_empty(), "calls without results: {:?}", owed);
                if let Message::Assistant(reply) = message {
                    prop_assert!(!reply.blocks.is_empty());
                    owed = reply.calls().map(|call| call.id.clone()).collect();
                    prop_assert!(reply.stop != Stop::Cut || owed.is_empty());
                }
            }
            prop_assert!(owed.is_empty(), "calls without results: {:?}", owed);
        }
    }

    #[test]
    fn a_message_carries_its_time_and_its_origin() {
        let mut conversation = Conversation::default();
        let origin = Origin::Agent("a".to_owned());
        let incoming = Incoming {
            key: "k".to_owned(),
            origin: origin.clone(),
            text: "hi".to_owned(),
            images: Vec::new(),
        };
        let line = Line::User { turn: 1, incoming };
        conversation.take(Entry { at: "2026-11-21T09:00:05+01:00".to_owned(), line });
        let text = "[2026-11-21 09:00 +01:00]\nhi".to_owned();
        assert_eq!(conversation.messages, [Message::User { origin, text, images: Vec::new() }]);
    }
}
