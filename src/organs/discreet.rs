//! A model from which no secret comes, and to which the prompt carries none.
//!
//! Owns what of a reply, of its pieces and of a failure is cleared: a model may have seen a
//! value, and a server may repeat the key it was shown. What the conversation holds was
//! cleared on its way there. Knows no wire.

use std::sync::Arc;

use crate::files::withheld::{Stream, Withheld};
use crate::kernel::message::{Assistant, Block, Call};
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};
use crate::organs::around::Around;

/// A model, and what is withheld of what it says.
pub struct Discreet {
    model: Arc<dyn Model>,
    withheld: Withheld,
}

impl Around for Discreet {
    fn within(&self) -> &dyn Model {
        &*self.model
    }

    fn pass<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(async move {
            // Skills and memory may hold one.
            let system = self.withheld.text(request.system.to_owned());
            let request = Request { system: &system, ..*request };
            let mut pieces = Pieces::new(&self.withheld, deltas);
            let said = self.model.ask(&request, &mut |delta| pieces.hear(delta)).await;
            pieces.end();
            said.map(|reply| self.reply(reply)).map_err(|failure| self.failure(failure))
        })
    }
}

impl Discreet {
    /// This model, from which nobody hears what is withheld.
    pub fn over(model: Arc<dyn Model>, withheld: &Withheld) -> Arc<dyn Model> {
        Arc::new(Self { model, withheld: withheld.clone() })
    }

    fn reply(&self, reply: Assistant) -> Assistant {
        let text = |text| self.withheld.text(text);
        let blocks = reply.blocks.into_iter().filter_map(|block| match block {
            Block::Text(said) => Some(Block::Text(text(said))),
            Block::Call(Call { id, name, input }) => {
                let input = self.withheld.json(input);
                Some(Block::Call(Call { id: text(id), name: text(name), input }))
            }
            // It is signed: changed, it would be refused.
            Block::Opaque { value, .. } if self.holds_one(&value) => None,
            opaque @ Block::Opaque { .. } => Some(opaque),
        });
        Assistant { blocks: blocks.collect(), model: text(reply.model), ..reply }
    }

    fn holds_one(&self, value: &serde_json::Value) -> bool {
        self.withheld.finds(value.to_string().as_bytes()).is_some()
    }

    fn failure(&self, failure: Failure) -> Failure {
        let text = |text| self.withheld.text(text);
        match failure {
            Failure::Transient { message, retry_after } => {
                Failure::Transient { message: text(message), retry_after }
            }
            Failure::Overflow(why) => Failure::Overflow(text(why)),
            Failure::Fatal(why) => Failure::Fatal(text(why)),
        }
    }
}

/// What is heard while a reply arrives, each kind cleared across its pieces.
struct Pieces<'a> {
    withheld: &'a Withheld,
    text: Stream,
    thinking: Stream,
    raw: Stream,
    deltas: Deltas<'a>,
}

impl<'a> Pieces<'a> {
    fn new(withheld: &'a Withheld, deltas: Deltas<'a>) -> Self {
        let stream = || withheld.stream();
        Self { withheld, text: stream(), thinking: stream(), raw: stream(), deltas }
    }

    fn hear(&mut self, delta: Delta<'_>) {
        match delta {
            Delta::Sent(body) => {
                // What is held back belongs to the request before.
                self.end();
                (self.deltas)(Delta::Sent(&self.withheld.text(body.to_owned())));
            }
            Delta::Raw(bytes) => (self.deltas)(Delta::Raw(&self.raw.push(bytes))),
            Delta::Text(text) => said(&self.text.push_text(text), Delta::Text, self.deltas),
            Delta::Thinking(text) => {
                said(&self.thinking.push_text(text), Delta::Thinking, self.deltas);
            }
            Delta::Retry { wait, why } => {
                let why = self.withheld.text(why.to_owned());
                (self.deltas)(Delta::Retry { wait, why: &why });
            }
        }
    }

    /// Nothing more comes: pass on what was held back.
    fn end(&mut self) {
        let raw = self.raw.finish();
        if !raw.is_empty() {
            (self.deltas)(Delta::Raw(&raw));
        }
        let rest = |stream: &mut Stream| String::from_utf8_lossy(&stream.finish()).into_owned();
        said(&rest(&mut self.thinking), Delta::Thinking, self.deltas);
        said(&rest(&mut self.text), Delta::Text, self.deltas);
    }
}

/// Pass on a piece, unless all of it is held back.
fn said<'a>(text: &'a str, delta: fn(&'a str) -> Delta<'a>, deltas: Deltas<'_>) {
    if !text.is_empty() {
        deltas(delta(text));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::kernel::message::{Stop, Usage};

    const VALUE: &str = "sk-canary-12345";

    /// Says the value in every way it has, and remembers the prompt.
    struct Tattler {
        fails: bool,
        prompt: Mutex<String>,
    }

    impl Model for Tattler {
        fn name(&self) -> &'static str {
            "tattler"
        }

        fn window(&self) -> u64 {
            1
        }

        fn ask<'a>(
            &'a self,
            request: &'a Request<'a>,
            deltas: Deltas<'a>,
        ) -> Boxed<'a, Result<Assistant, Failure>> {
            request.system.clone_into(&mut self.prompt.lock().unwrap());
            Box::pin(async move {
                deltas(Delta::Sent(VALUE));
                let (wait, why) = (Duration::ZERO, VALUE);
                deltas(Delta::Retry { wait, why });
                for half in ["ä sk-can", "ary-12345", " sk"] {
                    deltas(Delta::Raw(half.as_bytes()));
                    deltas(Delta::Thinking(half));
                    deltas(Delta::Text(half));
                }
                let message = format!("key {VALUE} is wrong");
                if self.fails {
                    return Err(Failure::Transient { message, retry_after: None });
                }
                let call = |input| Call { id: VALUE.to_owned(), name: "bash".to_owned(), input };
                let opaque = |value| Block::Opaque { wire: "w".to_owned(), value };
                let blocks = vec![
                    Block::Text(message),
                    opaque(json!({ "thinking": VALUE })),
                    opaque(json!({ "thinking": "none" })),
                    Block::Call(call(json!({ "command": format!("echo {VALUE}") }))),
                ];
                let (model, usage) = (VALUE.to_owned(), Usage::default());
                Ok(Assistant { blocks, stop: Stop::End, model, usage })
            })
        }
    }

    async fn ask(fails: bool) -> (Vec<String>, Result<Assistant, Failure>, String) {
        let withheld = Withheld::default();
        withheld.learn([("KEY".to_owned(), VALUE.to_owned())]).unwrap();
        let tattler = Arc::new(Tattler { fails, prompt: Mutex::default() });
        let model = Discreet::over(tattler.clone(), &withheld);
        let system = format!("The key is {VALUE}.");
        let request = Request { system: &system, tools: &[], messages: &[] };
        let mut heard = Vec::new();
        let mut hear = |delta: Delta<'_>| {
            heard.push(match delta {
                Delta::Sent(text) | Delta::Retry { why: text, .. } => text.to_owned(),
                Delta::Raw(bytes) => format!("raw {}", String::from_utf8_lossy(bytes)),
                Delta::Thinking(text) => format!("thinking {text}"),
                Delta::Text(text) => format!("text {text}"),
            });
        };
        let said = model.ask(&request, &mut hear).await;
        let prompt = tattler.prompt.lock().unwrap().clone();
        (heard, said, prompt)
    }

    #[tokio::test]
    async fn nothing_that_it_says_holds_a_value() {
        let marker = "[secret KEY withheld]";
        let (heard, said, prompt) = ask(false).await;
        let mut expected = vec![marker.to_owned(); 2];
        for piece in ["ä ", marker, " "] {
            expected.extend(["raw", "thinking", "text"].map(|kind| format!("{kind} {piece}")));
        }
        expected.extend(["raw sk", "thinking sk", "text sk"].map(str::to_owned));
        assert_eq!(heard, expected);
        let reply = said.unwrap();
        assert_eq!(reply.text(), format!("key {marker} is wrong"));
        assert_eq!(reply.blocks.len(), 3);
        let call = reply.calls().next().unwrap();
        assert_eq!(call.input["command"], format!("echo {marker}"));
        assert!(!format!("{reply:?}").contains(VALUE));
        assert_eq!(prompt, format!("The key is {marker}."));
    }

    #[tokio::test]
    async fn a_failure_repeats_no_key_and_what_was_held_back_is_told_before_it() {
        let (heard, said, _) = ask(true).await;
        assert_eq!(heard.last().map(String::as_str), Some("text sk"));
        assert_eq!(said.unwrap_err().to_string(), "key [secret KEY withheld] is wrong");
    }
}
