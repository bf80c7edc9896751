//! What a provider's wire has to be: a translation, pure on both sides.
//!
//! Owns the traits a wire implements and what every reply goes through at its end: calls
//! with parsed arguments and unique ids. A reply that is being received and one that is
//! complete are different types: the first is consumed to make the second. Knows no IO.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::kernel::message::{Assistant, Block};
use crate::kernel::model::{Deltas, Failure, Request};
use crate::wires::Endpoint;
use crate::wires::fault::Fault;
use crate::wires::sse::Event;

/// One provider's wire.
pub trait Protocol: Send + Sync {
    /// What takes its replies.
    type Partial: Partial;

    /// The path that requests go to, made of the path of the base URL, which has no slash
    /// at its end.
    fn path(base: &str) -> String;

    /// Headers of every request.
    fn headers(endpoint: &Endpoint) -> Vec<(&'static str, String)>;

    /// The body of a request. The same input gives the same bytes, and the conversation
    /// comes last, so that a longer one begins with the bytes of a shorter one.
    fn body(endpoint: &Endpoint, request: &Request<'_>) -> String;
}

/// A reply on its way.
pub trait Partial: Default + Send {
    /// Take one event. A server that answers all at once gives its whole body as one.
    fn take(&mut self, event: &Event, deltas: Deltas<'_>) -> Result<(), Fault>;

    /// Whether nothing more is expected.
    fn done(&self) -> bool;

    /// The reply, if it is complete.
    fn finish(self, model: &str) -> Result<Assistant, Failure>;
}

/// A request body: these objects one after the other, a later field in the place of an
/// earlier one of its name, without nulls and empty lists.
pub fn body<const N: usize>(objects: [Value; N]) -> String {
    let mut body = Map::new();
    for object in objects {
        if let Value::Object(fields) = object {
            body.extend(fields);
        }
    }
    body.retain(|_, value| {
        !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
    });
    Value::Object(body).to_string()
}

/// Add a piece to a text field, which may not be there yet.
pub fn append(fields: &mut Map<String, Value>, name: &str, piece: &str) {
    match fields.get_mut(name) {
        Some(Value::String(text)) => text.push_str(piece),
        _ => drop(fields.insert(name.to_owned(), Value::from(piece))),
    }
}

/// The stream ended in the middle of a reply.
pub fn cut() -> Failure {
    let message = "the stream was cut before the reply was complete".to_owned();
    Failure::Transient { message, retry_after: None }
}

/// The arguments of a call: an object where they are one, even if it came as a string
/// within a string; else what came, for the model to see.
pub fn arguments(raw: &str) -> Value {
    if raw.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str(raw) {
        Ok(Value::Null) => Value::Object(Map::new()),
        Ok(Value::String(inner)) => match serde_json::from_str(&inner) {
            Ok(Value::Object(map)) => Value::Object(map),
            _ => Value::String(inner),
        },
        Ok(value) => value,
        Err(_) => Value::String(raw.to_owned()),
    }
}

/// Give each call an id of its own where the server gave none, or one twice. New ids
/// differ from those of other replies, and no name stays empty.
pub fn identify(blocks: &mut [Block]) {
    let salt = fastrand::u32(..);
    let mut seen = HashSet::new();
    let calls = blocks.iter_mut().filter_map(|block| match block {
        Block::Call(call) => Some(call),
        _ => None,
    });
    for (number, call) in calls.enumerate() {
        if call.id.is_empty() || seen.contains(&call.id) {
            call.id = format!("call_{number}_{salt:08x}");
        }
        seen.insert(call.id.clone());
        if call.name.is_empty() {
            "unnamed".clone_into(&mut call.name);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernel::message::Call;
    use crate::kernel::model::Delta;
    use crate::wires::OutputField;
    use crate::wires::sse::Decoder;

    /// An endpoint of no server.
    pub fn endpoint() -> Endpoint {
        Endpoint {
            spec: "test:model".to_owned(),
            model: "model".to_owned(),
            base_url: "http://localhost".to_owned(),
            key: None,
            key_name: None,
            headers: Vec::new(),
            body: Map::new(),
            window: 1000,
            output: None,
            output_field: OutputField::default(),
            sees: true,
        }
    }

    /// What a stream of events comes to, in words, and what was heard on the way.
    pub fn replay<P: Partial>(stream: &str) -> (Result<Assistant, String>, String) {
        let (mut heard, mut reply) = (String::new(), P::default());
        let mut deltas = |delta: Delta<'_>| match delta {
            Delta::Text(text) => heard.push_str(text),
            Delta::Thinking(text) => heard.push_str(&format!("<{text}>")),
            _ => {}
        };
        let mut decoder = Decoder::default();
        let mut events = decoder.feed(stream.as_bytes());
        events.extend(decoder.finish());
        for event in &events {
            if let Err(fault) = reply.take(event, &mut deltas) {
                return (Err(format!("{:?}", fault.failure("http://host"))), heard);
            }
        }
        (reply.finish("test:model").map_err(|failure| format!("{failure:?}")), heard)
    }

    /// The same for chunks of JSON, one an event.
    pub fn replay_chunks<P: Partial>(chunks: &[Value]) -> (Result<Assistant, String>, String) {
        let events: Vec<_> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        replay::<P>(&events.concat())
    }

    /// A call as a block.
    pub fn call(id: &str, name: &str, input: Value) -> Block {
        Block::Call(Call { id: id.to_owned(), name: name.to_owned(), input })
    }

    fn ids(blocks: &[Block]) -> Vec<String> {
        let calls = |block: &Block| match block {
            Block::Call(call) => Some(call.id.clone()),
            _ => None,
        };
        blocks.iter().filter_map(calls).collect()
    }

    #[test]
    fn arguments_in_every_shape() {
        for (raw, expected) in [
            ("", json!({})),
            (" null ", json!({})),
            (r#"{"a":1}"#, json!({"a": 1})),
            (r#""{\"a\":1}""#, json!({"a": 1})),
            (r#"{"a":"#, json!(r#"{"a":"#)),
            (r#""plain""#, json!("plain")),
            ("[1]", json!([1])),
        ] {
            assert_eq!(arguments(raw), expected, "{raw}");
        }
    }

    #[test]
    fn missing_and_doubled_ids_become_unique() {
        let reply = || ["a", "", "a", "b", ""].map(|id| call(id, "", json!({})));
        let (mut one, mut two) = (reply(), reply());
        identify(&mut one);
        identify(&mut two);
        let (one_ids, two_ids) = (ids(&one), ids(&two));
        assert_eq!((one_ids[0].as_str(), one_ids[3].as_str()), ("a", "b"));
        assert_eq!(one_ids.iter().collect::<HashSet<_>>().len(), 5);
        assert!(!two_ids.contains(&one_ids[1]), "made ids differ from reply to reply");
        assert!(matches!(&one[0], Block::Call(call) if call.name == "unnamed"));
    }

    #[test]
    fn a_body_keeps_its_order_and_drops_what_is_empty() {
        let body = body([
            json!({"a": 1, "b": null, "c": 2}),
            json!({"c": 3, "d": 4}),
            json!({"e": [], "f": [1]}),
        ]);
        assert_eq!(body, r#"{"a":1,"c":3,"d":4,"f":[1]}"#);
    }
}
