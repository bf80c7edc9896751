//! What confinement costs: `cargo bench --bench hands`.
//!
//! Owns one table of numbers, all from one run, in which each way takes its turn in every
//! round: what is confined stands beside the same without. Drives hands as a turn does, with
//! the chain that this machine's owner would have. Prints numbers and asserts none.

#![allow(dead_code, unused_imports, reason = "the program uses what this does not")]
#![allow(missing_docs, reason = "the modules are documented where they belong")]

#[path = "../src/files/mod.rs"]
mod files;
#[path = "../src/guard/mod.rs"]
mod guard;
#[path = "../src/kernel/mod.rs"]
mod kernel;
#[path = "../src/organs/mod.rs"]
mod organs;
mod table;
#[path = "../src/walls/mod.rs"]
mod walls;
#[path = "../src/wires/mod.rs"]
mod wires;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guard::hand::Hand;
use guard::policy::{Chain, Policy};
use kernel::interrupt::interrupt;
use kernel::tool::{Action, Hands as _};
use organs::home::Home;
use organs::reach::root::Reach;
use organs::reach::settings::{Confine, HandsSettings};
use table::{Sample, conditions, head, load, row};

/// Rounds that count. Some more go before them.
const ROUNDS: usize = 300;
const WARM: usize = 20;
/// Links of the chains that are measured.
const DEPTHS: [usize; 3] = [1, 5, 14];
/// What a depth-1 call may cost more, in milliseconds: bash with its supervisor, a file tool.
const AIMS: [f64; 2] = [0.8, 0.4];

/// What is done.
type Make = fn() -> Action;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Home::resolve(Some(folder.path().join("home"))).expect("a home");
    home.create().expect("a home");
    let reach = Reach::new(&home, Confine::On, HandsSettings::default()).expect("its reach");
    let chain = reach.chain(&home.workspace(), &[], &[]).expect("a chain");
    let root = chain.links()[0].clone();
    let rules = root.read.len() + root.write.len();
    let hand = |chain| Hand::new(policy(&home, chain));
    let mut ways = vec![("hands that are not confined".to_owned(), hand(Chain::Off))];
    for depth in DEPTHS {
        let links = vec![root.clone(); depth];
        ways.push((format!("a chain of {depth}"), hand(Chain::Links(links))));
    }
    let acts: [(&str, Make); 4] = [
        ("bash -c true", || Action::Bash {
            command: "true".to_owned(),
            timeout: Duration::from_secs(60),
        }),
        ("read, 100 lines", || Action::Read { path: "file".into(), offset: 1, limit: 100 }),
        ("write, 2 KB", || Action::Write { path: "new".into(), content: "x".repeat(2_000) }),
        ("bash, 100 files read", || Action::Bash {
            command: "cat many/*".to_owned(),
            timeout: Duration::from_secs(60),
        }),
    ];
    let line = "a line of some length, as they are\n";
    std::fs::write(home.workspace().join("file"), line.repeat(100)).expect("a file");
    std::fs::create_dir(home.workspace().join("many")).expect("a folder");
    for number in 0..100 {
        let path = home.workspace().join(format!("many/{number}"));
        std::fs::write(path, line).expect("a file");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let before = load();
    let mut bare = Vec::new();
    let mut took = vec![vec![Vec::new(); ways.len()]; acts.len()];
    for round in 0..WARM + ROUNDS {
        let start = Instant::now();
        let mut bash = Command::new("/bin/bash");
        bash.args(["-c", "true"]).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(bash.status().expect("bash").success());
        bare.push(start.elapsed());
        for (act, took) in acts.iter().zip(&mut took) {
            for ((_, hand), took) in ways.iter().zip(took) {
                let (_interrupter, interrupt) = interrupt();
                let start = Instant::now();
                let outcome = runtime.block_on(hand.act(act.1(), interrupt));
                took.push(start.elapsed());
                assert!(!outcome.error, "{}", outcome.text);
            }
        }
        if round + 1 == WARM {
            bare.clear();
            took.iter_mut().flatten().for_each(Vec::clear);
        }
    }
    println!(
        "A layer of {rules} rules; {ROUNDS} rounds, in each of which every way takes its turn.\n"
    );
    println!("| | median | p10 | more than unconfined (p10) | aim |\n|---|---|---|---|---|");
    tell("bare `bash -c true`", &mut bare, None, None);
    for ((name, _), took) in acts.iter().zip(&mut took) {
        let control = tenth(&mut took[0].clone());
        for (number, ((way, _), took)) in ways.iter().zip(took).enumerate() {
            let aim = AIMS[usize::from(!name.starts_with("bash"))];
            let aim = Some(aim).filter(|_| number == 1 && !name.contains("100 files"));
            tell(&format!("{name}, {way}"), took, Some(control).filter(|_| number > 0), aim);
        }
    }
    println!("\nload before: {before}, after: {}", load());
}

fn tell(what: &str, took: &mut [Duration], control: Option<f64>, aim: Option<f64>) {
    let p10 = tenth(took);
    let median = took[took.len() / 2].as_secs_f64() * 1e3;
    let more = control.map_or(String::new(), |control| {
        format!("{:.2} ms, {:.2} ×", p10 - control, p10 / control)
    });
    let aim = aim.map_or(String::new(), |aim| format!("{aim} ms"));
    println!("| {what} | {median:.2} ms | {p10:.2} ms | {more} | {aim} |");
}

fn tenth(took: &mut [Duration]) -> f64 {
    took.sort_unstable();
    took[took.len() / 10].as_secs_f64() * 1e3
}

fn policy(home: &Home, chain: Chain) -> Policy {
    let env = [("PATH", "/usr/bin:/bin")].map(|(name, value)| (name.into(), value.into()));
    let scratch = home.scratch().canonicalize().expect("scratch");
    let held = Arc::new(File::open("/dev/null").expect("/dev/null"));
    let own = vec![scratch.clone()];
    let withheld = files::withheld::Withheld::default();
    Policy { workspace: home.workspace(), scratch, env: env.to_vec(), chain, own, held, withheld }
}
