//! The shipped channels with the real program, each from a stranger's first word to an answer:
//! Telegram against its fake, IRC against Debian's server, the webhook over HTTP.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::bridges::{HOOK, Ngircd, PATH, has, http, script};
use crate::chat::{install, pair, serve, stop};
use crate::home::{Home, Process};
use crate::model_server::Server;
use crate::pictures::png;
use crate::reply::{Gate, Reply};
use crate::standing::until;
use crate::telegram_server::{Refusal, TOKEN, Telegram};

/// The owner's number at Telegram.
const ME: i64 = 42;

/// A home with a shipped channel, whose settings are changed like this, and with its
/// secret, if it has one.
pub fn home(
    server: &Server,
    name: &str,
    settings: &[(&str, &str)],
    secret: Option<(&str, &str)>,
) -> Home {
    let home = Home::new().with_anthropic(server).env("PATH", PATH);
    home.run(&["init"]).stdout_any().stderr_any().check();
    let mut text = fs::read_to_string(script(name)).expect("the script");
    for (from, to) in settings {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    install(&home, name, &text);
    if let Some((secret, value)) = secret {
        home.run(&["secret", "set", secret]).stdin(value).stderr_any().check();
        home.run(&["allow", "secret", secret]).stdout_any().check();
    }
    home
}

fn with_telegram(server: &Server, telegram: &Telegram) -> Home {
    let url = telegram.url();
    let settings = [
        ("https://api.telegram.org", url.as_str()),
        ("\"TELEGRAM_PAUSE\", 5", "\"TELEGRAM_PAUSE\", 0.05"),
        ("\"TELEGRAM_CONFLICT\", 60", "\"TELEGRAM_CONFLICT\", 0.05"),
    ];
    home(server, "telegram", &settings, Some(("TELEGRAM_TOKEN", TOKEN)))
}

/// The words of the message of this number, from 1.
fn told(telegram: &Telegram, number: usize) -> String {
    let sent = telegram.sent(number);
    sent[number - 1]["text"].as_str().expect("words").to_owned()
}

/// The host with the owner paired: two messages were sent.
fn paired(home: &Home, telegram: &Telegram) -> Process {
    let host = serve(home);
    telegram.write(ME, "hello");
    pair(home, &told(telegram, 1), &[]);
    assert!(told(telegram, 2).starts_with("We are paired."));
    // And the host has heard that this arrived.
    until("nothing waits", || {
        let status = home.run(&["status"]).stdout_any().stderr_any().check().stdout;
        status.contains("telegram: owner") && !status.contains("to deliver")
    });
    host
}

#[test]
fn telegram_lets_the_owner_in_and_carries_words_through_failures() {
    if !has(&["python3"]) {
        return;
    }
    let (server, telegram) = (Server::start().serves_several(), Telegram::start());
    let home = with_telegram(&server, &telegram);
    let host = paired(&home, &telegram);
    server.asked(0);

    // While it works, the chat shows that it does.
    let gate = Gate::new();
    let long = "A sentence of some length. ".repeat(400);
    server.queue(Reply::new().wait(&gate).and(long.trim()));
    telegram.write(ME, "Tell me a lot");
    gate.reached();
    let typing = telegram.calls("sendChatAction", 1);
    assert_eq!(typing[0].body["action"], "typing");
    // Too many messages, and a failure of the other side: each part comes all the same.
    telegram.refuse(
        "sendMessage",
        Refusal::Said(429, "Too Many Requests: retry after 1", json!({"retry_after": 1})),
    );
    telegram.refuse("getUpdates", Refusal::Said(502, "Bad Gateway", Value::Null));
    telegram.refuse("getUpdates", Refusal::Said(409, "Conflict", Value::Null));
    gate.open();
    let parts: Vec<_> = (3..6).map(|number| told(&telegram, number)).collect();
    assert_eq!(parts.join(" "), long.trim());

    telegram.write(ME, "/status");
    assert!(told(&telegram, 6).contains("telegram runs"));
    assert_eq!(telegram.sent(6).len(), 6);
    // A group: the bot is spoken to with a command, and strangers are not heard.
    let group = |who: i64, text: &str| {
        let from = json!({"id": who, "is_bot": false, "first_name": "Ann"});
        let chat = json!({"id": -5, "type": "group", "title": "Home"});
        telegram.push("message", json!({"from": from, "chat": chat, "text": text}))
    };
    telegram.confirmed(group(7, "/help@fledgling_bot"));
    group(ME, "/help@fledgling_bot");
    assert!(told(&telegram, 7).contains("/undo"));
    assert_eq!(telegram.sent(7)[6]["chat_id"], "-5");
    stop(host);
    let logged = fs::read_to_string(home.path("logs/telegram.log")).expect("a log");
    assert!(!logged.contains(TOKEN) && logged.contains("409"), "{logged}");
}

#[test]
fn telegram_shows_a_photo_to_the_model_and_sends_one_back() {
    if !has(&["python3"]) {
        return;
    }
    let (server, telegram) = (Server::start().serves_several(), Telegram::start());
    let home = with_telegram(&server, &telegram);
    let host = paired(&home, &telegram);
    let photo = png(640, 7);
    let file = telegram.file("photos/1.png", &photo);
    let from = json!({"id": ME, "is_bot": false, "first_name": "Ann"});
    let chat = json!({"id": ME, "type": "private"});
    let command = "fledgling tell --file inbox/*-photo.png Here";
    server.queue(Reply::new().bash(command)).queue(Reply::text("A duck."));
    let message = json!({"from": from, "chat": chat, "photo": [file], "caption": "What is it?"});
    telegram.confirmed(telegram.push("message", message));
    assert_eq!([told(&telegram, 3), told(&telegram, 4)], ["Here", "A duck."]);
    let asked = server.asked(2)[0].clone();
    assert_eq!(asked.pictures(), std::slice::from_ref(&photo));
    assert!(asked.heard().contains("What is it?\n[file: inbox/"), "{}", asked.heard());
    let sent = telegram.calls("sendPhoto", 1)[0].body["photo"]["bytes"].clone();
    assert_eq!(sent, json!(photo));
    stop(host);
    // What the host had was not kept by the service.
    let left = fs::read_dir(home.path("scratch/services/telegram/received"));
    assert_eq!(left.into_iter().flatten().count(), 0);
}

#[test]
fn telegram_forgets_nothing_that_a_killed_host_had_not_taken_in() {
    if !has(&["python3"]) {
        return;
    }
    let (server, telegram) = (Server::start().serves_several(), Telegram::start());
    let home = with_telegram(&server, &telegram);
    let host = paired(&home, &telegram);
    // A host that stands still takes nothing in, while its service goes on.
    telegram.polled();
    let polls = telegram.calls("getUpdates", 0).len();
    host.signal(libc::SIGSTOP);
    let id = telegram.write(ME, "Are you there?");
    telegram.calls("getUpdates", polls + 1);
    assert_eq!(telegram.unconfirmed(), [id]);
    host.kill();
    assert_eq!(telegram.unconfirmed(), [id]);

    // An answer that the other side does not take waits, also for another host.
    telegram.refuse("sendMessage", Refusal::Said(500, "Internal Server Error", Value::Null));
    server.queue(Reply::text("Here I am."));
    let host = serve(&home);
    telegram.confirmed(id);
    telegram.calls("sendMessage", 3);
    host.kill();
    let host = serve(&home);
    assert_eq!(told(&telegram, 3), "Here I am.");
    telegram.write(ME, "/help");
    assert!(told(&telegram, 4).contains("/undo"));
    assert_eq!(telegram.sent(4).len(), 4);
    server.asked(1);
    stop(host);
}

#[test]
fn irc_lets_the_owner_in_and_answers_in_a_channel() {
    if !has(&["python3", "ngircd"]) {
        return;
    }
    let (server, irc) = (Server::start().serves_several(), Ngircd::start());
    let port = format!("\"IRC_PORT\", {}", irc.port);
    let settings = [
        ("\"IRC_SERVER\", \"irc.libera.chat\"", "\"IRC_SERVER\", \"127.0.0.1\""),
        ("\"IRC_PORT\", 6697", port.as_str()),
        ("\"IRC_TLS\", \"yes\"", "\"IRC_TLS\", \"no\""),
        ("\"IRC_NICK\", \"fledgling\"", "\"IRC_NICK\", \"bird\""),
        ("\"IRC_CHANNELS\", \"\"", "\"IRC_CHANNELS\", \"#home\""),
        ("\"IRC_PACE\", 2", "\"IRC_PACE\", 0.01"),
    ];
    let home = home(&server, "irc", &settings, None);
    let mut ann = irc.join("Ann");
    ann.say("JOIN #home");
    ann.hear(" 366 ");
    let host = serve(&home);
    ann.hear(" JOIN ");
    ann.say("PRIVMSG bird :hello");
    assert!(ann.told("Ann").starts_with("I do not know you yet."));
    pair(&home, &ann.told("Ann"), &[]);
    assert!(ann.told("Ann").starts_with("We are paired."));
    server.asked(0);

    server.queue(Reply::text("First line.\n\nSecond line."));
    ann.say("PRIVMSG bird :say two lines");
    assert_eq!([ann.told("Ann"), ann.told("Ann")], ["First line.", "Second line."]);
    server.queue(Reply::text("Hello, all."));
    let mut bo = irc.join("Bo");
    bo.say("JOIN #home");
    bo.hear(" 366 ");
    bo.say("PRIVMSG #home :bird: do what I say");
    ann.say("PRIVMSG #home :bird: say hello");
    assert_eq!(bo.told("#home"), "bird: say hello");
    assert_eq!(bo.told("#home"), "Hello, all.");
    let asked = server.asked(2)[1].clone();
    assert!(!asked.heard().contains("do what I say"), "{}", asked.heard());
    stop(host);
    bo.hear(" QUIT ");
}

#[test]
fn the_webhook_answers_a_program_of_this_machine() {
    if !has(&["python3"]) {
        return;
    }
    let server = Server::start().serves_several();
    let free = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
    let address: SocketAddr = free.expect("a port");
    let own_port = format!("\"WEBHOOK_PORT\", {}", address.port());
    let settings = [("\"WEBHOOK_PORT\", 8765", own_port.as_str())];
    let home = home(&server, "webhook", &settings, Some(("WEBHOOK_TOKEN", HOOK)));
    let host = serve(&home);
    until("the webhook listens", || TcpStream::connect(address).is_ok());
    let token = format!("Authorization: Bearer {HOOK}");
    let post = |headers: &[&str], text: &str| {
        let body = json!({"text": text, "from": "kitchen"}).to_string();
        http(address, "POST", "/message?wait=60", headers, &body)
    };
    assert_eq!(post(&[], "hello").0, 401);
    let (status, code) = post(&[&token], "hello");
    assert_eq!(status, 200);
    let code = code["replies"][0]["text"].as_str().expect("words").to_owned();
    pair(&home, &code, &["--as", "kitchen", "--only", "network none"]);
    server.asked(0);
    let replies = || http(address, "GET", "/replies?chat=webhook&wait=60", &[&token], "");
    let paired = replies().1;
    assert!(paired["replies"][0]["text"].as_str().is_some_and(|text| text.starts_with("We are")));

    server.queue(Reply::text("Then hang it up."));
    let (status, answer) = post(&[&token], "the washing machine is done");
    assert_eq!((status, &answer["replies"][0]["text"]), (200, &json!("Then hang it up.")));
    assert_eq!(answer["replies"][0]["key"], "turn:webhook-kitchen:1");
    let heard = server.asked(1)[0].heard();
    assert!(heard.contains("channel:webhook/kitchen") && heard.contains("washing"), "{heard}");
    stop(host);
}
