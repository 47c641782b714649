//! A rule of a role, or of what an API token is limited to, as it is typed: `KINDS:VERBS[:NAMES][@LABEL=VALUES…]`.
//!
//! ```text
//!  stream:read,query:logs,web.*        streams `logs` and those of a glob: their state and their rows
//!  node:query@site=lyon,paris@line=7   rows of nodes at one of two sites, on one line
//!  *:read                              everything, but no rows
//! ```
//! Lists have commas. Kinds and verbs are checked here, so that a slip is named with what was meant before anything is sent.

use std::collections::HashMap;

use aap_types::{ExitCode, Problem, nearest};

use crate::v1::AccessRule;

/// Kinds of objects, as permissions name them (tested against `aap-access`).
pub const KINDS: &[&str] = &[
    "alert", "audit", "catalog", "cluster", "model", "node", "pipeline", "platform", "query", "role",
    "route", "secret", "sink", "site", "source", "stream", "token", "user",
];
/// What is done to them (tested against `aap-access`).
pub const VERBS: &[&str] = &["approve", "delete", "deploy", "ingest", "operate", "query", "read", "write"];

/// All of a list.
const ALL: &str = "*";
/// The form, for whoever mistyped it.
const FORM: &str =
    "write KINDS:VERBS[:NAMES][@LABEL=VALUES], such as stream:read,query:logs,web.* or node:query@site=lyon";

/// Reads a rule that allows, or one that denies.
///
/// # Errors
/// `access.bad_rule` (2).
pub fn parse(text: &str, deny: bool) -> Result<AccessRule, Problem> {
    let (rest, labels) = take_labels(text)?;
    let mut parts = rest.splitn(3, ':');
    let resources = words(text, "kind of object", parts.next().unwrap_or_default(), KINDS)?;
    let verbs = parts.next().ok_or_else(|| bad(text, "it names no verb"))?;
    let verbs = words(text, "verb", verbs, VERBS)?;
    let names = parts.next().map(|names| list(text, "name", names)).transpose()?.unwrap_or_default();
    Ok(AccessRule { deny, resources, verbs, names, labels })
}

/// As [`parse`] reads it.
pub fn to_text(rule: &AccessRule) -> String {
    let mut text = format!("{}:{}", rule.resources.join(","), rule.verbs.join(","));
    if !rule.names.is_empty() {
        text.push_str(&format!(":{}", rule.names.join(",")));
    }
    let mut labels: Vec<_> = rule.labels.iter().collect();
    labels.sort();
    for (key, values) in labels {
        text.push_str(&format!("@{key}={values}"));
    }
    text
}

/// A kind of object.
///
/// # Errors
/// `access.bad_rule` (2), with the nearest.
pub fn kind(text: &str) -> Result<String, Problem> {
    known(text, "kind of object", text, KINDS)
}

/// Takes `@LABEL=VALUES` off the end, as often as it is there. An `@` without a `=` behind it belongs to a name, as in `ana@example`.
fn take_labels(text: &str) -> Result<(&str, HashMap<String, String>), Problem> {
    let (mut rest, mut labels) = (text, HashMap::new());
    while let Some((before, label)) = rest.rsplit_once('@')
        && let Some((key, values)) = label.split_once('=')
    {
        let values = list(text, "value of a label", values)?.join(",");
        if key.is_empty() {
            return Err(bad(text, "a label has no name"));
        }
        if labels.insert(key.to_owned(), values).is_some() {
            return Err(bad(
                text,
                &format!("the label `{key}` stands there twice; one of several values is KEY=A,B"),
            ));
        }
        rest = before;
    }
    Ok((rest, labels))
}

fn words(rule: &str, what: &str, text: &str, words: &[&str]) -> Result<Vec<String>, Problem> {
    list(rule, what, text)?.iter().map(|found| word(rule, what, found, words)).collect()
}

fn word(rule: &str, what: &str, found: &str, words: &[&str]) -> Result<String, Problem> {
    if found == ALL { Ok(found.to_owned()) } else { known(rule, what, found, words) }
}

fn known(rule: &str, what: &str, found: &str, known: &[&str]) -> Result<String, Problem> {
    if known.contains(&found) {
        return Ok(found.to_owned());
    }
    let problem = bad_without_form(rule, &format!("`{found}` is no {what}"));
    Err(match nearest(found, known).first() {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint(format!("there are {}, and `*` for all", known.join(", "))),
    })
}

fn list(rule: &str, what: &str, text: &str) -> Result<Vec<String>, Problem> {
    let parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    match parts.iter().any(String::is_empty) {
        true => Err(bad(rule, &format!("a {what} is empty"))),
        false => Ok(parts),
    }
}

fn bad(rule: &str, why: &str) -> Problem {
    bad_without_form(rule, why).hint(FORM)
}

fn bad_without_form(rule: &str, why: &str) -> Problem {
    Problem::new("access.bad_rule", ExitCode::Usage, format!("`{rule}` is no rule")).cause(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_and_written_alike() {
        let check =
            |text: &str, resources: &[&str], verbs: &[&str], names: &[&str], labels: &[(&str, &str)]| {
                let rule = parse(text, true).unwrap();
                assert!(rule.deny);
                assert_eq!(
                    (&rule.resources[..], &rule.verbs[..], &rule.names[..]),
                    (
                        &resources.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..],
                        &verbs.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..],
                        &names.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..],
                    ),
                    "{text}"
                );
                let expected = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                assert_eq!(rule.labels, expected.collect(), "{text}");
                assert_eq!(parse(&to_text(&rule), true).unwrap(), rule, "{text}");
            };
        check("stream:read,query:logs,web.*", &["stream"], &["read", "query"], &["logs", "web.*"], &[]);
        check("*:*", &["*"], &["*"], &[], &[]);
        check("node,site:read", &["node", "site"], &["read"], &[], &[]);
        check(
            "node:query@site=lyon,paris@line=7",
            &["node"],
            &["query"],
            &[],
            &[("site", "lyon,paris"), ("line", "7")],
        );
        check("user:read:ana@example", &["user"], &["read"], &["ana@example"], &[]);
        check("user:read:ana@example@team=a", &["user"], &["read"], &["ana@example"], &[("team", "a")]);
        check("secret:read:a:b", &["secret"], &["read"], &["a:b"], &[]);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_was_meant() {
        for (text, cause, hint) in [
            ("", "a kind of object is empty", FORM),
            ("stream", "it names no verb", FORM),
            ("stream:", "a verb is empty", FORM),
            ("stream:read:", "a name is empty", FORM),
            ("stream:read,,query", "a verb is empty", FORM),
            ("streams:read", "`streams` is no kind of object", "did you mean `stream`?"),
            ("stream:reed", "`reed` is no verb", "did you mean `read`?"),
            ("stream:read@site=", "a value of a label is empty", FORM),
            ("stream:read@=x", "a label has no name", FORM),
            ("node:read@a=1@a=2", "the label `a` stands there twice; one of several values is KEY=A,B", FORM),
        ] {
            let problem = parse(text, false).unwrap_err();
            assert_eq!((problem.code.as_str(), problem.exit), ("access.bad_rule", ExitCode::Usage));
            assert_eq!((problem.causes[0].as_str(), problem.hints[0].text.as_str()), (cause, hint), "{text}");
        }
        let far = parse("stream:xyzzyxyzzy", false).unwrap_err();
        assert!(far.hints[0].text.starts_with("there are approve, "), "{far:?}");
    }
}
