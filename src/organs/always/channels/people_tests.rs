//! Strangers, people and groups, and what comes of what they say.
//!
//! Above all that each message counts once, whatever is repeated and whenever a host is killed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::organs::always::channels::pairing::{As, Whom};
use crate::organs::enclosed::Enclosed;

fn open() -> (tempfile::TempDir, State) {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(&folder.path().join("state.db")).unwrap();
    (folder, state)
}

fn said(id: &str, from: &str, text: &str) -> Inbound {
    let (id, chat, from, text) = (id.into(), from.into(), from.into(), text.into());
    Inbound { id, chat, from, text, ..Inbound::default() }
}

fn in_group(id: &str, from: &str, text: &str) -> Inbound {
    Inbound { chat: "-100".into(), group: true, ..said(id, from, text) }
}

fn admit(state: &State, message: &Inbound) -> Admitted {
    state.admit("telegram", message, 100, &|_| Standing::Free).unwrap()
}

fn speaker(admitted: Admitted) -> Speaker {
    match admitted {
        Admitted::Said(speaker) | Admitted::Command(speaker, _) => speaker,
        other => panic!("{other:?}"),
    }
}

fn owner() -> As {
    As { person: "owner".into(), owner: true, links: None, answers: false }
}

fn person(name: &str) -> As {
    As { person: name.into(), owner: false, links: Some("[]".into()), answers: false }
}

/// The code that was sent to a stranger.
fn code(state: &State, chat: &str) -> String {
    let letters = state.next_letters("telegram").unwrap();
    let letter = letters.into_iter().find(|due| due.chat == chat).unwrap().letter;
    state.delivered(&letter.key).unwrap();
    letter.text.rsplit(' ').next().unwrap().to_owned()
}

fn paired(state: &State, sender: &str, who: As) {
    let hello = admit(state, &said(&format!("hello {sender}"), sender, "secret plan"));
    assert_eq!(hello, Admitted::Stranger { replied: true });
    let code = code(state, sender);
    state.pair(&code, who, 100).unwrap();
    state.delivered(&format!("paired:telegram:{sender}:100")).unwrap();
}

#[test]
fn a_stranger_gets_one_code_and_the_words_go_nowhere() {
    let (_folder, state) = open();
    let replied = |message: &Inbound| admit(&state, message);
    assert_eq!(replied(&said("1", "7", "/stop")), Admitted::Stranger { replied: true });
    assert_eq!(replied(&said("1", "7", "hi")), Admitted::Known);
    assert_eq!(replied(&said("2", "7", "hi")), Admitted::Stranger { replied: false });
    assert_eq!(replied(&in_group("3", "8", "hi")), Admitted::Ignored);
    for (sender, replied) in [("8", true), ("9", true), ("10", false)] {
        let admitted = admit(&state, &said(sender, sender, "hi"));
        assert_eq!(admitted, Admitted::Stranger { replied });
    }
    assert_eq!(state.pending_letters().unwrap(), [(Some("telegram".into()), 3)]);
    assert_eq!(state.pending_pairings(100).unwrap().len(), 3);
    // Another channel has codes of its own; and after an hour there are new ones.
    let free = |_: &str| Standing::Free;
    let other = state.admit("irc", &said("1", "7", "hi"), 100, &free).unwrap();
    assert_eq!(other, Admitted::Stranger { replied: true });
    let later = state.admit("telegram", &said("20", "7", "hi"), 3700, &free).unwrap();
    assert_eq!(later, Admitted::Stranger { replied: true });
    assert!(state.backlog().unwrap().is_empty() && state.chats().unwrap().is_empty());
}

#[test]
fn a_code_is_typed_as_people_type_and_counts_once_for_an_hour() {
    let (_folder, state) = open();
    admit(&state, &said("1", "7", "hi"));
    let code = code(&state, "7");
    assert_eq!(code.len(), 9);
    let typed = format!(" {} ", code.to_lowercase().replace('-', " "));
    let why = |code: &str, who, now| state.pair(code, who, now).unwrap_err().to_string();
    assert!(why(&code, owner(), 100 + 3600).contains("its hour is over"));
    assert!(why("ABCD-EFGH", owner(), 100).contains("no such code"));
    for wrong in [person("owner"), person("a b"), person(""), person("ä")] {
        assert!(state.pair(&typed, wrong, 100).is_err());
    }
    let done = state.pair(&typed, owner(), 100).unwrap();
    assert_eq!((done.channel.as_str(), done.sender.as_str()), ("telegram", "7"));
    assert!(why(&code, owner(), 100).contains("no such code"));
    assert!(state.letters_for("telegram", 100).unwrap()[0].letter.text.contains("/help"));
    assert_eq!(state.people_rows().unwrap(), [done]);
    assert_eq!(state.owner_chat().unwrap(), Some(("telegram".into(), "7".into())));
}

#[test]
fn guessing_ends_all_codes() {
    let (_folder, state) = open();
    admit(&state, &said("1", "7", "hi"));
    let code = code(&state, "7");
    for n in 0..9 {
        let why = state.pair("AAAA-AAAA", owner(), 100 + n).unwrap_err().to_string();
        assert!(why.contains("no such code"), "{why}");
    }
    let why = state.pair("AAAA-AAAA", owner(), 110).unwrap_err().to_string();
    assert!(why.contains("too many wrong codes"), "{why}");
    assert!(state.pair(&code, owner(), 110).is_err());
    assert_eq!(admit(&state, &said("2", "7", "hi")), Admitted::Stranger { replied: true });
}

#[test]
fn the_owner_and_others_have_sessions_and_origins_of_their_own() {
    let (_folder, state) = open();
    paired(&state, "7", owner());
    paired(&state, "8", person("Ann"));
    admit(&state, &said("x", "9", "hi"));
    let code = code(&state, "9");
    let taken = As { person: "Ann".into(), ..owner() };
    let why = state.pair(&code, taken, 100).unwrap_err().to_string();
    assert!(why.contains("is another person"), "{why}");
    state.pair(&code, person("Bob"), 100).unwrap();
    let file = || Enclosed { name: "a.jpg".into(), hash: "h".into(), shown: None };
    let message = Inbound { enclosed: vec![file()], ..said("1", "7", "look") };
    assert!(state.is_welcome("telegram", &message).unwrap());
    assert!(!state.is_welcome("telegram", &said("1", "10", "look")).unwrap());
    let first = speaker(admit(&state, &message));
    assert_eq!((first.session.as_str(), first.owner, first.group), ("telegram", true, false));
    assert_eq!(first.origin.to_string(), "channel:telegram");
    let waiting = &state.waiting("telegram").unwrap()[0];
    assert_eq!((waiting.incoming.key.as_str(), waiting.steer), ("in:telegram:1", true));
    assert_eq!(waiting.incoming.text, "look");
    assert_eq!(state.enclosed("in:telegram:1").unwrap(), [file()]);
    assert!(!state.is_welcome("telegram", &message).unwrap());
    let second = speaker(admit(&state, &said("2", "8", "hi")));
    assert_eq!((second.session.as_str(), second.links.as_deref()), ("telegram-Ann", Some("[]")));
    assert_eq!(second.origin.to_string(), "channel:telegram/Ann");
    let all = speaker(admit(&state, &in_group("3", "7", "hi all")));
    assert_eq!((all.session.as_str(), all.group), ("telegram-group-100", true));
    assert_eq!(all.origin.to_string(), "channel:telegram/owner");
    // Who is not paired is not heard in a group either, whatever the service calls the chat.
    assert_eq!(admit(&state, &in_group("4", "66", "hi")), Admitted::Ignored);
    let unmarked = Inbound { group: false, ..in_group("5", "66", "hi") };
    assert_eq!(admit(&state, &unmarked), Admitted::Ignored);
    let unmarked = Inbound { group: false, ..in_group("6", "8", "hi") };
    assert_eq!(speaker(admit(&state, &unmarked)).session, "telegram-group-100");
    // A chat in which another speaks is not the owner's own.
    let intruder = Inbound { chat: "7".into(), ..said("7", "8", "hi") };
    let group = speaker(admit(&state, &intruder));
    assert_eq!((group.session.as_str(), group.group), ("telegram-group-7", true));
    assert_eq!(state.owner_chat().unwrap(), None);
    assert_eq!(state.came_from("in:telegram:3").unwrap().unwrap().1, "-100");
    assert_eq!(state.came_from("in:telegram:99").unwrap(), None);
    assert_eq!(state.talk("telegram-Ann").unwrap().unwrap().chat, "8");
}

#[test]
fn another_conversation_begins_with_new_and_its_words_are_there() {
    let (_folder, state) = open();
    paired(&state, "7", As { answers: true, ..owner() });
    let standing = |name: &str| match name {
        "telegram" | "telegram.3" => Standing::Open,
        "telegram.4" => Standing::Ended,
        _ => Standing::Free,
    };
    let admit = |message: &Inbound| state.admit("telegram", message, 100, &standing).unwrap();
    assert_eq!(speaker(admit(&said("1", "7", "hi"))).session, "telegram.2");
    let new = admit(&said("2", "7", "/new buy milk"));
    let Admitted::Command(by, Command::New(text)) = new else { panic!("{new:?}") };
    assert_eq!((by.session.as_str(), text.as_str(), by.answers), ("telegram.5", "buy milk", true));
    assert_eq!(state.waiting("telegram.5").unwrap()[0].incoming.text, "buy milk");
    assert_eq!(speaker(admit(&said("3", "7", "and bread"))).session, "telegram.5");
    assert_eq!(speaker(admit(&said("4", "7", "/new"))).session, "telegram.6");
    assert!(state.waiting("telegram.6").unwrap().is_empty());
    assert_eq!(admit(&said("2", "7", "/new buy milk")), Admitted::Known);
    assert_eq!(state.answering_chats().unwrap()[0].session.as_deref(), Some("telegram.6"));
    // A conversation that was ended is not gone on with.
    let ended = |name: &str| if name == "telegram.6" { Standing::Ended } else { Standing::Free };
    let next = state.admit("telegram", &said("5", "7", "hi"), 100, &ended).unwrap();
    assert_eq!(speaker(next).session, "telegram");
    assert!(matches!(admit(&said("6", "7", "/stop")), Admitted::Command(_, Command::Stop)));
    assert_eq!(state.backlog().unwrap().iter().map(|(_, count)| count).sum::<u64>(), 4);
}

#[test]
fn who_is_no_longer_paired_is_a_stranger_and_is_sent_nothing() {
    let (_folder, state) = open();
    paired(&state, "7", owner());
    paired(&state, "8", person("Ann"));
    admit(&state, &said("1", "8", "hi"));
    let to = Some(("telegram".into(), "8".into()));
    let letter = crate::organs::always::outbox::Letter {
        key: "a".into(),
        to,
        text: "private".into(),
        ..Default::default()
    };
    state.send(&letter, 0).unwrap();
    assert_eq!(state.unpair(&Whom::Person("Bob".into())).unwrap(), 0);
    assert_eq!(state.unpair(&Whom::Person("Ann".into())).unwrap(), 1);
    assert!(state.letters_for("telegram", 0).unwrap().is_empty());
    assert_eq!(admit(&state, &said("2", "8", "hi")), Admitted::Stranger { replied: true });
    // Somebody else by that name does not get into Ann's conversation.
    let code = code(&state, "8");
    state.pair(&code, person("Ann"), 100).unwrap();
    assert_eq!(speaker(admit(&state, &said("3", "8", "hi"))).session, "telegram-Ann.2");
    let sender = Whom::Sender { channel: "telegram".into(), sender: "7".into() };
    // Nor does the account hear what is said to the owner, once it is somebody else's.
    assert_eq!(speaker(admit(&state, &said("4", "7", "hi"))).session, "telegram");
    assert!(state.talk("telegram").unwrap().unwrap().open);
    assert_eq!(state.unpair(&sender).unwrap(), 1);
    assert_eq!(state.owner_chat().unwrap(), None);
    assert_eq!(admit(&state, &said("5", "7", "hi")), Admitted::Stranger { replied: true });
    let code = self::code(&state, "7");
    state.pair(&code, person("Cid"), 100).unwrap();
    assert_eq!(speaker(admit(&state, &said("6", "7", "hi"))).session, "telegram-Cid");
    assert!(state.talk("telegram-Cid").unwrap().unwrap().open);
    assert!(!state.talk("telegram").unwrap().unwrap().open);
}

#[test]
fn a_decision_that_was_cut_off_left_nothing_behind() {
    let (_folder, state) = open();
    paired(&state, "7", owner());
    let message = said("1", "7", "/new milk");
    let killed = |_: &str| -> Standing { panic!("killed") };
    let decide = || state.admit("telegram", &message, 100, &killed);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(decide)).is_err());
    assert!(state.backlog().unwrap().is_empty() && state.chats().unwrap()[0].session.is_none());
    assert_eq!(speaker(admit(&state, &message)).session, "telegram");
    assert_eq!(state.waiting("telegram").unwrap()[0].incoming.text, "milk");
}

#[test]
fn names_of_sessions_are_names_whatever_a_chat_is_called() {
    let long = "x".repeat(200);
    for (channel, person, group, expected) in [
        ("irc", "Ann", Some("#rust & co"), "irc-group--rust---co"),
        (".irc", "owner", None, "irc"),
        ("émail", "Ann", None, "mail-Ann"),
        ("é", "owner", None, "chat"),
        (&*long, "owner", None, &long[..NAME]),
    ] {
        let group = group.map(str::to_owned);
        let name = base(channel, person, person == "owner", group.as_ref());
        assert_eq!(name, expected);
        crate::organs::sessions::check_name(&name).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn each_message_counts_once_whatever_is_repeated_and_killed(
        steps in prop::collection::vec((0_u8..3, 0_u8..12, 0_u8..6, 0_u8..8), 1..80),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let mut state = State::open(&path).unwrap();
        paired(&state, "0", owner());
        paired(&state, "1", person("Ann"));
        let mut said_once: BTreeSet<u8> = BTreeSet::new();
        let mut expected: BTreeSet<String> = BTreeSet::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (sender, id, text, then) in steps {
            // Whoever sends it and whatever it says: the id decides.
            let text = ["hi", "/stop", "/new", "/new milk", "/etc", "/undo 2"][usize::from(text)];
            let message = said(&id.to_string(), &sender.to_string(), text);
            let admitted = admit(&state, &message);
            let new = said_once.insert(id);
            prop_assert_eq!(admitted == Admitted::Known, !new);
            let enqueued = sender < 2 && ["hi", "/new milk", "/etc"].contains(&text);
            if new && enqueued {
                expected.insert(key("telegram", &id.to_string()));
            }
            match then {
                // The host is killed, before or after a turn took a message.
                0 | 1 => {
                    drop(state);
                    state = State::open(&path).unwrap();
                }
                2 => {
                    let session = state.backlog().unwrap().first().map(|(name, _)| name.clone());
                    if let Some(waiting) = session.map(|name| state.waiting(&name).unwrap().remove(0)) {
                        state.taken(&waiting.incoming.key).unwrap();
                        prop_assert!(taken.insert(waiting.incoming.key), "twice");
                    }
                }
                _ => {}
            }
        }
        for (session, _) in state.backlog().unwrap() {
            for waiting in state.waiting(&session).unwrap() {
                prop_assert!(taken.insert(waiting.incoming.key), "twice");
            }
        }
        prop_assert_eq!(taken, expected);
    }
}
