//! What a service manager is told: a unit of systemd, or a property list of launchd.
//!
//! Owns these texts and how words are quoted in them. Pure: runs nothing and knows no place.

/// Stands in the first lines of what we wrote: nothing else is ever replaced or removed.
pub const MARK: &str = "Written by fledgling service install";

/// What is to be kept running.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The program's own file.
    pub file: &'a str,
    /// The home it serves.
    pub home: &'a str,
    /// The folders it and its hands look for programs in.
    pub path: &'a str,
}

/// A unit of systemd, for one user.
///
/// The home is always named: the environment of a service may name another default.
/// `OOMPolicy`: a tool call that takes all memory must not take the others with it.
pub fn unit(program: Program<'_>) -> String {
    let Program { file, home, path } = program;
    // Variables are put into arguments, and into neither the program nor the environment.
    let argument = |word: &str| quoted(&word.replace('$', "$$"));
    format!(
        "\
# {MARK}, which writes it anew; `fledgling service uninstall` removes it.
[Unit]
Description=fledgling, the agent in {}

[Service]
Type=exec
ExecStart={} --home {} serve
{}
Restart=on-failure
RestartSec=5
TimeoutStopSec=90
KillMode=mixed
OOMPolicy=continue
NoNewPrivileges=yes

[Install]
WantedBy=default.target
",
        escaped(home),
        quoted(file),
        argument(home),
        path_of_unit(path),
    )
}

/// A property list of launchd, for one user. What the program says goes into `log`.
pub fn property_list(label: &str, program: Program<'_>, log: &str) -> String {
    let Program { file, home, .. } = program;
    let [label, file, home, log] = [label, file, home, log].map(xml);
    let path = path_of_list(program.path);
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- {MARK}, which writes it anew; `fledgling service uninstall` removes it. -->
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>{label}</string>
  <key>ProgramArguments</key>
  <array>
    <string>{file}</string>
    <string>--home</string>
    <string>{home}</string>
    <string>serve</string>
  </array>
  <key>EnvironmentVariables</key>
  <dict>
{path}
  </dict>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ExitTimeOut</key><integer>90</integer>
  <key>StandardOutPath</key><string>{log}</string>
  <key>StandardErrorPath</key><string>{log}</string>
</dict>
</plist>
"#
    )
}

/// Whether we wrote this.
pub fn is_ours(text: &str) -> bool {
    // A property list has to begin with what it is.
    text.lines().take(2).any(|line| line.contains(MARK))
}

/// Whether two texts say the same but for the PATH: that of another shell makes no service
/// out of date.
pub fn is_same(one: &str, other: &str) -> bool {
    let [unit, list] = [path_of_unit(""), path_of_list("")];
    // Both begin as they do before their value.
    let begins = [unit.trim_end_matches('"'), list.split("<string>").next().unwrap_or_default()];
    let rest = |line: &&str| !begins.iter().any(|begin| line.starts_with(begin));
    one.lines().filter(rest).eq(other.lines().filter(rest))
}

fn path_of_unit(path: &str) -> String {
    format!("Environment={}", quoted(&format!("PATH={path}")))
}

fn path_of_list(path: &str) -> String {
    format!("    <key>PATH</key><string>{}</string>", xml(path))
}

/// One word to systemd, whatever is in it.
fn quoted(word: &str) -> String {
    format!("\"{}\"", escaped(word))
}

/// Text that stays in its line, and in its quotes.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '%' => out += "%%",
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_control() => out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The words of a line as systemd reads them: quotes and backslashes first, then `%`.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
        let mut rest = line.chars();
        while let Some(c) = rest.next() {
            if c == ' ' && !quoted {
                words.extend(word.take());
                continue;
            }
            let word = word.get_or_insert_default();
            match c {
                '"' => quoted = !quoted,
                '\\' => match rest.next().unwrap() {
                    'x' => {
                        let code: String = rest.by_ref().take(2).collect();
                        word.push(u8::from_str_radix(&code, 16).unwrap().into());
                    }
                    c @ ('"' | '\\') => word.push(c),
                    c => panic!("\\{c}"),
                },
                c => word.push(c),
            }
        }
        assert!(!quoted, "{line}");
        words.extend(word);
        words.iter().map(|word| single(word, '%')).collect()
    }

    /// Every one of these is doubled, and stands for itself.
    fn single(word: &str, special: char) -> String {
        let parts: Vec<_> = word.split(&format!("{special}{special}")).collect();
        assert!(!parts.concat().contains(special), "{word}");
        parts.join(&special.to_string())
    }

    fn value<'a>(unit: &'a str, name: &str) -> &'a str {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let value = values.next().unwrap();
        assert_eq!(values.next(), None, "{unit}");
        value
    }

    proptest! {
        #[test]
        fn systemd_reads_the_words_that_were_meant(
            [file, home, path] in prop::array::uniform3("([ -~\n\t\r\x01äß\u{2028}]|[%$\"\\\\ ])*")
        ) {
            let unit = unit(Program { file: &file, home: &home, path: &path });
            let read = words(value(&unit, "ExecStart"));
            let expected = [&file, "--home", &home, "serve"].map(str::to_owned);
            prop_assert_eq!(&read[0], &expected[0]);
            let read: Vec<_> = read[1..].iter().map(|word| single(word, '$')).collect();
            prop_assert_eq!(&read, &expected[1..]);
            prop_assert_eq!(words(value(&unit, "Environment")), [format!("PATH={path}")]);
            prop_assert_eq!(unit.lines().count(), 17);
            prop_assert!(is_ours(&unit));
        }
    }

    #[test]
    fn a_unit_is_as_it_should_be() {
        let program = Program { file: "/b/fledgling", home: "/h $1 100%", path: "/b:/$c" };
        let unit = unit(program);
        assert_eq!(value(&unit, "ExecStart"), r#""/b/fledgling" --home "/h $$1 100%%" serve"#);
        assert_eq!(value(&unit, "Environment"), r#""PATH=/b:/$c""#);
        assert_eq!(value(&unit, "Description"), "fledgling, the agent in /h $1 100%%");
    }

    #[test]
    fn a_property_list_holds_any_text() {
        let program = Program { file: "/b/<f>", home: "/h&h", path: "/b" };
        let list = property_list("fledgling", program, "/h&h/logs/serve.log");
        for part in [
            "<string>/b/&lt;f&gt;</string>\n    <string>--home</string>\n    <string>/h&amp;h</string>",
            "<key>PATH</key><string>/b</string>",
            "<key>StandardErrorPath</key><string>/h&amp;h/logs/serve.log</string>",
        ] {
            assert!(list.contains(part), "{list}");
        }
        assert!(is_ours(&list) && !list.contains("/h&h") && !list.contains("<f>"));
        // What stands in a comment must not end it.
        let comment = list.split_once("<!--").unwrap().1.split_once("-->").unwrap().0;
        assert!(!comment.contains("--"), "{comment}");
    }

    #[test]
    fn only_the_path_may_differ() {
        let program = Program { file: "/b/f", home: "/h", path: "/b" };
        let (other_path, other) =
            (Program { path: "/c \"", ..program }, Program { home: "/i", ..program });
        let list = |program| property_list("fledgling", program, "/log");
        assert!(is_same(&unit(program), &unit(other_path)));
        assert!(is_same(&list(program), &list(other_path)));
        assert!(!is_same(&unit(program), &unit(other)));
        assert!(!is_same(&list(program), &list(other)));
        assert!(!is_ours("[Service]\nExecStart=fledgling serve\n"));
    }
}
