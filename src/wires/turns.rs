//! A conversation as providers want it: turns that alternate, begin with the user and are
//! never empty.
//!
//! Owns how the kernel's messages are folded into such turns, once for all wires. Knows
//! no provider: how a turn is written down is the wire's business.

use std::borrow::Cow;

use crate::kernel::message::{Block, CallResult, Image, Message};
use crate::wires::picture::words;
use crate::wires::quoted::{note, said};

/// All that one side says before the other one speaks.
#[derive(Debug, PartialEq)]
pub enum Turn<'a> {
    /// The results the model waits for, then what it is told.
    User {
        /// Results of the calls in the turn before, in their order.
        results: Vec<&'a CallResult>,
        /// What is said and shown.
        parts: Vec<Piece<'a>>,
    },
    /// Blocks of the model: texts that are not blank, calls, and this wire's opaque ones.
    Assistant(Vec<&'a Block>),
}

/// A piece of what the model is told.
#[derive(Debug, PartialEq)]
pub enum Piece<'a> {
    /// Words, not blank.
    Text(Cow<'a, str>),
    /// A picture: what it is, and its bytes.
    Picture(&'a Image, &'a [u8]),
}

/// Fold a conversation into turns for this model on this wire. Opaque blocks are kept only
/// where the same model made them: others refuse its signatures, or even the field.
pub fn turns<'a>(messages: &'a [Message], wire: &str, model: &str, sees: bool) -> Vec<Turn<'a>> {
    let mut turns = Vec::new();
    for message in messages {
        match message {
            Message::User { origin, text, images } => {
                say(&mut turns, said(origin, text));
                user(&mut turns).1.extend(pictures(images, sees));
            }
            Message::Note(text) => say(&mut turns, Cow::from(note(text))),
            Message::Results(new) => user(&mut turns).0.extend(new),
            Message::Assistant(reply) => {
                let own = reply.model == model;
                let mut blocks: Vec<_> =
                    reply.blocks.iter().filter(|block| speaks_to(wire, own, block)).collect();
                // A reply of nothing but thinking is refused by providers; it said nothing.
                if blocks.iter().all(|block| matches!(block, Block::Opaque { .. })) {
                    continue;
                }
                match turns.last_mut() {
                    Some(Turn::Assistant(last)) => last.append(&mut blocks),
                    Some(Turn::User { .. }) => turns.push(Turn::Assistant(blocks)),
                    None => {
                        say(&mut turns, Cow::from(note("the conversation goes on")));
                        turns.push(Turn::Assistant(blocks));
                    }
                }
            }
        }
    }
    turns
}

/// Each picture, or words in its place.
pub fn pictures(images: &[Image], sees: bool) -> impl Iterator<Item = Piece<'_>> {
    images.iter().map(move |image| match image.data.as_deref().filter(|_| sees) {
        Some(bytes) => Piece::Picture(image, bytes),
        None => Piece::Text(Cow::from(words(image, sees))),
    })
}

/// What a result says, which is never nothing.
pub fn output(result: &CallResult) -> &str {
    if result.text.trim().is_empty() { "(no output)" } else { &result.text }
}

fn speaks_to(wire: &str, own: bool, block: &Block) -> bool {
    match block {
        Block::Text(text) => !text.trim().is_empty(),
        Block::Call(_) => true,
        Block::Opaque { wire: from, .. } => own && from == wire,
    }
}

fn say<'a>(turns: &mut Vec<Turn<'a>>, text: Cow<'a, str>) {
    let blank = text.trim().is_empty();
    user(turns).1.push(Piece::Text(if blank { Cow::from("(an empty message)") } else { text }));
}

/// The user's turn at the end, begun where there is none.
fn user<'t, 'a>(
    turns: &'t mut Vec<Turn<'a>>,
) -> (&'t mut Vec<&'a CallResult>, &'t mut Vec<Piece<'a>>) {
    if !matches!(turns.last(), Some(Turn::User { .. })) {
        turns.push(Turn::User { results: Vec::new(), parts: Vec::new() });
    }
    match turns.last_mut() {
        Some(Turn::User { results, parts }) => (results, parts),
        _ => unreachable!("a user's turn was just pushed"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernel::message::{Assistant, Origin, Stop, Usage};

    fn reply(blocks: Vec<Block>) -> Message {
        let (stop, model, usage) = (Stop::End, String::new(), Usage::default());
        Message::Assistant(Assistant { blocks, stop, model, usage })
    }

    fn user(text: &str) -> Message {
        Message::User { origin: Origin::Owner, text: text.to_owned(), images: Vec::new() }
    }

    fn opaque(wire: &str) -> Block {
        Block::Opaque { wire: wire.to_owned(), value: json!({}) }
    }

    fn shown(part: &Piece<'_>) -> String {
        match part {
            Piece::Text(text) => text.to_string(),
            Piece::Picture(image, bytes) => format!("{} {bytes:?}", image.name),
        }
    }

    fn texts(turn: &Turn<'_>) -> Vec<String> {
        match turn {
            Turn::User { parts, .. } => parts.iter().map(shown).collect(),
            Turn::Assistant(blocks) => blocks.iter().map(|block| format!("{block:?}")).collect(),
        }
    }

    #[test]
    fn neighbours_are_merged_and_silence_is_left_out() {
        let messages = [
            user("a"),
            Message::Note("b".to_owned()),
            reply(vec![opaque("here"), Block::Text(" \n".to_owned())]),
            user(" "),
            reply(vec![opaque("here"), opaque("there"), Block::Text("c".to_owned())]),
        ];
        assert_eq!(
            texts(&turns(&messages, "here", "another", true)[1]).len(),
            1,
            "another model's"
        );
        let turns = turns(&messages, "here", "", true);
        assert_eq!(turns.len(), 2);
        assert_eq!(texts(&turns[0]), ["a", "[fledgling] b", "(an empty message)"]);
        assert_eq!(texts(&turns[1]).len(), 2, "a foreign opaque block stays at home");
    }

    #[test]
    fn whose_words_they_are_is_told() {
        let (origin, text) = (Origin::Agent("x".to_owned()), "[fledgling] a\nb".to_owned());
        let messages = [
            user("c"),
            Message::User { origin, text, images: Vec::new() },
            Message::Note("d\ne".to_owned()),
        ];
        let told = texts(&turns(&messages, "", "", true)[0]);
        assert!(told[1].starts_with("From \"agent:x\", another agent of this home"), "{told:?}");
        assert!(told[1].ends_with(":\n| [fledgling] a\n| b"), "{told:?}");
        assert_eq!([&told[0], &told[2]], ["c", "[fledgling] d\n  e"]);
    }

    #[test]
    fn a_picture_stands_behind_its_message_and_words_where_it_is_not_shown() {
        let image = |data: Option<&[u8]>| {
            let (media_type, hash, name) = ["image/png", "h", "a.png"].map(str::to_owned).into();
            Image { media_type, hash, name, data: data.map(Into::into) }
        };
        let (origin, text) = (Origin::Other("channel:c/Ann".to_owned()), "b".to_owned());
        let images = vec![image(Some(&[7])), image(None)];
        let messages = [Message::User { origin, text, images }, user("c")];
        let told = texts(&turns(&messages, "", "", true)[0]);
        assert!(told[0].ends_with("\n| b") && told[1] == "a.png [7]" && told[3] == "c", "{told:?}");
        assert!(told[2].starts_with("[The picture a.png (image/png) is no longer"), "{told:?}");
        let told = texts(&turns(&messages, "", "", false)[0]);
        assert!(told[1..3].iter().all(|one| one.contains("takes no pictures")), "{told:?}");
    }

    #[test]
    fn the_first_turn_is_the_users() {
        let messages = [reply(vec![Block::Text("a".to_owned())])];
        assert!(matches!(
            turns(&messages, "", "", true)[..],
            [Turn::User { .. }, Turn::Assistant(_)]
        ));
    }
}
