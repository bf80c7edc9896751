//! Everyday work in tool calls: what people build, run and fetch on their machines works
//! there too, with no more than what each test grants, and without a network but loopback.
//!
//! A tool that the machine lacks is left out, unless `FLEDGLING_TEST_EVERYDAY=1` says that
//! all of them must be there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::home::Home;

/// Where tools are looked for: those of the system alone, nothing of somebody's own.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What a newborn workspace holds.
const NEWBORN: [&str; 5] = [".gitignore", "bootstrap.md", "crontab", "memory/", "skills/"];

/// A home in which everyday work is done.
struct Day {
    home: Home,
    /// What is put before `PATH`.
    toolchain: Option<PathBuf>,
}

impl Day {
    /// One with these tools; none where the machine lacks one.
    fn with(tools: &[&str]) -> Option<Self> {
        let there = |tool: &&&str| std::env::split_paths(PATH).any(|one| one.join(tool).is_file());
        let missing: Vec<_> = tools.iter().filter(|tool| !there(tool)).collect();
        if missing.is_empty() {
            return Some(Self { home: Home::new().env("PATH", PATH), toolchain: None });
        }
        let all = std::env::var("FLEDGLING_TEST_EVERYDAY").is_ok_and(|set| set == "1");
        assert!(!all, "the machine lacks {missing:?}");
        eprintln!("left out: the machine lacks {missing:?}");
        None
    }

    /// Give hands more than they have by default: lines for `[hands]` in config.toml, as
    /// `read = ["/opt"]` or `network = "full"`.
    fn grants(self, lines: &[&str]) -> Self {
        let home = self.home.config(&format!("[hands]\n{}\n", lines.join("\n")));
        Self { home, ..self }
    }

    /// What came of one command: what the model is told, and whether it failed.
    fn tell(&self, command: &str) -> (String, bool) {
        let path = self.toolchain.as_deref().map(Path::display);
        let path = path.map(|path| format!("export PATH={path}:$PATH; ")).unwrap_or_default();
        let call = json!({"name": "bash", "input": {"command": format!("{path}{command}"), "timeout": 300}});
        let script = [json!({"calls": [call]}), json!({"text": "Done."})];
        let model = self.home.script(&script);
        let ran = self.home.command(&["run", "--json", "--model", &model, "go"]).output();
        let ran = ran.expect("the program");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let mut events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let result = events.find(|event| event["event"] == "result");
        let result = result.unwrap_or_else(|| {
            panic!("no result:\n{said}\n{}", String::from_utf8_lossy(&ran.stderr))
        });
        let told = result["text"].as_str().unwrap_or_default().to_owned();
        (told, result["error"].as_bool().unwrap_or(true))
    }

    /// What a command says that works.
    #[track_caller]
    fn does(&self, command: &str) -> String {
        let (told, failed) = self.tell(command);
        assert!(!failed, "{command}\nfailed:\n{told}");
        told
    }

    /// What a command says that does not.
    #[track_caller]
    fn cannot(&self, command: &str) -> String {
        let (told, failed) = self.tell(command);
        assert!(failed, "{command}\ndid not fail:\n{told}");
        told
    }

    /// What the history took of what was done: files, and folders of which it took any.
    fn kept(&self) -> Vec<String> {
        let all = self.home.git(&["ls-files", "-z"]);
        let names = all.split_terminator('\0').map(str::to_owned);
        names.filter(|name| !NEWBORN.iter().any(|newborn| name.starts_with(newborn))).collect()
    }
}

/// A server on loopback that gives this page to whoever asks for anything.
fn serve(page: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    // It lives as long as the tests do.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut asked: Vec<u8> = Vec::new();
                let mut piece = [0; 1024];
                while !asked.windows(4).any(|four| four == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(length @ 1..) => asked.extend(&piece[..length]),
                        _ => return,
                    }
                }
                let length = page.len();
                // Whoever asked may have gone.
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
                );
            });
        }
    });
    at
}

#[test]
fn cargo_builds_and_tests_a_crate() {
    // A toolchain lies in somebody's own folder, which hands are not given by themselves.
    let asked = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc");
    let sysroot = String::from_utf8(asked.stdout).expect("a path").trim().to_owned();
    let Some(mut day) = Day::with(&["cc"]) else { return };
    day.toolchain = Some(Path::new(&sysroot).join("bin"));
    let day = day.grants(&[&format!("read = [{sysroot:?}]")]);
    let told = day.does(
        "set -e
        mkdir -p crate/src && cd crate
        printf '[package]\\nname = \"hello\"\\nversion = \"0.1.0\"\\nedition = \"2024\"\\n' > Cargo.toml
        printf 'fn main() { println!(\"hello from cargo\"); }\\n#[test]\\nfn it_works() {}\\n' > src/main.rs
        cargo build --offline && cargo test --offline && target/debug/hello",
    );
    assert!(told.contains("1 passed") && told.ends_with("hello from cargo\n"), "{told}");
    assert_eq!(day.kept(), ["crate/Cargo.lock", "crate/Cargo.toml", "crate/src/main.rs"]);
}

#[test]
fn python_makes_an_environment_and_installs_a_wheel() {
    let Some(day) = Day::with(&["python3"]) else { return };
    let told = day.does(
        r#"set -e
        export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
        cat > wheel.py <<'END'
import zipfile
with zipfile.ZipFile("hello-1.0-py3-none-any.whl", "w") as wheel:
    info = "hello-1.0.dist-info/"
    wheel.writestr("hello.py", "def greet():\n    return 'hello from a wheel'\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "hello.py,,\n" + "".join(f"{info}{name},,\n" for name in ["METADATA", "WHEEL", "RECORD"]))
END
        python3 wheel.py
        python3 -m venv .venv
        .venv/bin/pip install --no-index ./hello-1.0-py3-none-any.whl
        .venv/bin/python -c 'import hello; print(hello.greet())'"#,
    );
    assert!(told.ends_with("hello from a wheel\n"), "{told}");
    assert_eq!(day.kept(), ["hello-1.0-py3-none-any.whl", "wheel.py"]);
}

#[test]
fn python_computes_in_several_processes() {
    let Some(day) = Day::with(&["python3"]) else { return };
    let pool = "cat > pool.py <<'END'
import multiprocessing

def square(number):
    return number * number

if __name__ == '__main__':
    for way in ['fork', 'spawn', 'forkserver']:
        with multiprocessing.get_context(way).Pool(3) as pool:
            print(way, sum(pool.map(square, range(100))))
END
        python3 pool.py";
    let told = day.cannot(pool);
    assert!(told.contains("Python's multiprocessing needs `write /dev/shm`."), "{told}");
    // The third way speaks over a socket.
    let told = day.grants(&["write = [\"/dev/shm\"]", "unix = true"]).does(pool);
    assert_eq!(told, "fork 328350\nspawn 328350\nforkserver 328350\n");
}

#[test]
fn npm_installs_a_package_of_the_workspace() {
    let Some(day) = Day::with(&["npm", "node"]) else { return };
    let told = day.does(
        r#"set -e
        mkdir -p lib app
        echo '{"name": "lib", "version": "1.0.0", "main": "index.js"}' > lib/package.json
        echo 'exports.greet = () => "hello from npm"' > lib/index.js
        echo '{"name": "app", "version": "1.0.0", "scripts": {"greet": "node -p \"require(\\\"lib\\\").greet()\""}}' > app/package.json
        cd lib && npm pack --offline --silent && cd ../app
        npm install --offline --no-audit --no-fund --no-update-notifier ../lib/lib-1.0.0.tgz
        npm run --silent greet"#,
    );
    assert!(told.ends_with("hello from npm\n"), "{told}");
    let kept = ["app/package-lock.json", "app/package.json"];
    assert_eq!(
        day.kept(),
        [&kept[..], &["lib/index.js", "lib/lib-1.0.0.tgz", "lib/package.json"]].concat()
    );
}

#[test]
fn node_runs_a_script_with_workers_and_knows_its_networks() {
    let Some(day) = Day::with(&["node"]) else { return };
    let told = day.does(
        r#"cat > work.js <<'END'
const { Worker, isMainThread, parentPort } = require("worker_threads");
if (isMainThread) {
  console.log(typeof require("os").networkInterfaces());
  new Worker(__filename).on("message", said => {
    console.log(said);
    console.log(require("child_process").execFileSync("echo", ["from a child"], { encoding: "utf8" }).trim());
  });
} else {
  parentPort.postMessage("from a worker");
}
END
        node work.js"#,
    );
    assert_eq!(told, "object\nfrom a worker\nfrom a child\n");
}

#[test]
fn git_keeps_a_repository_in_the_workspace() {
    let Some(day) = Day::with(&["git"]) else { return };
    let told = day.does(
        "set -e
        mkdir project && cd project && git init --quiet .
        git config user.name Ann && git config user.email ann@localhost
        echo one > a.txt && git add a.txt && git commit --quiet --message 'First'
        echo two >> a.txt && git diff && git stash --quiet && git stash pop --quiet
        git switch --quiet --create other && git commit --all --quiet --message 'Second'
        git log --format=%s && git clone --quiet . ../copy && cat ../copy/a.txt",
    );
    assert!(told.contains("\n+two\n"), "{told}");
    assert!(told.ends_with("\nSecond\nFirst\none\ntwo\n"), "{told}");
}

#[test]
fn sqlite_keeps_a_database() {
    let Some(day) = Day::with(&["sqlite3"]) else { return };
    let told = day.does(
        "set -e
        mkdir -p data
        sqlite3 data/a.db 'PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)'
        fledgling sql data/a.db 'INSERT INTO t VALUES (3)' 2>/dev/null
        sqlite3 data/a.db 'SELECT sum(a) FROM t'
        fledgling sql --bare data/a.db 'SELECT count(*) FROM t'",
    );
    assert_eq!(told, "wal\n6\n3\n");
    assert_eq!(day.kept(), ["data/a.db"]);
}

#[test]
fn curl_fetches_from_a_local_server() {
    let Some(day) = Day::with(&["curl"]) else { return };
    let at = serve("<p>hello from a server</p>\n");
    let told = day.does(&format!("curl --silent --show-error http://{at}/"));
    assert_eq!(told, "<p>hello from a server</p>\n");
}

#[test]
fn ssh_is_refused_and_says_why() {
    let Some(day) = Day::with(&["ssh"]) else { return };
    // A port that is nobody's any more.
    let at = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let key = day.home.cwd().canonicalize().expect("a folder").join(".ssh/id_ed25519");
    std::fs::create_dir(key.parent().expect("a folder")).expect("a folder");
    std::fs::write(&key, "no key at all\n").expect("a file");
    let (key, port) = (key.display(), at.port());
    let told = day.cannot(&format!(
        "ssh-keygen -y -f {key}; ssh -F none -i {key} -o BatchMode=yes -o StrictHostKeyChecking=no -p {port} 127.0.0.1 true",
    ));
    assert!(told.contains("Connection refused"), "{told}");
    assert!(told.contains(&format!("confined: {key} may not be read.")), "{told}");
}

#[test]
fn a_program_gets_a_terminal_of_its_own() {
    let Some(day) = Day::with(&["python3", "script"]) else { return };
    let command = "script --quiet --return --command 'test -t 0 && test -t 1 && tty >/dev/null && echo a terminal' /dev/null
        python3 -c 'import pty; pty.spawn([\"sh\", \"-c\", \"test -t 1 && echo another\"])'";
    let told = day.cannot(command);
    assert!(told.contains("A terminal of its own needs `write /dev/pts`."), "{told}");
    let told = day.grants(&["write = [\"/dev/pts\"]"]).does(command);
    assert_eq!(told.replace('\r', ""), "a terminal\nanother\n");
}

#[test]
fn chromium_fetches_a_local_page() {
    let Some(day) = Day::with(&["chromium"]) else { return };
    let day = day.grants(&["network = \"full\"", "unix = true"]);
    let at = serve(
        "<!doctype html><p id=x>before</p><script>x.textContent = 'after ' + (40 + 2)</script>",
    );
    let told = day.does(&format!(
        "timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
         --disable-background-networking --disable-component-update --disable-sync \
         --user-data-dir=\"$TMPDIR/chromium\" --dump-dom http://{at}/ 2>chromium.log \
         || {{ cat chromium.log; false; }}",
    ));
    assert!(told.contains("<p id=\"x\">after 42</p>"), "{told}");
    assert_eq!(day.kept(), ["chromium.log"]);
}

#[test]
fn a_program_in_c_is_made_and_packed() {
    let Some(day) = Day::with(&["gcc", "make", "tar", "gzip"]) else { return };
    let told = day.does(
        "set -e
        printf '#include <stdio.h>\\nint main(void) { puts(\"hello from c\"); return 0; }\\n' > hello.c
        printf 'hello: hello.c\\n\\tgcc -O2 -Wall -o $@ $<\\n' > Makefile
        make --silent && ./hello
        tar --create --gzip --file hello.tar.gz hello hello.c
        mkdir out && tar --extract --file hello.tar.gz --directory out && cmp hello out/hello && ls out",
    );
    assert_eq!(told, "hello from c\nhello\nhello.c\n");
}
