//! The manual page and the completions, as the programs that read them take them.

use std::path::Path;
use std::process::{Command, Output};

use crate::home::Home;

/// What a program of the system says to a text; nothing where the machine lacks it.
fn given(program: &str, args: &[&str], home: &Home) -> Option<Output> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    let mut command = Command::new(program);
    command.args(args).current_dir(home.cwd()).env_clear();
    command.env("PATH", std::env::var_os("PATH")?).env("LC_ALL", "C.UTF-8");
    found.then(|| command.output().unwrap())
}

fn written(home: &Home, args: &[&str], name: &str) -> String {
    let text = home.run(args).stdout_any().check().stdout;
    std::fs::write(home.cwd().join(name), &text).unwrap();
    assert!(!home.path("").exists(), "a home was made");
    text
}

#[test]
fn the_page_is_read_without_a_warning() {
    let home = Home::new();
    let page = written(&home, &["man"], "page.1");
    assert!(page.contains("\n.TH FLEDGLING 1 \"\" \"fledgling "), "{page}");
    for args in [["groff", "-man", "-ww", "-Tutf8"], ["man", "--warnings=all", "-Tutf8", "-l"]] {
        let [program, args @ ..] = args;
        let args: Vec<_> = args.into_iter().chain(["page.1"]).collect();
        let Some(shown) = given(program, &args, &home) else { continue };
        let warned = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(shown.status.success() && warned.is_empty(), "{program}: {warned}");
        // Names are printed twice over, or in colours, to look bold.
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("Without  a  command:"), "{shown}");
    }
}

/// What bash offers where these words were typed.
fn offered(home: &Home, typed: &str) -> Vec<String> {
    let script = format!(
        "source ./fledgling.bash && COMP_WORDS=({typed}) && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) \
         && _fledgling fledgling \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\" \
         && printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let said = given("bash", &["--norc", "-c", &script], home).unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    String::from_utf8(said.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_topics() {
    let home = Home::new();
    written(&home, &["completions", "bash"], "fledgling.bash");
    let parsed = given("bash", &["-n", "fledgling.bash"], &home).unwrap();
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}");
    assert_eq!(offered(&home, "fledgling und"), ["undo"]);
    assert_eq!(offered(&home, "fledgling help sch"), ["schedule"]);
    assert_eq!(offered(&home, "fledgling undo --th"), ["--theirs"]);
    assert_eq!(offered(&home, "fledgling agenda r"), ["rm"]);
    assert!(offered(&home, "fledgling answer 3 ''").contains(&"always".to_owned()));
}

#[test]
fn zsh_and_fish_read_theirs() {
    for shell in ["zsh", "fish"] {
        let home = Home::new();
        written(&home, &["completions", shell], "script");
        assert!(Path::new(&home.cwd().join("script")).exists());
        let Some(parsed) = given(shell, &["-n", "script"], &home) else { continue };
        assert!(parsed.status.success() && parsed.stderr.is_empty(), "{shell}: {parsed:?}");
    }
}
