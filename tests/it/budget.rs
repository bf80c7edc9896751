//! What turns may use up in a day that nobody in front of a terminal asked for.

use serde_json::{Value, json};

use crate::model_server::Server;
use crate::reply::Reply;
use crate::standing::{Serving, Standing};

/// A host whose unattended turns may use up a hundred tokens a day.
fn home() -> (Standing, Serving) {
    let all = Standing::with("[limits]\nunattended = 100\n");
    let serving = all.serve();
    (all, serving)
}

/// Remind the agent at this time, which answers with this and uses up so many tokens.
fn remind(all: &Standing, serving: &Serving, time: &str, answer: &str, tokens: u64) {
    at(all, time, answer);
    all.server.allow_prefix_change();
    all.server.queue(Reply::text(answer).usage([tokens - 1, 1, 0, 0]));
    all.clock.set(&format!("2026-11-21T{time}:00Z"));
    serving.happens("message", "main", answer);
}

fn at(all: &Standing, time: &str, text: &str) {
    let run = all.home.run(&["at", "--session", "main", time, text]).stdout_any();
    run.stderr_any().check();
}

fn spent(all: &Standing) -> Value {
    all.status()["budget"].clone()
}

#[test]
fn near_its_end_the_owner_is_warned_and_at_its_end_everything_unattended_waits() {
    let (all, serving) = home();
    all.act("main", &[]);
    assert_eq!(spent(&all), json!([0, 100]), "a turn of the owner's does not count");
    remind(&all, &serving, "09:00", "First.", 79);
    assert_eq!(spent(&all), json!([79, 100]));
    at(&all, "09:10", "second");
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Second.").usage([9, 1, 0, 0]));
    all.clock.set("2026-11-21T09:10:00Z");
    serving.happens("message", "", "have used 89 of the 100 tokens they may use up a day");
    serving.happens("message", "main", "Second.");
    at(&all, "09:20", "third");
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Third.").usage([39, 1, 0, 0]));
    all.clock.set("2026-11-21T09:20:00Z");
    serving.happens("message", "", "have used up their 100 tokens of today");
    serving.happens("message", "main", "Third.");
    let asked = all.server.wait(0).len();
    // From here on no request is sent but the owner's.
    at(&all, "09:30", "fourth");
    at(&all, "09:40", "fifth");
    for time in ["2026-11-21T09:30:00Z", "2026-11-21T09:40:00Z"] {
        all.clock.set(time);
        serving.happens("reminder", "main", "is due");
    }
    all.act("other", &["echo by the owner"]);
    assert_eq!(all.server.asked(asked + 2).len(), asked + 2);
    assert_eq!(spent(&all), json!([129, 100]));
    let shown = all.home.run(&["status"]).stdout_any().check().stdout;
    assert!(shown.contains("129 of 100 tokens today (129 %)"), "{shown}");
    // The next day goes on with what waited.
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Fourth and fifth.").usage([19, 1, 0, 0]));
    all.clock.set("2026-11-22T00:00:30Z");
    serving.happens("message", "main", "Fourth and fifth.");
    let heard = all.server.wait(0).pop().expect("a request").heard();
    assert!(heard.contains("fourth") && heard.contains("fifth"), "{heard}");
    assert_eq!(spent(&all), json!([20, 100]));
    let ran = serving.stop();
    for told in ["have used 89 of", "have used up their"] {
        assert_eq!(ran.stdout.matches(told).count(), 1, "{ran}");
    }
}

/// What 39,990 tokens of input cost, and one of output: a little less than 0.08 dollars.
const DEAR: u64 = 39_991;

#[test]
fn what_it_may_cost_is_a_limit_as_well() {
    let all = Standing::with("[limits]\nunattended_cost = 0.09\n");
    let serving = all.serve();
    all.act("main", &[]);
    assert_eq!(all.status()["budget_cost"], json!([0, 90_000]));
    remind(&all, &serving, "09:00", "First.", DEAR / 4);
    assert_eq!(all.status()["budget_cost"], json!([20_002, 90_000]));
    at(&all, "09:10", "second");
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Second.").usage([DEAR - 1, 1, 0, 0]));
    all.clock.set("2026-11-21T09:10:00Z");
    serving.happens("message", "", "have used up their $0.09 of today");
    serving.happens("message", "main", "Second.");
    let asked = all.server.wait(0).len();
    at(&all, "09:30", "third");
    all.clock.set("2026-11-21T09:30:00Z");
    serving.happens("reminder", "main", "is due");
    all.act("other", &["echo by the owner"]);
    assert_eq!(all.server.asked(asked + 2).len(), asked + 2, "no request but the owner's");
    let shown = all.home.run(&["status"]).stdout_any().check().stdout;
    assert!(shown.contains("$0.10 of $0.09 today (111 %)"), "{shown}");
    let usage = all.home.run(&["usage", "--by", "origin"]).stdout_any().check().stdout;
    assert!(usage.contains("\nreminder ") && usage.contains("\nUnattended: 50.0k"), "{usage}");
    let ran = serving.stop();
    assert_eq!(ran.stdout.matches("have used up their").count(), 1, "{ran}");
}

#[test]
fn near_the_end_of_what_it_may_cost_the_owner_is_warned() {
    let all = Standing::with("[limits]\nunattended_cost = 0.09\n");
    let serving = all.serve();
    all.act("main", &[]);
    at(&all, "09:00", "first");
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("First.").usage([DEAR - 1, 1, 0, 0]));
    all.clock.set("2026-11-21T09:00:00Z");
    serving.happens("message", "", "have used $0.08 of the $0.09 they may cost a day");
    serving.happens("message", "main", "First.");
    // A kill makes nothing of it unpaid.
    serving.kill();
    let serving = all.serve();
    assert_eq!(all.status()["budget_cost"], json!([79_990, 90_000]));
    serving.stop();
}

#[test]
fn a_kill_makes_nothing_of_it_unspent() {
    let (all, serving) = home();
    all.act("main", &[]);
    remind(&all, &serving, "09:00", "First.", 100);
    serving.kill();
    let serving = all.serve();
    assert_eq!(spent(&all), json!([100, 100]));
    at(&all, "09:30", "second");
    all.clock.set("2026-11-21T09:30:00Z");
    serving.happens("reminder", "main", "is due");
    let ran = serving.stop();
    assert!(!ran.stdout.contains("have used up"), "it was told before: {ran}");
}

/// In the middle of a turn, too: it ends with what was done.
#[test]
fn a_turn_that_uses_it_up_goes_no_further() {
    let (all, serving) = home();
    all.act("main", &[]);
    at(&all, "09:00", "much");
    all.server.allow_prefix_change();
    all.server.queue(Reply::new().bash("echo done > done").usage([99, 1, 0, 0]));
    all.clock.set("2026-11-21T09:00:00Z");
    serving.happens("message", "main", "unattended turns have used up their 100 tokens of today");
    assert_eq!(all.home.read("done").as_deref(), Some("done\n"));
    serving.stop();
}

#[test]
fn a_job_that_asks_a_model_is_on_it_and_so_is_what_that_starts() {
    let inner = Server::start();
    let all = Standing::with(&format!(
        "[limits]\nunattended = 100\n[models.inner]\nwire = \"openai\"\nname = \"m\"\n\
         base_url = \"{}/v1\"\nkey = \"ANTHROPIC_API_KEY\"\n",
        inner.url()
    ));
    let serving = all.serve();
    all.act("main", &["echo '0 * * * * fledgling run --session digest go' > crontab"]);
    all.status_when("it is in force", |status| status["jobs"][0].is_object());
    all.server.allow_prefix_change();
    let command = "fledgling run --session inner --model inner go";
    all.server.queue(Reply::new().bash(command).usage([29, 1, 0, 0]));
    inner.queue(Reply::text("I cost much.").usage([60, 10, 0, 0]));
    let asked = all.server.wait(0).len();
    all.clock.set("2026-11-21T09:00:00Z");
    serving.happens("message", "", "have used up their 100 tokens of today");
    let told = serving.happens("message", "", "The job digest failed");
    let told = told["fields"]["message"].as_str().expect("a text").to_owned();
    assert!(told.contains("unattended turns have used up their 100 tokens of today"), "{told}");
    all.clock.set("2026-11-21T10:00:00Z");
    serving.happens("job", "digest", "failed");
    let status = all.status();
    let said = status["jobs"][0]["tail"].as_str().expect("a text");
    assert!(said.contains("unattended turns have used up their 100 tokens of today"), "{said}");
    all.server.asked(asked + 1);
    assert_eq!(all.row::<u32>("SELECT count(*) FROM inbox"), 0, "it is not said tomorrow");
    // Jobs that ask no model go on.
    all.act("main", &["echo '0 * * * * touch plain' >> crontab"]);
    all.status_when("it is in force", |status| status["jobs"][1].is_object());
    all.clock.set("2026-11-21T11:00:00Z");
    serving.happens("job", "touch", "done");
    serving.stop();
}

/// What a provider has begun to say it has been paid for; what it refuses costs nothing.
#[test]
fn a_reply_that_breaks_off_counts_and_one_that_is_refused_does_not() {
    for (reply, counts) in [
        (Reply::text("A reply that breaks").cut(), true),
        (Reply::error(400, "invalid_request_error", "no"), false),
    ] {
        let all = Standing::with("[limits]\nunattended = 1000000\n");
        let serving = all.serve();
        all.act("main", &[]);
        at(&all, "09:00", "once");
        let asked = all.server.wait(0).len();
        all.server.allow_prefix_change();
        all.server.queue(reply);
        all.clock.set("2026-11-21T09:00:00Z");
        all.server.wait(asked + 1);
        serving.stop();
        assert_eq!(spent(&all)[0] != json!(0), counts);
    }
}
