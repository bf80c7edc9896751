//! The page that `fledgling report` writes: what stands in it, that nothing of what people,
//! models and files say becomes more than text, and what a real browser makes of it.
//!
//! Without Chromium the browser's part is left out, unless `FLEDGLING_TEST_EVERYDAY=1` says
//! that it must be there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::home::Home;
use crate::reply::Reply;
use crate::standing::{Serving, Standing, until};

/// What people and models may say that is more than words to a browser.
const EVIL: &str = "a<script>alert(1)</script>\"><img src=x onerror=alert(2)>'";
/// And where a link would lead away.
const AWAY: &str =
    "<a href=\"https://example.org\" style=\"background:url(//example.org)\">away</a>";
/// The most bytes a page may have, whatever happened.
const PAGE: usize = 4_000_000;

/// A home in which all kinds of things happened, with its host.
struct World {
    all: Standing,
    serving: Serving,
}

impl World {
    fn new() -> Self {
        let all = Standing::new();
        let serving = all.serve();
        let world = Self { all, serving };
        world.turn(
            EVIL,
            &format!("See {AWAY} and \u{202e}this\u{202c}."),
            "mkdir -p '<b>&' && echo '<script>alert(3)</script>' > '<b>&/\"><img onerror=alert(4)>.txt'
            echo hidden > $'evil\\u202egpj.exe'; printf '\\xff\\xfe caf\\xe9 \\x1b[31m\\r\\n' > latin
            head -c 100000 /dev/zero | tr '\\0' x > line; head -c 900 /dev/zero > blob.bin
            fledgling sql notes.db \"create table t(id integer primary key, text)\"
            fledgling sql notes.db \"insert into t values (1, '<script>alert(5)</script>')\"
            echo '0 9 * * * echo \"<i>said</i>\"' > crontab",
        );
        world.turn(
            "Much",
            "Very much.",
            "seq 100000 > lines; seq -f 'this is line %g' 4000 > long; for n in $(seq 150); do echo $n > many-$n; done",
        );
        world.turn("Change it", "I did.", "sed -i 's/line 2000$/line nothing/' long; fledgling sql notes.db \"update t set text = 'milk'\"");
        world.all.status_when("the job is in force", |status| status["jobs"][0]["name"] == "echo");
        world.all.clock.set("2026-11-21T09:00:00Z");
        world.serving.happens("job", "echo", "done");
        world.says(&["undo"]);
        world.says(&["at", "in 2 hours", "<u>the dentist</u>"]);
        fs::write(world.all.home.workspace("mine"), "by hand\n").expect("a file");
        world.turn("Look at mine", "I looked.", "cat mine; echo seen > seen");
        world
    }

    fn turn(&self, asked: &str, said: &str, command: &str) {
        let server = &self.all.server;
        server.allow_prefix_change();
        let usage = [6_000, 300, 4_000, 0];
        server.queue(Reply::new().bash(command).usage(usage)).queue(Reply::text(said));
        let run = self.all.home.run(&["run", "--session", "s", asked]);
        run.stdout_any().stderr_any().check();
    }

    fn says(&self, arguments: &[&str]) -> String {
        self.all.home.run(arguments).stdout_any().stderr_any().check().stdout
    }

    /// The page, with how many changes it must tell.
    fn page(&self) -> (String, usize) {
        let page = self.says(&["report", "-"]);
        (page, self.says(&["log", "-n", "1000", "--json"]).lines().count())
    }
}

#[test]
fn the_page_tells_everything_and_lets_none_of_it_become_markup() {
    let world = World::new();
    let (page, changes) = world.page();
    assert!(page.len() < PAGE, "{} bytes", page.len());
    assert_eq!(page.matches("<li class=\"change").count(), changes);
    for part in [
        // What was asked, said and done.
        "a&lt;script&gt;alert(1)&lt;/script&gt;&quot;&gt;&lt;img",
        "and ⟨U+202E⟩this⟨U+202C⟩.",
        "evil⟨U+202E⟩gpj.exe",
        "\u{fffd}\u{fffd} caf\u{fffd} ␛[31m␍",
        "more characters)",
        "<td>&lt;script&gt;alert(5)&lt;/script&gt;</td>",
        "this is line <b>nothing</b>",
        "and 52 more files",
        "Not text, or very much of it: 900 bytes",
        // By whom, and what became of it.
        "change undo\"",
        "change owner\"",
        "change agent undone\"",
        "Taken back by ",
        "Takes back ",
        // What is to come, and what came of it.
        "2026-11-21 09:00: done",
        "&lt;i&gt;said&lt;/i&gt;",
        "&lt;u&gt;the dentist&lt;/u&gt;",
        "<h3 dir=\"auto\">s</h3>",
        "4 turns",
    ] {
        assert!(page.contains(part), "no {part} in the page");
    }
    for part in
        ["<script", "<img", "<i>", "<u>", "<link", "=\"http", "@import", "\u{1b}", "\u{202e}"]
    {
        assert!(!page.contains(part), "{part} in the page");
    }
    let (head, body) = page.split_once("</style>").expect("a style sheet");
    assert!(!head.contains("url(") && !body.contains("<style"), "a style that loads something");
    assert!(body.split("href=\"").skip(1).all(|link| link.starts_with('#')), "a link leads away");
    // Not one day more than is asked for.
    let today = world.says(&["report", "--days", "1", "-"]);
    assert_eq!(today.matches("<li class=\"change").count(), changes);
    world.serving.stop();
}

/// What a browser finds in the page, in a frame of this many pixels.
fn looked_at(page: &str, width: u32, dark: bool) -> Option<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let text = serde_json::to_string(page).expect("JSON").replace("</", "<\\/");
    let frame = format!(
        "<!doctype html><meta charset=utf-8><iframe style='width:{width}px;height:900px;border:0'></iframe>
        <pre id=said></pre><script>const page = {text}; {LOOK}</script>"
    );
    let file = folder.path().join("frame.html");
    fs::write(&file, frame).expect("a file");
    let there = Path::new("/usr/bin/chromium").is_file();
    if !there {
        let must = std::env::var("FLEDGLING_TEST_EVERYDAY").is_ok_and(|set| set == "1");
        assert!(!must, "the machine lacks chromium");
        eprintln!("left out: the machine lacks chromium");
        return None;
    }
    let mut browser = Command::new("timeout");
    browser.args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu"]);
    browser.arg("--virtual-time-budget=20000").arg("--window-size=1200,1000");
    browser.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
    browser.args(dark.then_some("--blink-settings=preferredColorScheme=0"));
    browser.arg("--dump-dom").arg(format!("file://{}", file.display()));
    browser.env("HOME", folder.path()).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let ran = browser.output().expect("chromium");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let found =
        said.split_once("<pre id=\"said\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (found, _) = found
        .unwrap_or_else(|| panic!("{:?}\n{}", ran.status, String::from_utf8_lossy(&ran.stderr)));
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some(serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found:?}")))
}

/// Put the page into the frame, and say what is there.
const LOOK: &str = r"
const frame = document.querySelector('iframe');
frame.onload = () => {
    const inside = frame.contentDocument, all = selector => [...inside.querySelectorAll(selector)];
    const root = inside.documentElement;
    const tooWide = () => all('body *').filter(one => !one.closest('.wide, .skip, .aside')
        && one.getBoundingClientRect().right > root.clientWidth + 1).map(one => one.outerHTML.slice(0, 200));
    const said = { folded: root.scrollWidth, room: root.clientWidth };
    said.open = all('details.files[open]').length;
    all('details').forEach(one => one.open = true);
    said.unfolded = root.scrollWidth;
    said.tooWide = tooWide();
    said.changes = all('ol.changes > li.change').length;
    said.undone = all('li.change.undone').length;
    said.parts = all('main > section').map(one => one.id);
    said.headings = all('h1, h2, h3, h4, h5').map(one => Number(one.tagName[1]));
    said.active = all('script, img, iframe, object, embed, link, form, base, audio, video').length;
    said.handlers = all('*').filter(one => [...one.attributes].some(a => /^on|^src/.test(a.name))).length;
    said.lost = all('a').filter(one => !inside.getElementById(one.hash.slice(1))).map(one => one.hash);
    said.loaded = frame.contentWindow.performance.getEntriesByType('resource').length;
    said.paper = getComputedStyle(inside.body).backgroundColor;
    said.bars = all('figure svg g').length;
    said.named = all('figure svg').every(one => one.getAttribute('aria-label'));
    const seen = () => all('li.change.agent').filter(one => one.offsetParent).length;
    said.agents = [seen()];
    inside.querySelector('label[for=show-agent]').click();
    said.agents.push(seen());
    said.reached = all('.wide').every(one => one.tabIndex === 0);
    document.getElementById('said').textContent = JSON.stringify(said);
};
frame.srcdoc = page;
";

#[test]
fn a_browser_shows_it_on_a_phone_and_in_the_dark() {
    let world = World::new();
    let (page, changes) = world.page();
    world.serving.stop();
    let Some(phone) = looked_at(&page, 360, false) else { return };
    assert_eq!((&phone["changes"], &phone["undone"]), (&json!(changes), &json!(1)), "{phone:#}");
    assert_eq!(phone["parts"], json!(["days", "changes", "schedule", "sessions"]));
    for nothing in ["active", "handlers", "loaded", "open"] {
        assert_eq!(phone[nothing], 0, "{nothing}: {phone:#}");
    }
    assert_eq!(phone["lost"], json!([]), "{phone:#}");
    // Nothing is wider than the screen, folded or not.
    assert_eq!(phone["tooWide"], json!([]), "{phone:#}");
    assert!(phone["folded"] == phone["room"] && phone["unfolded"] == phone["room"], "{phone:#}");
    // No heading is skipped on the way down.
    let levels: Vec<_> = phone["headings"].as_array().expect("a list").iter().collect();
    let levels: Vec<_> = levels.iter().map(|level| level.as_u64().expect("a level")).collect();
    assert!(levels[0] == 1 && levels.windows(2).all(|two| two[1] <= two[0] + 1), "{levels:?}");
    assert!(phone["named"] == true && phone["reached"] == true, "{phone:#}");
    assert_eq!(phone["bars"], 3, "a day with changes, tokens and what they cost");
    let agents = phone["agents"].as_array().expect("a list");
    assert!(agents[0].as_u64() >= Some(3) && agents[1] == 0, "{agents:?}");
    let Some(dark) = looked_at(&page, 1_000, true) else { return };
    assert_eq!(dark["tooWide"], json!([]), "{dark:#}");
    assert_ne!(dark["paper"], phone["paper"]);
}

/// A home, and a folder in which the only opener is that says what it was asked.
fn opener(script: &str) -> (Home, PathBuf) {
    let home = Home::new();
    let folder = home.cwd().join("bin");
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("xdg-open");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a file");
    let rest = std::env::var_os("PATH").expect("a path");
    let path = [folder.clone()].into_iter().chain(std::env::split_paths(&rest));
    let path = std::env::join_paths(path).expect("a path");
    (home.env("PATH", path), folder)
}

#[test]
fn it_is_written_where_it_is_wanted_for_its_owner_alone() {
    let home = Home::new();
    home.run(&["init"]).stdout_any().stderr_any().check();
    let here = home.cwd().canonicalize().expect("a folder");
    let page = here.join("fledgling-report.html");
    home.run(&["report"]).stdout(&format!("{}\n", page.display())).check();
    let mode = |file: &Path| fs::metadata(file).expect("a page").permissions().mode() & 0o777;
    assert_eq!(mode(&page), 0o600);
    assert!(fs::read_to_string(&page).expect("a page").contains("The workspace as it begins"));
    // Another one in its place, and through a link.
    fs::set_permissions(&page, fs::Permissions::from_mode(0o644)).expect("a page");
    symlink(&page, here.join("link")).expect("a link");
    let said = home.run(&["--json", "report", "link"]).stdout_any().check().stdout;
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&said["file"], &said["changes"]), (&json!(page), &json!(1)));
    assert_eq!(mode(&page), 0o600);
    assert_eq!(fs::read_dir(&here).expect("a folder").count(), 2, "something is left beside it");
    for (arguments, code, why) in [
        (&["report", "."][..], 1, "is no file; name one to write"),
        (&["report", "/dev/null"], 1, "is no file; name one to write"),
        (&["report", "none/page.html"], 1, "cannot write"),
        (&["report", "--open", "-"], 2, "only a page in a file can be opened"),
        (&["report", "--days", "0"], 2, "0 is not in 1..=3660"),
    ] {
        home.run(arguments).code(code).stderr_holds(&[why]).check();
    }
    // No page of what was withheld lands in the workspace by itself.
    let mut inside = home.command(&["report"]);
    let temporary = home.cwd().join("temporary");
    fs::create_dir(&temporary).expect("a folder");
    let ran = inside.current_dir(home.workspace("")).env("TMPDIR", &temporary).output();
    assert!(ran.expect("the program").status.success());
    assert!(temporary.join("fledgling-report.html").is_file());
    assert!(home.read("fledgling-report.html").is_none());
}

#[test]
fn the_system_opens_it_or_says_that_it_cannot() {
    let (home, folder) = opener("echo \"$1\" > \"$0.new\"; mv \"$0.new\" \"$0.asked\"");
    let page = home.cwd().canonicalize().expect("a folder").join("a page.html");
    home.run(&["report", "--open", "a page.html"]).stdout_any().stderr_any().check();
    until("it was asked", || folder.join("xdg-open.asked").is_file());
    let asked = fs::read_to_string(folder.join("xdg-open.asked")).expect("a file");
    assert_eq!(asked.trim_end(), page.display().to_string());
    let (home, _) = opener("exit 3");
    let run = home.run(&["report", "--open"]).code(1).stdout_any();
    run.stderr_holds(&["xdg-open could not open the page", "by hand"]).check();
}

#[test]
fn a_tool_call_writes_one_beside_its_workspace_and_opens_nothing() {
    let all = Standing::new();
    let said = all.act(
        "s",
        &[
            "fledgling report && head -c 15 \"$TMPDIR/fledgling-report.html\"",
            "fledgling report --open",
        ],
    );
    assert!(said[0].contains("<!doctype html>"), "{}", said[0]);
    assert!(said[1].contains("only by the owner"), "{}", said[1]);
    assert_eq!(all.home.git(&["status", "--porcelain"]).trim(), "");
    // What a narrowed conversation may not know is not on its page.
    fs::create_dir(all.home.cwd().join("notes")).expect("a folder");
    let narrow = ["--session", "narrow", "--only", "write notes"];
    let said = all.act_with(&narrow, &["fledgling report - | grep -o 'are not for this.*on\\.'"]);
    assert!(said[0].contains("are not for this conversation."), "{}", said[0]);
}
