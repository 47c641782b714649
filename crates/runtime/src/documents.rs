//! Resources as people write them: YAML documents of a kind, one or more a file, each error with its file and line.
//!
//! ```yaml
//! apiVersion: aap/v1
//! kind: Source
//! metadata: { name: tail }
//! spec: { type: file, stream: logs, include: ['/var/log/*.log'] }
//! ```
//!
//! JSON is YAML, so both are read. Agents read their own files by this, the coordinator what `aap apply` sends.

use std::collections::BTreeMap;

use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_norway::Deserializer;

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}:{line}: {message}")]
pub struct DocumentError {
    /// The file.
    pub path: Utf8PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl DocumentError {
    /// The form an operator sees.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new("config.invalid", ExitCode::Usage, self.to_string());
        self.hint.iter().fold(problem, |p, hint| p.hint(hint.clone()))
    }
}

/// The frame of every document. Its `spec` is read in a second pass, so that errors keep their line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// `aap/v1`; checked by [`Document::envelope`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// What it describes.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    #[serde(default)]
    #[expect(dead_code, reason = "named so that anything else is refused")]
    spec: Option<IgnoredAny>,
}

/// What every document says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unique within its kind.
    pub name: String,
    /// For people and selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Spec<T> {
    spec: T,
}

/// One YAML document of a file, and where it begins.
#[derive(Debug, Clone)]
pub struct Document {
    path: Utf8PathBuf,
    text: String,
    first_line: usize,
}

/// The documents of a text that are not empty. Splits at lines of `---`: done here rather than by the parser, so that a line
/// can be named in every error.
pub fn documents(path: &Utf8Path, text: &str) -> Vec<Document> {
    let empty = |first_line| Document { path: path.to_owned(), text: String::new(), first_line };
    let mut out = vec![empty(0)];
    for (number, line) in text.lines().enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            out.push(empty(number + 1));
        } else if let Some(document) = out.last_mut() {
            document.text.push_str(line);
            document.text.push('\n');
        }
    }
    out.retain(|document| !document.is_empty());
    out
}

impl Document {
    fn is_empty(&self) -> bool {
        self.text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    }

    /// One that was applied before, under its name.
    pub fn of_record(name: &str, text: &str) -> Self {
        Self { path: name.into(), text: text.to_owned(), first_line: 0 }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file it stands in.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The line in which it begins, from 1.
    pub fn line(&self) -> usize {
        self.first_line + 1
    }

    /// The frame, whose `apiVersion` is known.
    pub fn envelope(&self) -> Result<Envelope, DocumentError> {
        let envelope: Envelope = self.parse()?;
        if envelope.api_version != "aap/v1" {
            let message = format!("apiVersion `{}` is not known here", envelope.api_version);
            return Err(self.error("apiVersion", message, Some("write `apiVersion: aap/v1`".into())));
        }
        Ok(envelope)
    }

    /// The section `spec`.
    pub fn spec<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
        Ok(self.parse::<Spec<T>>()?.spec)
    }

    /// An error about a kind that is none of `known`.
    pub fn unknown_kind(&self, found: &str, known: &[&str]) -> DocumentError {
        let hint = nearest_of(found, known.iter().copied()).map(|kind| format!("did you mean `{kind}`?"));
        self.error("kind", format!("kind `{found}` is not known here: {}", known.join(" or ")), hint)
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
        T::deserialize(Deserializer::from_str(&self.text)).map_err(|error| {
            let line = error.location().map_or(1, |place| place.line());
            let full = error.to_string();
            let message = full.split(" at line ").next().unwrap_or(&full).to_owned();
            let hint = hint_for(&message);
            let line = self.line_of_quoted(&message).unwrap_or(line);
            DocumentError { path: self.path.clone(), line: self.first_line + line, message, hint }
        })
    }

    /// The line with what a message quotes first: the parser often names the beginning of the section instead.
    fn line_of_quoted(&self, message: &str) -> Option<usize> {
        let quoted = message.split('`').nth(1).filter(|quoted| !quoted.is_empty())?;
        self.text.lines().position(|line| line.contains(quoted)).map(|index| index + 1)
    }

    /// An error at the line where `key` stands; of a path such as `timestamp.format`, the last part that is written.
    pub fn error(&self, key: &str, message: String, hint: Option<String>) -> DocumentError {
        let is_of = |line: &str, key: &str| {
            line.trim_start_matches([' ', '-', '{'])
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with(':'))
                || line.contains(&format!("{key}:"))
        };
        let mut line = 0;
        for part in key.split('.') {
            let found = self.text.lines().skip(line).position(|text| is_of(text, part));
            line += found.unwrap_or(0);
        }
        let line = line + 1;
        DocumentError { path: self.path.clone(), line: self.first_line + line, message, hint }
    }
}

/// Reads "unknown field `x`, expected one of `a`, `b`" and finds the nearest of them.
fn hint_for(message: &str) -> Option<String> {
    let (_, rest) =
        message.split_once("unknown field `").or_else(|| message.split_once("unknown variant `"))?;
    let (wrong, expected) = rest.split_once('`')?;
    let allowed = expected.split('`').skip(1).step_by(2);
    nearest_of(wrong, allowed).map(|key| format!("did you mean `{key}`?"))
}

/// The name among `allowed` with the fewest letters different, however many.
pub fn nearest_of<'a>(wrong: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    allowed.into_iter().min_by_key(|key| edits(&wrong.to_lowercase(), &key.to_lowercase()))
}

/// Levenshtein distance over bytes: keys are short and ASCII.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
