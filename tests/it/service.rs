//! The service that starts the agent with its owner's session. A script stands in for
//! systemd: it keeps what it is asked, and answers what the test wants.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::Home;

/// Writes down its arguments. It fails, with these words, where a file says so.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >> "$0.asked"
test ! -e "$0.fails" || { cat "$0.fails" >&2; exit 1; }
case "$*" in
    *is-enabled*) echo enabled ;;
    *is-active*) cat "$0.active" 2>/dev/null && exit 3; echo active ;;
esac
"#;

/// A home, and the folder first on PATH in which the script is.
fn home() -> (Home, PathBuf) {
    let home = Home::new();
    let folder = home.cwd().join("fake bin");
    fs::create_dir(&folder).unwrap();
    let script = folder.join("systemctl");
    fs::write(&script, SYSTEMCTL).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let rest = std::env::var_os("PATH").unwrap();
    let path =
        std::env::join_paths([folder.clone()].into_iter().chain(std::env::split_paths(&rest)));
    let config = home.cwd().join("config");
    (home.env("PATH", path.unwrap()).env("XDG_CONFIG_HOME", config), folder)
}

/// What the script was asked since the last time.
fn asked(folder: &Path) -> Vec<String> {
    let path = folder.join("systemctl.asked");
    let lines = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    lines.lines().map(|line| line.trim_start_matches("--user ").to_owned()).collect()
}

/// The only unit there is.
fn unit(home: &Home) -> Option<PathBuf> {
    let folder = fs::read_dir(home.cwd().join("config/systemd/user")).ok()?;
    let mut units = folder.map(|entry| entry.unwrap().path());
    let unit = units.next();
    assert_eq!(units.next(), None);
    unit
}

fn name(unit: &Path) -> String {
    unit.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn it_is_installed_looked_at_and_uninstalled() {
    let (home, folder) = home();
    let none = home.run(&["service", "status"]).code(1).stdout_any().check();
    assert!(none.stdout.starts_with("No service is installed: "), "{none}");
    let printed = home.run(&["service", "install", "--print"]).stdout_any().check().stdout;
    assert_eq!((asked(&folder), unit(&home)), (vec![], None));
    assert!(!home.path("").exists());

    home.run(&["service", "install"]).stdout_any().check();
    let file = unit(&home).unwrap();
    let name = name(&file);
    assert_eq!(fs::read_to_string(&file).unwrap(), printed);
    assert!(name.starts_with("fledgling-") && name.ends_with(".service"), "{name}");
    let program = env!("CARGO_BIN_EXE_fledgling");
    let start = format!(
        "ExecStart=\"{program}\" --home \"{}\" serve\n",
        home.cwd().with_file_name("home").display()
    );
    assert!(printed.contains(&start), "{printed}");
    assert!(printed.contains(&format!("PATH={}:", folder.display())), "{printed}");
    let enable = format!("enable --now {name}");
    assert_eq!(asked(&folder), ["daemon-reload", &enable]);

    let file = file.display();
    let status = |current, running| {
        format!(
            "file        {file}\nup to date  {current}\nenabled     yes\nrunning     {running}\n"
        )
    };
    home.run(&["service", "status"]).stdout(&status("yes", "yes")).check();
    // That of another shell makes it no other service.
    let active = folder.join("systemctl.active");
    fs::write(&active, "activating\n").unwrap();
    let other_path = format!("{}:/bin:/usr/bin", folder.display());
    let run = home.run(&["service", "status"]).env("PATH", &other_path).code(1);
    run.stdout(&status("yes", "no: activating")).check();
    fs::remove_file(active).unwrap();
    asked(&folder);

    // One that has become another is ended, so that it starts as it is now.
    let older = printed.replace("RestartSec=5", "RestartSec=9");
    fs::write(unit(&home).unwrap(), older).unwrap();
    let anew = "no: `fledgling service install` writes it anew";
    home.run(&["service", "status"]).stdout(&status(anew, "yes")).check();
    asked(&folder);
    home.run(&["service", "install"]).stdout_any().check();
    assert_eq!(asked(&folder), ["daemon-reload", &format!("try-restart {name}"), &enable]);
    assert_eq!(fs::read_to_string(unit(&home).unwrap()).unwrap(), printed);

    let gone = format!("{name} is stopped and removed.\n");
    home.run(&["service", "uninstall"]).stdout(&gone).check();
    assert_eq!(asked(&folder), [&format!("disable --now {name}"), "daemon-reload"]);
    assert_eq!(unit(&home), None);
    home.run(&["service", "uninstall"]).stdout_any().check();
    assert_eq!(asked(&folder), [""; 0]);
}

#[test]
fn the_usual_home_has_the_plain_name() {
    let (home, _) = home();
    let usual = home.cwd().with_file_name("user/.local/share/fledgling");
    let home = home.env("FLEDGLING_HOME", usual);
    home.run(&["service", "install"]).stdout_any().check();
    assert_eq!(name(&unit(&home).unwrap()), "fledgling.service");
}

#[test]
fn without_a_bus_the_file_is_written_and_the_owner_told_what_to_run() {
    let (home, folder) = home();
    let fails = folder.join("systemctl.fails");
    fs::write(&fails, "Failed to connect to bus: No medium found\n").unwrap();
    let ran = home.run(&["service", "install"]).code(1).stderr_any().check();
    let file = unit(&home).unwrap();
    let name = name(&file);
    let expected = format!(
        "fledgling: the service is written to {}, but it is not enabled: `systemctl --user daemon-reload` says: Failed to connect to bus: No medium found. Where systemd runs for you, enable it with\n  systemctl --user daemon-reload\n  systemctl --user enable --now {name}\n",
        file.display()
    );
    assert_eq!(ran.stderr, expected);
    let status = home.run(&["service", "status"]).code(1).stdout_any().check();
    assert!(status.stdout.contains("\nrunning     unknown: `systemctl"), "{status}");
    home.run(&["service", "uninstall"]).code(1).stderr_holds(&["No medium found"]).check();
    assert_eq!(unit(&home), None);
}

#[test]
fn without_systemd_the_file_is_written_all_the_same() {
    let (home, folder) = home();
    let empty: OsString = folder.join("nothing").into();
    let run = home.run(&["service", "install"]).env("PATH", empty.to_str().unwrap());
    run.code(1).stderr_holds(&["there is no systemctl on PATH"]).check();
    assert!(unit(&home).is_some());
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let (home, folder) = home();
    home.run(&["service", "install"]).stdout_any().check();
    asked(&folder);
    let file = unit(&home).unwrap();
    fs::write(&file, "[Service]\n").unwrap();
    for what in ["install", "uninstall", "status"] {
        let run = home.run(&["service", what]).code(1);
        run.stderr_holds(&["was not written by `fledgling service install`"]).check();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "[Service]\n");
    assert_eq!(asked(&folder), [""; 0]);
}

#[test]
fn a_key_of_the_environment_is_not_in_the_file_and_the_owner_is_told() {
    let (home, _) = home();
    let home = home.env("OPENAI_API_KEY", "not-a-real-key");
    let told = |home: &Home| {
        let ran = home.run(&["service", "install"]).stdout_any().check();
        ran.stdout.contains("`fledgling secret set OPENAI_API_KEY`")
    };
    assert!(told(&home));
    let unit = fs::read_to_string(unit(&home).unwrap()).unwrap();
    assert!(!unit.contains("not-a-real-key"), "{unit}");
    fs::write(home.path("secrets.toml"), "OPENAI_API_KEY = \"another\"\n").unwrap();
    assert!(!told(&home));
}

#[test]
fn a_tool_call_may_only_look() {
    let (home, folder) = home();
    let home = home.env("FLEDGLING_DOOR", "/no/such/door");
    for what in ["install", "uninstall"] {
        home.run(&["service", what]).code(1).stderr_holds(&["only the owner"]).check();
    }
    assert_eq!((asked(&folder), unit(&home)), (vec![], None));
}

#[test]
fn systemd_takes_the_unit() {
    let (home, _) = home();
    let strange = home.cwd().join("a \"home\" of 100% $HOME ${HOME} \\ 'x'");
    let strange = strange.to_str().unwrap();
    home.run(&["--home", strange, "service", "install"]).stdout_any().check();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--user"]).arg(unit(&home).unwrap());
    let Ok(output) = verify.env("XDG_RUNTIME_DIR", home.cwd()).output() else {
        eprintln!("skipped: no systemd-analyze is installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
