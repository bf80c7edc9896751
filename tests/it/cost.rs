//! What turns cost: told, kept, summed up and limited.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::home::Home;
use crate::model_server::Server;
use crate::reply::Reply;

fn rows(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let ran = home.run(&[&["usage", "--json"], arguments].concat()).stdout_any().check();
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn shown(home: &Home, arguments: &[&str]) -> String {
    home.run(arguments).stdout_any().check().stdout
}

/// Make something of the home's state, as another program would.
fn change(home: &Home, sql: &str) {
    let state = Connection::open(home.path("state.db")).expect("a database");
    state.execute_batch(sql).expect("a change");
}

/// A model at a server of its own, for which this is in `config.toml`.
fn with_model(server: &Server, wire: &str, more: &str) -> Home {
    let base = if wire == "openai" { format!("{}/v1", server.url()) } else { server.url() };
    Home::new().env("ANTHROPIC_API_KEY", "test-key-not-real").config(&format!(
        "model = \"m\"\n{more}\n[models.m]\nwire = \"{wire}\"\nname = \"big\"\n\
         base_url = \"{base}\"\nkey = \"ANTHROPIC_API_KEY\"\n"
    ))
}

/// Input at 2 dollars a million, output at 10, from the cache 0.20, into it 2.50.
#[test]
fn a_turn_tells_what_it_cost_where_the_price_is_known_cached_tokens_for_less() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    server.queue(Reply::new().bash("echo a > a").usage([1_000, 100, 10_000, 2_000]));
    server.queue(Reply::text("Done.").usage([500, 100, 10_000, 0]));
    let run = home.run(&["run", "--session", "s", "go"]);
    let ran = run.stdout("Done.\n").stderr_any().check();
    assert!(ran.stderr.trim_end().ends_with(" · 23.7k tokens · $0.01"), "{ran}");
    // 2,000 + 1,000 + 2,000 + 5,000, and 1,000 + 1,000 + 2,000.
    let message = home.git(&["log", "-1", "--format=%B"]);
    assert!(message.contains("\nCost: 0.0140 USD"), "{message}");
    let used = &rows(&home, &[])[0];
    assert_eq!((&used["cost"], &used["unattended"]), (&json!(14_000), &json!(false)));
    assert_eq!(
        (&used["origin"], &used["turns"], &used["input"]),
        (&json!("owner"), &json!(1), &json!(23_500))
    );
    let text = shown(&home, &["usage", "--by", "model"]);
    let line = text.lines().nth(1).expect("a model");
    assert!(line.starts_with("anthropic:claude-sonnet-5 ") && line.contains(" $0.01 "), "{text}");
    let about = shown(&home, &["self"]);
    assert!(about.contains("price: $2.00 in, $10.00 out a million tokens"), "{about}");
    assert!(about.contains("cost of session: $0.01"), "{about}");
    assert_eq!(rows(&home, &["--by", "session"])[0]["session"], "s");
    assert!(rows(&home, &["--since", "2999-01-01"]).is_empty());
    home.run(&["usage", "--since", "x"]).code(2).stderr_any().check();
}

#[test]
fn what_nobody_knows_the_price_of_costs_nothing_that_is_shown() {
    let server = Server::start();
    let home = with_model(&server, "anthropic", "");
    server.queue(Reply::new().bash("echo a > a")).queue(Reply::text("Done."));
    let ran = home.run(&["run", "go"]).stdout("Done.\n").stderr_any().check();
    assert!(ran.stderr.trim_end().ends_with(" · 30 tokens"), "{ran}");
    assert!(!home.git(&["log", "-1", "--format=%B"]).contains("Cost"));
    let text = shown(&home, &["usage"]);
    assert!(text.contains("prices are known (m): `fledgling help usage`"), "{text}");
    // The owner says it: for the next one.
    let config = std::fs::read_to_string(home.path("config.toml")).expect("settings");
    let priced = format!("{config}[prices.big]\ninput = 1000\noutput = 2000\n");
    std::fs::write(home.path("config.toml"), priced).expect("settings");
    server.allow_prefix_change();
    server.queue(Reply::text("Done."));
    let ran = home.run(&["run", "go"]).stdout("Done.\n").stderr_any().check();
    assert!(ran.stderr.trim_end().ends_with(" · 15 tokens · $0.02"), "{ran}");
    let [group] = &rows(&home, &["--by", "model"])[..] else { panic!("one model") };
    assert_eq!((&group["cost"], &group["unpriced"]), (&json!(20_000), &json!(30)));
    let text = shown(&home, &["usage"]);
    assert!(text.contains(" $0.02+ "), "{text}");
}

#[test]
fn a_server_that_says_what_it_charged_is_believed() {
    let server = Server::start();
    let home = with_model(&server, "openai", "");
    let said = json!({"choices": [{"delta": {"content": "Hi."}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 194, "completion_tokens": 2,
        "cost": 0.0123, "prompt_tokens_details": {"cache_write_tokens": 100}}});
    let stream = format!("data: {said}\n\ndata: {usage}\n\ndata: [DONE]\n\n");
    server.queue(Reply::raw(200, &[], vec![(&*stream).into()]));
    let ran = home.run(&["run", "hi"]).stdout("Hi.\n").stderr_any().check();
    assert!(ran.stderr.trim_end().ends_with(" · 196 tokens · $0.01"), "{ran}");
    let used = &rows(&home, &[])[0];
    assert_eq!((&used["cost"], &used["cache_write"]), (&json!(12_300), &json!(100)));
    assert!(used.get("unpriced").is_none(), "{used}");
}

#[test]
fn whatever_a_server_counts_stays_a_number() {
    for wire in ["openai", "anthropic"] {
        let server = Server::start();
        let home = with_model(&server, wire, "");
        for _ in 0..2 {
            let most = u64::MAX;
            let chunk = json!({"choices": [{"delta": {"content": "Hi."}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": most, "completion_tokens": most, "cost": 1e300}});
            let stream = format!("data: {chunk}\n\ndata: [DONE]\n\n");
            let reply = match wire {
                "openai" => Reply::raw(200, &[], vec![(&*stream).into()]),
                _ => Reply::text("Hi.").usage([most; 4]),
            };
            server.allow_prefix_change();
            server.queue(reply);
            home.run(&["run", "hi"]).stdout("Hi.\n").stderr_any().check();
        }
        let [all] = &rows(&home, &["--by", "model"])[..] else { panic!("one model") };
        assert_eq!(all["input"], 2_000_000_000_000_000_u64, "{wire}");
    }
}

#[test]
fn a_turn_ends_with_the_reply_that_reaches_what_it_may_cost() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server).config("[limits]\ncost = 0.03\n");
    for file in ["a", "b", "c"] {
        let reply = Reply::new().bash(&format!("echo > {file}"));
        server.queue(reply.usage([5_000, 1_000, 0, 0]));
    }
    let ran = home.run(&["run", "go"]).code(1).stdout_any().stderr_any().check();
    let why = "it reached the limit of 0.03 dollars a turn (config.toml, [limits])";
    assert!(ran.stderr.contains(why), "{ran}");
    // 0.02 are not there yet, 0.04 are.
    assert_eq!((home.read("b").is_some(), home.read("c")), (true, None));
    assert_eq!(rows(&home, &[])[0]["cost"], 40_000);
}

#[test]
fn where_a_limit_in_dollars_cannot_hold_the_owner_is_told_once() {
    let server = Server::start();
    let home = with_model(&server, "anthropic", "[limits]\ncost = 1\n");
    for _ in 0..2 {
        server.allow_prefix_change();
        server.queue(Reply::text("Done."));
        home.run(&["run", "go"]).stdout("Done.\n").stderr_any().check();
    }
    let state = Connection::open(home.path("state.db")).expect("a database");
    let sql = "SELECT count(*), max(text) FROM outbox WHERE key = 'unpriced:m'";
    let told = state.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (count, text): (u32, String) = told.expect("a letter");
    assert_eq!(count, 1);
    assert!(text.starts_with("What m costs is not known") && text.contains("[prices.\"m\"]"));
}

/// A predecessor knows no costs: neither in what it leaves behind nor in what it writes later.
#[test]
fn what_a_predecessor_counted_before_and_counts_afterwards_has_no_price() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let turn = || {
        server.allow_prefix_change();
        server.queue(Reply::text("Done.").usage([1_000, 0, 0, 0]));
        home.run(&["run", "--session", "s", "go"]).stdout("Done.\n").stderr_any().check();
    };
    turn();
    change(&home, "DROP TABLE costs; DROP TABLE unattended_cost;");
    turn();
    let before = "INSERT INTO usage SELECT at, session, 9, origin, model, 7, 1, 0, 0 FROM usage";
    change(&home, &format!("{before} LIMIT 1"));
    turn();
    let [used] = &rows(&home, &[])[..] else { panic!("one row") };
    assert_eq!(used["turns"], 4);
    // Each has one token of output.
    assert_eq!((&used["cost"], &used["unpriced"]), (&json!(4_020), &json!(1_001 + 8)));
    home.run(&["status"]).stdout_any().stderr_any().check();
}
