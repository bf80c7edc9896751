//! A courier and services that acknowledge, refuse, keep silent and end, in any order.
//!
//! What must hold: each part is given at least once and in order, each letter is delivered
//! exactly once, and no chat ever has two messages on their way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::organs::always::channels::contract::Inbound;
use crate::organs::always::channels::pairing::As;
use crate::organs::always::channels::people::{Admitted, Standing};

fn state() -> (tempfile::TempDir, State) {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(&folder.path().join("state.db")).unwrap();
    (folder, state)
}

fn letter(key: &str, to: Option<(&str, &str)>, text: &str) -> Letter {
    let to = to.map(|(channel, chat)| (channel.to_owned(), chat.to_owned()));
    Letter { key: key.to_owned(), to, text: text.to_owned(), ..Letter::default() }
}

fn ack(key: &str) -> Heard {
    Heard::Ack { key: key.to_owned() }
}

fn up(state: &State, limit: usize, now: i64) -> Courier {
    let mut courier = Courier::new("c");
    courier.started(state, now).unwrap();
    courier.heard(state, &Heard::Hello { limit: Some(limit) }, now).unwrap();
    courier
}

fn keys(courier: &mut Courier, state: &State, now: i64) -> Vec<String> {
    let (out, dead) = courier.due(state, now).unwrap();
    assert!(dead.is_empty(), "{dead:?}");
    let key = |out| match out {
        Outbound::Message { key, .. } => key,
        other => panic!("{other:?}"),
    };
    out.into_iter().map(key).collect()
}

#[test]
fn a_service_that_is_not_up_is_given_nothing_and_one_that_greets_is_given_what_fits() {
    let (_folder, state) = state();
    state.send(&letter("a", Some(("c", "1")), &"word ".repeat(30)), 0).unwrap();
    let mut courier = Courier::new("c");
    assert_eq!((keys(&mut courier, &state, 0), courier.wake(&state).unwrap()), (vec![], None));
    courier.started(&state, 10).unwrap();
    assert!(keys(&mut courier, &state, 11).is_empty());
    assert_eq!(courier.wake(&state).unwrap(), Some(15));
    courier.heard(&state, &Heard::Unknown, 11).unwrap();
    assert!(keys(&mut courier, &state, 11).is_empty());
    courier.heard(&state, &Heard::Hello { limit: Some(100) }, 12).unwrap();
    assert_eq!(keys(&mut courier, &state, 12), ["a/1"]);
    // One that says nothing is given what is there all the same.
    courier.started(&state, 20).unwrap();
    assert_eq!(keys(&mut courier, &state, 25), ["a"]);
    assert_eq!(courier.wake(&state).unwrap(), Some(25 + ACKNOWLEDGED));
}

#[test]
fn parts_that_arrived_are_not_sent_again_after_a_restart() {
    let (_folder, state) = state();
    let mut long = letter("a", Some(("c", "1")), &"word ".repeat(36));
    (long.reply_to, long.files) = (Some("9".into()), vec!["/f".into()]);
    state.send(&long, 0).unwrap();
    let mut courier = up(&state, 100, 0);
    let (out, _) = courier.due(&state, 0).unwrap();
    assert!(matches!(&out[..], [Outbound::Message { key, reply_to: Some(to), files, .. }]
            if key == "a/1" && to == "9" && files.is_empty()));
    assert_eq!(courier.heard(&state, &ack("a/1"), 1).unwrap(), None);
    assert_eq!(keys(&mut courier, &state, 1), ["a/2"]);
    // The limit may have grown: what was begun stays cut as it was.
    let mut courier = up(&state, 4000, 2);
    let (out, _) = courier.due(&state, 2).unwrap();
    assert!(matches!(&out[..], [Outbound::Message { key, reply_to: None, files, .. }]
            if key == "a/2" && files == &["/f"]));
    assert_eq!(courier.heard(&state, &ack("a/1"), 3).unwrap(), None);
    let news = courier.heard(&state, &ack("a/2"), 3).unwrap();
    assert_eq!(news, Some(News::Delivered("a".into())));
    assert_eq!(courier.heard(&state, &ack("a/2"), 3).unwrap(), None);
    assert_eq!((keys(&mut courier, &state, 9), courier.wake(&state).unwrap()), (vec![], None));
}

#[test]
fn a_smaller_limit_begins_anew() {
    let (_folder, state) = state();
    state.send(&letter("a", Some(("c", "1")), &"word ".repeat(40)), 0).unwrap();
    let mut courier = up(&state, 100, 0);
    assert_eq!(keys(&mut courier, &state, 0), ["a/1"]);
    courier.heard(&state, &ack("a/1"), 0).unwrap();
    let mut courier = up(&state, 70, 0);
    let (out, _) = courier.due(&state, 0).unwrap();
    assert!(matches!(&out[..], [Outbound::Message { key, text, .. }]
        if key == "a/1" && text.len() <= 70));
}

#[test]
fn a_letter_that_waits_holds_up_its_chat_and_no_other() {
    let (_folder, state) = state();
    for (key, chat) in [("a", "1"), ("b", "1"), ("c", "2")] {
        state.send(&letter(key, Some(("c", chat)), "x"), 0).unwrap();
    }
    let mut courier = up(&state, 100, 0);
    assert_eq!(keys(&mut courier, &state, 0), ["a", "c"]);
    let fail = |key: &str, retry| Heard::Fail { key: key.into(), error: "e".into(), retry };
    assert_eq!(courier.heard(&state, &fail("a", Retry::After(30)), 0).unwrap(), None);
    courier.heard(&state, &ack("c"), 0).unwrap();
    assert!(keys(&mut courier, &state, 29).is_empty());
    assert_eq!(courier.wake(&state).unwrap(), Some(30));
    assert_eq!(keys(&mut courier, &state, 30), ["a"]);
    // Of what is not on its way, a failure says nothing.
    assert_eq!(courier.heard(&state, &fail("b", Retry::Never), 31).unwrap(), None);
    let news = courier.heard(&state, &fail("a", Retry::Never), 31).unwrap();
    assert!(matches!(news, Some(News::Dead(dead)) if dead.letter.key == "a" && dead.error == "e"));
    assert_eq!(keys(&mut courier, &state, 31), ["b"]);
}

#[test]
fn silence_is_a_failure_and_a_late_word_still_counts() {
    let (_folder, state) = state();
    state.send(&letter("a", Some(("c", "1")), "x"), 0).unwrap();
    let mut courier = up(&state, 100, 0);
    assert_eq!(keys(&mut courier, &state, 0), ["a"]);
    assert!(keys(&mut courier, &state, 59).is_empty());
    assert!(keys(&mut courier, &state, 60).is_empty());
    assert_eq!(courier.wake(&state).unwrap(), Some(65));
    let news = courier.heard(&state, &ack("a"), 61).unwrap();
    assert_eq!(news, Some(News::Delivered("a".into())));
    assert!(keys(&mut courier, &state, 65).is_empty());
}

#[test]
fn what_is_for_the_owner_follows_the_owner() {
    let (_folder, state) = state();
    let from = |id: &str, chat: &str| Inbound {
        id: id.into(),
        chat: chat.into(),
        from: chat.into(),
        text: "hi".into(),
        ..Inbound::default()
    };
    for channel in ["c", "d"] {
        state.admit(channel, &from("1", "7"), 0, &|_| Standing::Free).unwrap();
        let code = state.next_letters(channel).unwrap().remove(0).letter.text;
        let code = code.rsplit(' ').next().unwrap().to_owned();
        let who = As { person: "owner".into(), owner: true, links: None, answers: false };
        state.pair(&code, who, 0).unwrap();
        for key in [format!("pair:{channel}:1"), format!("paired:{channel}:7:0")] {
            assert!(state.delivered(&key).unwrap(), "{key}");
        }
    }
    let said = state.admit("c", &from("2", "7"), 5, &|_| Standing::Free).unwrap();
    assert!(matches!(said, Admitted::Said(_)));
    state.send(&letter("a", None, "news"), 5).unwrap();
    assert_eq!(state.for_terminal().unwrap().len(), 1);
    let mut courier = up(&state, 100, 5);
    assert_eq!(keys(&mut courier, &state, 5), ["a"]);
    // On its way: it does not go to another channel as well, until it failed here.
    state.admit("d", &from("2", "7"), 6, &|_| Standing::Free).unwrap();
    assert!(state.letters_for("d", 6).unwrap().is_empty());
    assert!(keys(&mut courier, &state, 65).is_empty());
    assert_eq!(state.letters_for("d", 70).unwrap()[0].chat, "7");
    assert!(keys(&mut courier, &state, 70).is_empty());
    assert!(state.shown("a").unwrap() && !state.shown("a").unwrap());
    assert!(state.letters_for("d", 70).unwrap().is_empty());
}

/// What happens to a courier.
#[derive(Debug, Clone)]
enum Step {
    Send(u8, usize),
    Ack(usize),
    OldAck(usize),
    Fail(usize, u8),
    Wait(i64),
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..3, 1_usize..40).prop_map(|(chat, words)| Step::Send(chat, words)),
        8 => any::<usize>().prop_map(Step::Ack),
        1 => any::<usize>().prop_map(Step::OldAck),
        2 => (any::<usize>(), 0_u8..2).prop_map(|(which, retry)| Step::Fail(which, retry)),
        2 => (1_i64..90).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

/// What a service was given and what came of it.
#[derive(Default)]
struct World {
    /// By chat: the keys of the letters in their order, and their words.
    sent: BTreeMap<String, Vec<(String, String)>>,
    /// By chat: the texts in the order in which each part was first acknowledged.
    arrived: BTreeMap<String, Vec<(String, String)>>,
    /// What the running service was given and has not answered, with its text.
    open: Vec<(String, String, String)>,
    given: Vec<String>,
    delivered: Vec<String>,
}

impl World {
    fn give(&mut self, courier: &mut Courier, state: &State, now: i64) {
        let (out, dead) = courier.due(state, now).unwrap();
        assert!(dead.is_empty());
        // What the courier waits for no longer may be given once more.
        self.open.retain(|(_, key, _)| courier.flights.values().any(|flight| flight.part == *key));
        for message in out {
            let Outbound::Message { key, chat, text, .. } = message else { panic!() };
            assert!(self.open.iter().all(|(busy, ..)| *busy != chat), "two at a time in {chat}");
            self.given.push(key.clone());
            self.open.push((chat, key, text));
        }
    }

    fn ack(&mut self, courier: &mut Courier, state: &State, which: usize, now: i64) {
        if self.open.is_empty() {
            return;
        }
        let (chat, key, text) = self.open.remove(which % self.open.len());
        let arrived = self.arrived.entry(chat).or_default();
        assert!(arrived.iter().all(|(known, _)| *known != key), "{key} again");
        arrived.push((key.clone(), text));
        if let Some(News::Delivered(key)) = courier.heard(state, &ack(&key), now).unwrap() {
            self.delivered.push(key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn all_parts_arrive_in_order_and_each_letter_once(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let mut state = State::open(&path).unwrap();
        let mut now = 0;
        let mut courier = up(&state, 64, now);
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Send(chat, words) => {
                    let chat = chat.to_string();
                    let all = world.sent.entry(chat.clone()).or_default();
                    let key = format!("turn:{chat}:{}", all.len());
                    let text = format!("{key} word").repeat(words);
                    let new = letter(&key, Some(("c", &chat)), &text);
                    prop_assert!(state.send(&new, now).unwrap());
                    prop_assert!(!state.send(&new, now).unwrap());
                    all.push((key, text));
                }
                Step::Ack(which) => world.ack(&mut courier, &state, which, now),
                Step::OldAck(which) => {
                    let old: Vec<_> = world.arrived.values().flatten().collect();
                    if !old.is_empty() {
                        let key = &old[which % old.len()].0;
                        let news = courier.heard(&state, &ack(key), now).unwrap();
                        prop_assert_eq!(news, None);
                    }
                }
                Step::Fail(which, retry) if !world.open.is_empty() => {
                    let which = which % world.open.len();
                    let (_, key, _) = world.open.remove(which);
                    let retry = if retry == 0 { Retry::Backoff } else { Retry::After(20) };
                    let fail = Heard::Fail { key, error: "e".into(), retry };
                    prop_assert_eq!(courier.heard(&state, &fail, now).unwrap(), None);
                }
                Step::Fail(..) => {}
                Step::Wait(seconds) => now += seconds,
                Step::Restart => {
                    courier.stopped(&state).unwrap();
                    world.open.clear();
                    courier.started(&state, now).unwrap();
                    courier.heard(&state, &Heard::Hello { limit: Some(64) }, now).unwrap();
                }
                Step::Kill => {
                    drop(state);
                    world.open.clear();
                    state = State::open(&path).unwrap();
                    courier = up(&state, 64, now);
                }
            }
            world.give(&mut courier, &state, now);
        }
        while let Some(wake) = courier.wake(&state).unwrap() {
            while !world.open.is_empty() {
                world.ack(&mut courier, &state, 0, now);
                world.give(&mut courier, &state, now);
            }
            now = now.max(wake);
            world.give(&mut courier, &state, now);
        }
        let mut expected = Vec::new();
        for (chat, letters) in &world.sent {
            let mut parts = Vec::new();
            for (key, text) in letters {
                let pieces = split(text, 64);
                let of = pieces.len();
                let named = |(n, piece)| (part_key(key, n, of), piece);
                parts.extend(pieces.into_iter().enumerate().map(named));
                expected.push(key.clone());
            }
            prop_assert_eq!(world.arrived.get(chat), Some(&parts));
            prop_assert!(parts.iter().all(|(key, _)| world.given.contains(key)));
        }
        world.delivered.sort();
        expected.sort();
        prop_assert_eq!(world.delivered, expected);
    }
}
