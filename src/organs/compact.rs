//! Making room: when a conversation has grown too long for the model's window, its older
//! part is summarised by the model, and what people said in it is kept word for word.
//!
//! Owns when that is, where the cut falls (never between a call and its result) and what
//! stands there afterwards. The transcript keeps everything; this is only about what is
//! sent. Knows no wire.

use crate::kernel::border::Summary;
use crate::kernel::message::{Block, Message, Origin, Usage};
use crate::kernel::model::{Deltas, Failure, Model, Request};

/// A fifth of the window stays as it was said.
const TAIL_SHARE: u64 = 5;
/// Bytes a token has at least, on average, in what agents read and write.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes of one result that the summarising model is shown.
const RESULT_LIMIT: usize = 1_000;
/// Bytes of one message of the owner's that are kept word for word.
const WORDS_LIMIT: usize = 4_000;
/// Bytes of all of them: the oldest go first.
const ALL_WORDS_LIMIT: usize = 16_000;

const SYSTEM: &str = "You summarise a conversation for the agent that has to continue it.";
const REQUEST: &str = "Below is the older part of a conversation between an owner and an agent. \
    Summarise it for the agent, which will no longer see it: what was asked, decided and learnt, \
    what was done to which files, what failed and why, and what is still open. Keep names, paths, \
    numbers and commands exact. No preamble.";

/// Whether a conversation fills more than `fill` percent of a window.
pub fn full(messages: &[Message], filled: u64, window: u64, fill: u64) -> bool {
    let estimated = messages.iter().map(size).sum::<u64>() / BYTES_PER_TOKEN;
    // What the provider counted is exact but lacks the latest results.
    filled.max(estimated) * 100 >= window * fill
}

/// Summarise all but the tail.
pub async fn summarise(
    messages: &[Message],
    model: &dyn Model,
    deltas: Deltas<'_>,
) -> Result<Summary, Failure> {
    let keep = tail(messages, model.window() / TAIL_SHARE);
    let old = &messages[..messages.len() - keep];
    if old.len() < 2 {
        return Err(Failure::Fatal(
            "there is nothing to summarise: the conversation is one message long, or its latest message alone fills the model's window".to_owned(),
        ));
    }
    // Half of the window: the summary needs room too.
    let room = (model.window() / 2 * BYTES_PER_TOKEN) as usize;
    let text = format!("{REQUEST}\n\n{}", newest(old.iter().map(shown), room));
    let asked = [Message::User { origin: Origin::Owner, text }];
    let reply = model.ask(&Request { system: SYSTEM, tools: &[], messages: &asked }, deltas).await;
    // Without a summary the words alone must do: a conversation that no longer fits must
    // not end because the model cannot summarise.
    let (said, usage) = match reply {
        Ok(reply) => (reply.text(), reply.usage),
        Err(Failure::Transient { .. } | Failure::Overflow(_)) => (String::new(), Usage::default()),
        Err(failure) => return Err(failure),
    };
    Ok(Summary { text: summary(old, &said), keep, usage })
}

fn summary(old: &[Message], said: &str) -> String {
    let mut text = "The conversation up to here was summarised to make room.\n".to_owned();
    if !said.trim().is_empty() {
        text.push_str(said.trim());
    }
    // What was kept in an earlier summary stays: it is a note like any other.
    let words = old.iter().filter_map(|message| match message {
        Message::User { text, .. } => Some(clip(text, WORDS_LIMIT)),
        Message::Note(text) => text.split_once(WORDS).map(|(_, words)| words.to_owned()),
        _ => None,
    });
    let words = newest(words, ALL_WORDS_LIMIT);
    if !words.is_empty() {
        text.push_str(WORDS);
        text.push_str(&words);
    }
    text
}

const WORDS: &str = "\n\nWhat was said to you, word for word:\n";

/// As many of the last pieces as fit, in order.
fn newest(pieces: impl DoubleEndedIterator<Item = String>, room: usize) -> String {
    let mut used = 0;
    let mut kept: Vec<String> = pieces
        .rev()
        .take_while(|piece| {
            used += piece.len() + 1;
            used <= room
        })
        .collect();
    kept.reverse();
    kept.join("\n")
}

fn shown(message: &Message) -> String {
    match message {
        Message::User { origin, text } => format!("{origin}: {text}"),
        Message::Note(text) => format!("note: {text}"),
        Message::Assistant(reply) => {
            let calls = reply
                .calls()
                .map(|call| clip(&format!("call {} {}", call.name, call.input), RESULT_LIMIT));
            let said = format!("agent: {}", reply.text());
            std::iter::once(said).chain(calls).collect::<Vec<_>>().join("\n")
        }
        Message::Results(results) => {
            let shown = results
                .iter()
                .map(|result| format!("result: {}", clip(&result.text, RESULT_LIMIT)));
            shown.collect::<Vec<_>>().join("\n")
        }
    }
}

fn clip(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{} […]", &text[..end])
}

/// How many of the last messages fit into `tokens` without splitting a call from its
/// results.
fn tail(messages: &[Message], tokens: u64) -> usize {
    let (mut keep, mut used) = (0, 0);
    for (number, message) in messages.iter().rev().enumerate() {
        used += size(message) / BYTES_PER_TOKEN;
        if used > tokens {
            break;
        }
        if !matches!(message, Message::Results(_)) {
            keep = number + 1;
        }
    }
    keep.min(messages.len().saturating_sub(2))
}

fn size(message: &Message) -> u64 {
    let bytes = match message {
        Message::User { text, .. } | Message::Note(text) => text.len(),
        Message::Results(results) => results.iter().map(|result| result.text.len()).sum(),
        Message::Assistant(reply) => {
            let block = |block: &Block| match block {
                Block::Text(text) => text.len(),
                Block::Call(call) => call.name.len() + call.input.to_string().len(),
                Block::Opaque { value, .. } => value.to_string().len(),
            };
            reply.blocks.iter().map(block).sum()
        }
    };
    bytes as u64
}
