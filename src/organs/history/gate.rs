//! Finds secrets in what is about to be kept for good.
//!
//! Owns what counts as one: values that are known, and tokens of formats that announce
//! themselves by a prefix. Says which it is, never what it reads. Does not know where the
//! values come from, nor what happens to a file that holds one. A secret that is compressed
//! or split is not found, nor a token that is not known if it is encoded.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use crate::files::withheld::Withheld;
use crate::organs::history::left_out::ITS_NAME;

/// How far behind the first line of a private key its content may begin: an encrypted one
/// has headers in between.
const KEY_REACH: usize = 256;
/// So much base64 without a break is a key and not an example of its first line.
const KEY_RUN: usize = 40;

/// Looks for secrets, again and again.
#[derive(Debug)]
pub struct Gate {
    known: Withheld,
    formats: Vec<(&'static Format, Finder<'static>)>,
    allowed: Vec<PathBuf>,
}

impl Gate {
    /// Know these secrets. What is in the allowed files and folders, relative to the
    /// workspace, is never one.
    pub fn new(known: Withheld, allowed: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let finder = |needle: &[u8]| Finder::new(needle).into_owned();
        let formats = FORMATS.iter().map(|format| (format, finder(format.needle.as_bytes())));
        let allowed = allowed.into_iter().map(Into::into).filter(|path| *path != Path::new(""));
        Self {
            known,
            formats: formats.collect(),
            allowed: allowed
                .map(|path| path.strip_prefix(".").map_or(path.clone(), Path::to_owned))
                .collect(),
        }
    }

    /// A text that no file is, or what stands in its place where it holds a secret.
    pub fn cleared(&self, text: String) -> String {
        match self.finds(Path::new(""), text.as_bytes()) {
            Some(secret) => format!("(Left out of the history: it holds {secret}.)"),
            None => text,
        }
    }

    /// A text about files, with markers in place of what is known.
    pub fn withhold(&self, text: String) -> String {
        self.known.text(text)
    }

    /// Words for a secret in the path of a file: commits keep paths, too.
    pub fn finds_in_name(&self, path: &Path) -> Option<String> {
        let name = self.known.finds(path.as_os_str().as_bytes())?;
        Some(format!("{ITS_NAME} the secret {name}"))
    }

    /// Words for the first secret in a file's content, if there is one.
    pub fn finds(&self, path: &Path, content: &[u8]) -> Option<String> {
        if self.allowed.iter().any(|allowed| path.starts_with(allowed)) {
            return None;
        }
        self.known.finds(content).map(|name| format!("the secret {name}")).or_else(|| {
            let holds = |(format, needle): &&(&Format, Finder<'_>)| {
                needle.find_iter(content).any(|at| format.is_at(content, at))
            };
            self.formats
                .iter()
                .find(holds)
                .map(|(format, _)| format!("what looks like {}", format.name))
        })
    }
}

/// How tokens of one kind look.
#[derive(Debug)]
struct Format {
    name: &'static str,
    /// What they begin with; what stands in them, for those of Telegram.
    needle: &'static str,
    follows: Follows,
}

/// What makes a token of the bytes after the needle.
#[derive(Debug)]
enum Follows {
    /// So many letters and digits, or more.
    Word(usize),
    /// So many letters, digits, `-` and `_`, or more.
    Url(usize),
    /// Exactly so many letters and digits.
    ExactWord(usize),
    /// Exactly so many letters, digits, `-` and `_`.
    ExactUrl(usize),
    /// Exactly so many capital letters and digits.
    Capitals(usize),
    /// Exactly so many of `Url`, and digits before the needle.
    Bot(usize),
    /// The rest of the first line of a private key, and the key.
    Key,
}

use Follows::{Bot, Capitals, ExactUrl, ExactWord, Key, Url, Word};

/// The lengths are the shortest ones seen or documented; where a format has no fixed
/// length, one that no placeholder (`sk-ant-your-key-here`) reaches.
#[rustfmt::skip]
const FORMATS: &[Format] = &[
    // docs.anthropic.com, "Getting started": sk-ant-api03-, -admin01-, -oat01- and about 95 more.
    Format { name: "an Anthropic key", needle: "sk-ant-", follows: Url(40) },
    // platform.openai.com, "Authentication": keys of projects and of service accounts.
    Format { name: "an OpenAI key", needle: "sk-proj-", follows: Url(40) },
    Format { name: "an OpenAI key", needle: "sk-svcacct-", follows: Url(40) },
    // The same before 2024: 48 letters and digits.
    Format { name: "an OpenAI key", needle: "sk-", follows: ExactWord(48) },
    // openrouter.ai/docs, "Authentication": 64 hexadecimal digits.
    Format { name: "an OpenRouter key", needle: "sk-or-v1-", follows: Word(64) },
    // docs.github.com, "Token formats": 36 letters and digits, or more.
    Format { name: "a GitHub token", needle: "ghp_", follows: Word(36) },
    Format { name: "a GitHub token", needle: "gho_", follows: Word(36) },
    Format { name: "a GitHub token", needle: "ghu_", follows: Word(36) },
    Format { name: "a GitHub token", needle: "ghs_", follows: Word(36) },
    Format { name: "a GitHub token", needle: "ghr_", follows: Word(36) },
    // The same page, fine-grained tokens: 82 letters, digits and `_`.
    Format { name: "a GitHub token", needle: "github_pat_", follows: Url(59) },
    // docs.gitlab.com, "Token overview": 20 or more.
    Format { name: "a GitLab token", needle: "glpat-", follows: Url(20) },
    // docs.slack.dev, "Tokens": numbers and a secret, with `-` between.
    Format { name: "a Slack token", needle: "xoxb-", follows: Url(24) },
    Format { name: "a Slack token", needle: "xoxp-", follows: Url(24) },
    Format { name: "a Slack token", needle: "xapp-", follows: Url(24) },
    // docs.aws.amazon.com, "IAM identifiers": ids of lasting and of temporary keys.
    Format { name: "an AWS access key", needle: "AKIA", follows: Capitals(16) },
    Format { name: "an AWS access key", needle: "ASIA", follows: Capitals(16) },
    // cloud.google.com/docs, "API keys": 39 characters together.
    Format { name: "a Google API key", needle: "AIza", follows: ExactUrl(35) },
    // huggingface.co/docs/hub, "User access tokens": 34 letters.
    Format { name: "a Hugging Face token", needle: "hf_", follows: Word(34) },
    // docs.npmjs.com, "About access tokens": 36 letters and digits.
    Format { name: "an npm token", needle: "npm_", follows: ExactWord(36) },
    // pypi.org/help: a macaroon, which begins with the name of its place, `pypi.org`.
    Format { name: "a PyPI token", needle: "pypi-AgEIcHlwaS", follows: Url(50) },
    // docs.stripe.com/keys: 24 or more; those of test mode (`_test_`) are no secrets.
    Format { name: "a Stripe key", needle: "sk_live_", follows: Word(24) },
    Format { name: "a Stripe key", needle: "rk_live_", follows: Word(24) },
    // core.telegram.org/bots/api, "Authorizing your bot": the bot's number, `:`, 35 more.
    Format { name: "a Telegram bot's token", needle: ":AA", follows: Bot(33) },
    // RFC 7468 and what OpenSSL, OpenSSH and PGP make of it.
    Format { name: "a private key", needle: "-----BEGIN ", follows: Key },
];

impl Format {
    /// Whether the needle found here begins a token.
    fn is_at(&self, content: &[u8], at: usize) -> bool {
        let (before, after) = (&content[..at], &content[at + self.needle.len()..]);
        let run = |is: fn(u8) -> bool| after.iter().take_while(|byte| is(**byte)).count();
        let is_alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
        match self.follows {
            Word(least) => begins(before) && run(is_alphanumeric) >= least,
            Url(least) => begins(before) && run(is_url) >= least,
            ExactWord(length) => begins(before) && run(is_alphanumeric) == length,
            ExactUrl(length) => begins(before) && run(is_url) == length,
            Capitals(length) => {
                let capitals = run(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
                begins(before)
                    && capitals == length
                    && !after.get(length).is_some_and(|byte| is_word(*byte))
            }
            Bot(length) => {
                let digits = before.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
                (8..=10).contains(&digits)
                    && begins(&before[..before.len() - digits])
                    && run(is_url) == length
            }
            Key => is_private_key(after),
        }
    }
}

/// Whether a token can begin behind this: not inside of a word. The letter of an escape,
/// as in `"\nTOKEN"`, is none of the word's.
fn begins(before: &[u8]) -> bool {
    match before {
        [] | [.., b'\\', b'n' | b'r' | b't'] => true,
        [.., last] => !is_word(*last),
    }
}

/// Whether this goes on as `RSA PRIVATE KEY-----` or the like, and a key follows.
fn is_private_key(after: &[u8]) -> bool {
    let line = &after[..after.len().min(64)];
    let Some(end) = memchr::memmem::find(line, b"-----") else { return false };
    let label = &line[..end];
    let body = &after[end..after.len().min(end + KEY_REACH)];
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    memchr::memmem::find(label, b"PRIVATE KEY").is_some()
        && label
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ')
        && body.split(|byte| !is_base64(byte)).any(|run| run.len() >= KEY_RUN)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_url(byte: u8) -> bool {
    is_word(byte) || byte == b'-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gate() -> Gate {
        let secrets = [("OPENAI_API_KEY", "a value of mine"), ("PIN", "1234567")];
        let known = Withheld::default();
        known.learn(secrets.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
        Gate::new(known, ["docs", "./samples/one.txt", ""])
    }

    fn found(content: &[u8]) -> Option<String> {
        gate().finds(Path::new("src/file"), content)
    }

    /// The shortest token of a format, cut by so many bytes.
    fn token(format: &Format, cut: usize) -> String {
        let length = match format.follows {
            Key => KEY_RUN,
            Word(length) | Url(length) | ExactWord(length) | ExactUrl(length)
            | Capitals(length) | Bot(length) => length,
        };
        let rest = "Z".repeat(length - cut);
        match format.follows {
            Bot(_) => format!("123456789{}{rest}", format.needle),
            Key => format!("{}EC PRIVATE KEY-----\n{rest}", format.needle),
            _ => format!("{}{rest}", format.needle),
        }
    }

    #[test]
    fn every_format_is_found_wherever_it_stands() {
        for format in FORMATS {
            let words = Some(format!("what looks like {}", format.name));
            let token = token(format, 0);
            let binary = [b"\0\xff\x80".as_slice(), token.as_bytes(), b"\0\xff"].concat();
            assert_eq!(found(&binary), words);
            for text in [
                token.clone(),
                format!("{token}\nand more"),
                format!("KEY={token}"),
                format!("a line\n{token}\n"),
                format!("{{\"key\": \"{token}\"}}"),
                format!("{{\"out\": \"first\\n{token}\\n\"}}"),
                format!("decoy {} {} {token}", format.needle, format.needle),
            ] {
                assert_eq!(found(text.as_bytes()), words, "{} in {text}", format.name);
            }
        }
    }

    #[test]
    fn what_is_too_short_or_inside_of_a_word_is_no_token() {
        for format in FORMATS {
            assert_eq!(found(token(format, 1).as_bytes()), None, "{}", format.name);
            if !matches!(format.follows, Key) {
                let inside = format!("word{}", token(format, 0));
                assert_eq!(found(inside.as_bytes()), None, "{}", format.name);
            }
        }
        for format in FORMATS {
            let longer = token(format, 0) + "Z";
            let exact = matches!(format.follows, ExactWord(_) | ExactUrl(_) | Capitals(_) | Bot(_));
            assert_eq!(found(longer.as_bytes()).is_none(), exact, "{}", format.name);
        }
    }

    #[test]
    fn a_private_key_is_a_key_and_not_its_first_line() {
        let body = "A".repeat(64);
        let encrypted = "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A1B";
        for (label, is_key) in [
            ("PRIVATE KEY-----", true),
            ("OPENSSH PRIVATE KEY-----", true),
            ("PGP PRIVATE KEY BLOCK-----\n", true),
            (encrypted, true),
            ("PUBLIC KEY-----", false),
            ("CERTIFICATE-----", false),
            ("a PRIVATE KEY-----", false),
        ] {
            let text = format!("-----BEGIN {label}\n{body}\n");
            assert_eq!(found(text.as_bytes()).is_some(), is_key, "{label}");
        }
        assert_eq!(found(b"grep -q '-----BEGIN PRIVATE KEY-----' file"), None);
        let escaped = format!("\"-----BEGIN PRIVATE KEY-----\\n{body}\\n\"");
        assert!(found(escaped.as_bytes()).is_some());
    }

    #[test]
    fn known_values_are_named_and_never_shown() {
        let words = found(b"x = 'a value of mine';");
        assert_eq!(words.as_deref(), Some("the secret OPENAI_API_KEY"));
        let words = found(b"curl -u bTphIHZhbHVlIG9mIG1pbmU=");
        assert_eq!(words.as_deref(), Some("the secret OPENAI_API_KEY"));
        assert_eq!(found(b"1234567"), None, "too short to be looked for");
        let named = gate().finds_in_name(Path::new("a/a value of mine/b")).unwrap();
        assert_eq!(named, "its name holds the secret OPENAI_API_KEY");
        assert!(!format!("{:?}", gate()).contains("a value"));
    }

    #[test]
    fn allowed_files_and_folders_may_hold_anything() {
        let secret = b"a value of mine";
        for (path, allowed) in [
            ("docs/a/b.md", true),
            ("docs", true),
            ("samples/one.txt", true),
            ("samples/two.txt", false),
            ("docs2/a", false),
            ("other/docs/a", false),
        ] {
            assert_eq!(gate().finds(Path::new(path), secret).is_none(), allowed, "{path}");
        }
    }

    proptest! {
        #[test]
        fn nothing_alarms_without_a_needle(
            content in proptest::collection::vec(any::<u8>(), 0..2_000),
            text in "[sk\\-anthprojAKI_: \"\n]{0,400}",
        ) {
            for content in [content.as_slice(), text.as_bytes()] {
                let holds = |format: &Format| {
                    memchr::memmem::find(content, format.needle.as_bytes()).is_some()
                };
                if !FORMATS.iter().any(holds) {
                    prop_assert_eq!(found(content), None);
                }
            }
        }

        #[test]
        fn a_token_among_anything_is_found(
            before in proptest::collection::vec(any::<u8>(), 0..500),
            after in proptest::collection::vec(any::<u8>(), 0..500),
            which in 0..FORMATS.len(),
        ) {
            let token = token(&FORMATS[which], 0);
            let content = [&before[..], b" ", token.as_bytes(), b" ", &after[..]];
            prop_assert!(found(&content.concat()).is_some());
        }
    }
}
