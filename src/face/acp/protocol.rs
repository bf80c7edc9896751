//! The Agent Client Protocol, version 1, as it stands on a line: JSON-RPC 2.0 and the shapes of
//! what is asked.
//!
//! Owns how a line is read, which of its faults gets which code, and how an answer looks. The
//! types are our own: the protocol's crate has 48,000 lines and brings six others along, and
//! what is needed here is a dozen fields to read. What is not known is passed over, as the
//! protocol wants. Knows no session.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::face::clean::json_line;
use crate::organs::sessions::BadName;

/// The version of the protocol. A client that speaks another one ends the connection.
pub const VERSION: u16 = 1;

/// Not JSON.
pub const PARSE: i64 = -32700;
/// JSON, but no request.
pub const REQUEST: i64 = -32600;
/// Nothing goes by this name.
pub const METHOD: i64 = -32601;
/// Something about what came with it.
pub const PARAMS: i64 = -32602;
/// It could not be done.
pub const FAILED: i64 = -32603;
/// There is no such conversation.
pub const NOT_FOUND: i64 = -32002;

/// Why a request is not answered as it was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its number in JSON-RPC.
    pub code: i64,
    /// Why, and what to do about it.
    pub message: String,
}

impl Fault {
    /// One with this code.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        let code = if error.is::<BadName>() { PARAMS } else { FAILED };
        Self::new(code, format!("{error:#}"))
    }
}

/// What a client said.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// It wants an answer.
    Request { id: Value, method: String, params: Value },
    /// It wants none.
    Notification { method: String, params: Value },
    /// It answers; nothing where it could not.
    Response { id: Value, result: Option<Value> },
}

/// Read a line. A fault comes with the id it is answered under.
pub fn read(line: &[u8]) -> Result<Message, (Value, Fault)> {
    let value: Value = serde_json::from_slice(line).map_err(|error| {
        (Value::Null, Fault::new(PARSE, format!("not a line of JSON: {error}")))
    })?;
    let refuse = |id: &Value, why: &str| Err((id.clone(), Fault::new(REQUEST, why)));
    let Value::Object(mut object) = value else {
        return refuse(&Value::Null, "a message is one JSON object");
    };
    // One that is null is there all the same, and gets an answer.
    let id = object.remove("id");
    if !matches!(id, None | Some(Value::Null | Value::Number(_) | Value::String(_))) {
        return refuse(&Value::Null, "an id is a number or a string");
    }
    let known = id.clone().unwrap_or_default();
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return refuse(&known, "a message says \"jsonrpc\": \"2.0\"");
    }
    let params = object.remove("params").unwrap_or_default();
    match (object.remove("method"), id) {
        (Some(Value::String(method)), Some(id)) => Ok(Message::Request { id, method, params }),
        (Some(Value::String(method)), None) => Ok(Message::Notification { method, params }),
        (None, Some(id)) if object.contains_key("result") || object.contains_key("error") => {
            Ok(Message::Response { id, result: object.remove("result") })
        }
        _ => refuse(&known, "a message has a method, or answers a request"),
    }
}

/// What came with a request, as that request has it.
pub fn params<T: DeserializeOwned>(params: Value) -> Result<T, Fault> {
    let params = if params.is_null() { json!({}) } else { params };
    serde_json::from_value(params)
        .map_err(|error| Fault::new(PARAMS, format!("the params are not as expected: {error}")))
}

/// The line of an answer.
pub fn answer(id: &Value, answer: Result<Value, Fault>) -> String {
    line(&match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(Fault { code, message }) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
        }
    })
}

/// The line of something the client is to know, or, with an id, to answer.
pub fn tell(id: Option<u64>, method: &str, params: &Value) -> String {
    line(&match id {
        Some(id) => json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
        None => json!({"jsonrpc": "2.0", "method": method, "params": params}),
    })
}

/// A JSON value has a line, always.
fn line(value: &Value) -> String {
    json_line(value).unwrap_or_default()
}

/// What `initialize` brings.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initialize {
    /// The latest version that the client speaks.
    #[serde(rename = "protocolVersion")]
    pub _version: u16,
}

/// What `session/new`, `session/load` and `session/resume` bring.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    /// The conversation, where it is not a new one.
    pub session_id: Option<String>,
    /// The folder of the client's project.
    pub cwd: String,
    /// Servers of tools, which are not used here.
    #[serde(default)]
    pub mcp_servers: Vec<Value>,
}

/// What `session/list` brings.
#[derive(Debug, Deserialize)]
pub struct List {
    /// The folder of the client's project.
    pub cwd: Option<String>,
}

/// What `session/cancel` and `session/close` bring.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// The conversation.
    pub session_id: String,
}

/// What `session/prompt` brings.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prompted {
    /// The conversation.
    pub session_id: String,
    /// What is said.
    pub prompt: Vec<Block>,
}

/// What `$/cancel_request` brings.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancelled {
    /// The request.
    pub request_id: Value,
}

/// A piece of what is said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Words.
    Text {
        /// Them.
        text: String,
    },
    /// A picture.
    Image {
        /// In base64.
        data: String,
        /// What it is.
        #[serde(rename = "mimeType")]
        mime_type: String,
    },
    /// Sound.
    Audio {},
    /// Something that is named.
    ResourceLink {
        /// Where it is.
        uri: String,
        /// What it is called.
        name: String,
    },
    /// Something that comes along.
    Resource {
        /// It.
        resource: Resource,
    },
}

/// What comes along.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Resource {
    /// Where it is from.
    pub uri: String,
    /// Its text, where it has one.
    pub text: Option<String>,
    /// Else its bytes, in base64.
    pub blob: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> (Value, i64) {
        let (id, fault) = read(line.as_bytes()).unwrap_err();
        (id, fault.code)
    }

    #[test]
    fn a_line_is_a_message_or_has_a_fault_with_the_id_it_can_be_answered_under() {
        for line in ["", "{", "nonsense", "{\"a\":\"\\ud800\"}", &"[".repeat(100_000)] {
            assert_eq!(fault(line), (Value::Null, PARSE), "{line:.20}");
        }
        for line in ["[]", "1", "null", "\"a\"", r#"{"jsonrpc":"2.0","method":"m","id":{}}"#] {
            assert_eq!(fault(line), (Value::Null, REQUEST), "{line}");
        }
        for line in [
            r#"{"id":7,"method":"m"}"#,
            r#"{"jsonrpc":"1.0","id":7,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":3}"#,
        ] {
            assert_eq!(fault(line), (json!(7), REQUEST), "{line}");
        }
        assert_eq!(read(b"\xff\xfe").unwrap_err().1.code, PARSE);
    }

    #[test]
    fn an_id_of_null_is_an_id_and_none_is_none() {
        let null = read(br#"{"jsonrpc":"2.0","id":null,"method":"m"}"#).unwrap();
        let (id, method, params) = (Value::Null, "m".to_owned(), Value::Null);
        assert_eq!(null, Message::Request { id, method: method.clone(), params: params.clone() });
        let none = read(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap();
        assert_eq!(none, Message::Notification { method, params });
        let said = read(br#"{"jsonrpc":"2.0","id":3,"error":{"code":1,"message":"x"}}"#).unwrap();
        assert_eq!(said, Message::Response { id: json!(3), result: None });
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_wrong_is_said() {
        let begin: Begin =
            params(json!({"cwd": "/a", "mcpServers": [], "_meta": {}, "later": 1})).unwrap();
        assert_eq!((begin.cwd.as_str(), begin.session_id), ("/a", None));
        let wrong = params::<Prompted>(json!({"sessionId": "s", "prompt": [{"type": "smell"}]}));
        let wrong = wrong.unwrap_err();
        assert_eq!(wrong.code, PARAMS);
        assert!(wrong.message.contains("smell"), "{}", wrong.message);
        assert_eq!(params::<List>(Value::Null).unwrap().cwd, None);
    }
}
