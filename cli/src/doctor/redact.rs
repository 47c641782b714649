//! Text without the secrets in it, for whoever sends it to somebody else.
//!
//! What is left out: every secret that is known here; tokens by their form; private keys; what stands behind a name that speaks of a
//! secret; passwords in addresses. It rather leaves out too much.

use aap_client::Secret;

/// In the place of what was left out.
const MASK: &str = "***";
/// Parts of names behind which secrets stand.
const NAMES: [&str; 10] = [
    "password",
    "passwd",
    "secret",
    "token",
    "credential",
    "authorization",
    "api_key",
    "apikey",
    "private_key",
    "access_key",
];
/// A value that says where the secret is.
const REFERENCES: [&str; 3] = ["file:", "env:", "vault:"];
/// What the tokens of a platform begin with, behind `aap`.
const TOKEN_KINDS: [&str; 3] = ["aapt_", "aaps_", "aape_"];

/// Leaves secrets out of text.
#[derive(Debug)]
pub(super) struct Redactor {
    known: Vec<Secret>,
}

impl Redactor {
    /// With secrets that are known. Very short ones are words of the language.
    pub(super) fn new(known: impl IntoIterator<Item = Secret>) -> Self {
        const LETTERS_MIN: usize = 6;
        Self { known: known.into_iter().filter(|secret| secret.reveal().len() >= LETTERS_MIN).collect() }
    }

    /// The text without them.
    pub(super) fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut is_in_key = false;
        // Of a name that speaks of a secret and has its value on the lines behind it: how far it is indented.
        let mut block: Option<usize> = None;
        for line in text.split_inclusive('\n') {
            let indent = line.len() - line.trim_start().len();
            if line.trim().is_empty() || block.is_some_and(|name| indent > name) {
                out.push_str(if line.trim().is_empty() { line } else { "***\n" });
                continue;
            }
            block = opens_block(line).then_some(indent);
            let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY-----");
            if begins || is_in_key {
                is_in_key = !line.contains("-----END");
                if begins {
                    out.push_str("*** a private key\n");
                }
                continue;
            }
            out.push_str(&self.line(line));
        }
        out
    }

    fn line(&self, line: &str) -> String {
        let known =
            self.known.iter().fold(line.to_owned(), |line, secret| line.replace(secret.reveal(), MASK));
        without_userinfo(&without_named(&without_tokens(&known)))
    }
}

/// Whether a line of YAML names a secret whose value is written on the lines behind it.
fn opens_block(line: &str) -> bool {
    let Some((name, value)) = line.trim().trim_start_matches("- ").split_once(':') else { return false };
    let name = name.trim_matches(|c| matches!(c, '"' | '\'' | ' ')).to_ascii_lowercase();
    let speaks = NAMES.iter().any(|known| name.contains(known)) && !name.contains(' ');
    speaks && (value.trim().is_empty() || value.trim().starts_with(['|', '>']))
}

/// Without words in the form of our tokens.
fn without_tokens(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    let next = |text: &str| TOKEN_KINDS.iter().filter_map(|kind| text.find(kind)).min();
    while let Some(at) = next(rest) {
        let word = rest[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
        let end = word.map_or(rest.len(), |length| at + length);
        out.push_str(&rest[..at]);
        out.push_str(MASK);
        rest = &rest[end..];
    }
    out + rest
}

/// Without what stands behind `password:`, `"token":`, `secret_key=`, `--token` and the like.
fn without_named(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while let Some(end) = name_from(&lower, at) {
        let before = lower[..end].trim_end_matches(is_of_name).len();
        out.push_str(&line[at..end]);
        at = end;
        let name = &lower[before..end];
        if name.ends_with("file") || name.ends_with("path") {
            continue;
        }
        let separator_end = line[at..].find(|c| !matches!(c, '"' | '\'' | '\\' | ' ' | '\t' | ':' | '='));
        let separator = &line[at..separator_end.map_or(line.len(), |length| at + length)];
        let is_option = name.starts_with("--") && separator.starts_with(' ');
        if !separator.contains([':', '=']) && !is_option {
            continue;
        }
        let value = value_at(line, at + separator.len(), separator, is_option);
        out.push_str(separator);
        out.push_str(if is_plain(value) { value } else { MASK });
        at += separator.len() + value.len();
    }
    out + &line[at..]
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Where the next name ends that speaks of a secret.
fn name_from(lower: &str, at: usize) -> Option<usize> {
    let rest = &lower[at..];
    let (begin, length) = NAMES.iter().filter_map(|name| Some((rest.find(name)?, name.len()))).min()?;
    let behind = &rest[begin + length..];
    let more = behind.find(|c: char| !is_of_name(c)).unwrap_or(behind.len());
    Some(at + begin + length + more)
}

/// The value that begins there, up to what ends it: its quote, or in their absence what the notation says.
fn value_at<'a>(line: &'a str, begins: usize, separator: &str, is_option: bool) -> &'a str {
    let rest = line[begins..].trim_end_matches(['\n', '\r']);
    let quote = separator.chars().last().filter(|c| matches!(c, '"' | '\''));
    let end = match quote {
        Some(quote) => {
            let mut is_escaped = false;
            rest.find(|c| {
                let ends = c == quote && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            })
        }
        None if separator.contains('=') || is_option => {
            rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | '&' | ';' | '"' | '\''))
        }
        // Within braces a comma ends it; on a line of its own nothing does.
        None if line[..begins].contains(['{', '[']) => rest.find([',', '}', ']']),
        None => None,
    };
    &rest[..end.unwrap_or(rest.len())]
}

/// Whether a value is no secret: where it stands, or nothing.
fn is_plain(value: &str) -> bool {
    let value = value.trim();
    REFERENCES.iter().any(|reference| value.starts_with(reference))
        || ["", "true", "false", "null", "~", "{", "[", "|", ">", MASK].contains(&value)
}

/// Without the password in `scheme://user:password@host`.
fn without_userinfo(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://").map(|at| at + 3) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let address =
            &rest[..rest.find(|c: char| c.is_whitespace() || "\"'`,".contains(c)).unwrap_or(rest.len())];
        if let Some((user, _)) = address.rfind('@').and_then(|end| address[..end].split_once(':')) {
            let end = address.rfind('@').unwrap_or_default();
            out.push_str(&format!("{user}:{MASK}"));
            rest = &rest[end..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_stand() {
        let redactor = Redactor::new(["of-this-home", "abc"].map(|text| Secret::from(text.to_owned())));
        for (line, expected) in [
            ("Bearer of-this-home and abc", "Bearer *** and abc"),
            ("password: can ary, with comma", "password: ***"),
            ("  tls: { password: canary, user: ana }", "  tls: { password: ***, user: ana }"),
            ("{\"access_key\":\"can\\\"ary\",\"x\":1}", "{\"access_key\":\"***\",\"x\":1}"),
            ("command: [run, --token=canary, --fast]", "command: [run, --token=***, --fast]"),
            ("run --api-token canary --fast", "run --api-token *** --fast"),
            ("url: postgres://ana:can@ary@db.example:5432/x", "url: postgres://ana:***@db.example:5432/x"),
            ("authorization: Bearer canary", "authorization: ***"),
            ("refused aaps_7mKq03TzRw9e_Vd2PqW0a here", "refused *** here"),
            ("password: file:/etc/aap/password", "password: file:/etc/aap/password"),
            ("token_file: run/operator.token", "token_file: run/operator.token"),
            ("the token was refused", "the token was refused"),
            ("nothing of it", "nothing of it"),
        ] {
            assert_eq!(redactor.text(line), expected);
        }
        let key = "a\n-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(redactor.text(key), "a\n*** a private key\nb\n");
    }
}
