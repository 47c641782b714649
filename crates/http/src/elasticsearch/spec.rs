//! What an operator says about a sink.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use aap_runtime::SecretRef;
use aap_sinks::{Template, TemplateError};
use aap_types::StreamName;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::client::{Compression, Login, check_url};

/// Requests under way at a time: one is made while another is worked on; many only fill the server's queue.
const CONCURRENCY_DEFAULT: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");
/// Each takes some megabytes of the coordinator's memory.
const CONCURRENCY_MAX: usize = 32;
/// Longest name of an index, in bytes: the server's own rule.
const INDEX_BYTES_MAX: usize = 255;
/// Stands for the day of a row.
const DATE: &str = "{date}";

/// Where rows go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticsearchSpec {
    /// Some nodes of the cluster: `https://host:9200`. One after another is tried.
    pub urls: Vec<String>,
    /// The index.
    pub index: IndexName,
    /// Makes indices that are missing, and gives new columns a type. Default: yes.
    #[serde(default = "yes")]
    pub create: bool,
    /// Who we are. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Where an API key stands, in the form that the server calls `encoded`. Instead of user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// A PEM file with the authorities to believe. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
    /// How requests are compressed. Default: not at all.
    #[serde(default)]
    pub compression: Compression,
    /// Requests under way at a time. Default: 2.
    #[serde(default = "concurrency_default")]
    pub concurrency: NonZeroUsize,
    /// The index in which the sink's position stands. Default: `aap-ledger`.
    #[serde(default = "ledger_default")]
    pub ledger: String,
}

fn yes() -> bool {
    true
}

fn concurrency_default() -> NonZeroUsize {
    CONCURRENCY_DEFAULT
}

fn ledger_default() -> String {
    "aap-ledger".to_owned()
}

/// The name of an index: `{stream}` stands for the stream, `{date}` for the day of the row's `ts` in UTC, as in `2026.11.26`. A
/// row's day never changes, so a row that is written again goes to the same index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexName(String);

impl IndexName {
    /// Whether it depends on the row's day.
    pub fn has_date(&self) -> bool {
        self.0.contains(DATE)
    }

    /// Whether all rows go to one.
    pub fn is_fixed(&self) -> bool {
        !self.has_date() && !self.0.contains("{stream}")
    }

    /// For rows of a stream whose day is so many days after 1970-01-01.
    pub fn of(&self, stream: &StreamName, day: i64) -> String {
        let name = self.0.replace("{stream}", stream.as_str());
        match self.has_date() {
            true => name.replace(DATE, &day_text(day)),
            false => name,
        }
    }
}

/// `2026.11.26`. Times that no calendar has are of the first or last day that it has.
fn day_text(day: i64) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    let span = jiff::Span::new().try_days(day).unwrap_or_default();
    epoch.saturating_add(span).strftime("%Y.%m.%d").to_string()
}

impl FromStr for IndexName {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let template: Template = text.replace(DATE, "").parse().or_else(|error| match error {
            // Nothing but the date.
            TemplateError::Empty if text.contains(DATE) => "x".parse(),
            error => Err(error),
        })?;
        drop(template);
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for IndexName {
    type Error = TemplateError;
    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl From<IndexName> for String {
    fn from(name: IndexName) -> String {
        name.0
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ElasticsearchSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        [&self.password, &self.api_key].into_iter().flatten().cloned().collect()
    }

    /// Where it writes, without anything secret.
    pub fn place(&self) -> String {
        format!("{} index {}", self.urls.join(","), self.index)
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        if self.urls.is_empty() {
            return Err("`urls` is empty: name a node, as in `urls: ['https://search-1:9200']`".to_owned());
        }
        for url in &self.urls {
            check_url(url)?;
            if url.contains(['?', '#']) {
                return Err(format!("`{url}` in `urls` names more than a server"));
            }
        }
        let sample = "s".parse().map_err(|_never| "no stream has a name".to_owned())?;
        check_index(&self.index.of(&sample, 0)).map_err(|why| format!("`index` `{}` {why}", self.index))?;
        check_index(&self.ledger).map_err(|why| format!("`ledger` `{}` {why}", self.ledger))?;
        if self.index.is_fixed() && self.index.to_string() == self.ledger {
            return Err("`index` and `ledger` are one: rows and positions do not mix".to_owned());
        }
        match (&self.username, &self.password, &self.api_key) {
            (Some(_), None, _) => {
                return Err("`username` needs a `password`, as in `password: env:NAME`".to_owned());
            }
            (None, Some(_), _) => return Err("`password` needs a `username`".to_owned()),
            (Some(_), Some(_), Some(_)) => {
                return Err("`api_key` stands beside `username`: give one of them".to_owned());
            }
            _ => {}
        }
        if self.concurrency.get() > CONCURRENCY_MAX {
            return Err(format!("`concurrency` is at most {CONCURRENCY_MAX}"));
        }
        Ok(())
    }

    pub(crate) fn login(&self) -> Login {
        let key = self.api_key.as_ref().map(|key| ("ApiKey", key));
        Login::of(self.username.as_ref(), self.password.as_ref(), key)
    }
}

fn check_index(name: &str) -> Result<(), String> {
    let is_fine = |letter: char| !letter.is_uppercase() && !"\\/*?\"<>| ,#:%{}".contains(letter);
    if name.is_empty() || name.len() > INDEX_BYTES_MAX || !name.chars().all(is_fine) {
        return Err("cannot be: no capital letters, no spaces, none of `\\/*?\"<>|,#:`".to_owned());
    }
    if name.starts_with(['-', '_', '+']) || matches!(name, "." | "..") {
        return Err("cannot be: it may not begin with `-`, `_` or `+`".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let base = [("urls:", "urls: ['https://a:9200']\n"), ("index:", "index: 'logs-{stream}'\n")];
        let text =
            base.iter().filter(|(key, _)| !more.contains(key)).map(|(_, line)| *line).collect::<String>();
        let found = match serde_norway::from_str::<ElasticsearchSpec>(&(text + more)) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check("index: 'logs-{stream}-{date}'\ncompression: gzip\n", "fine");
        check("username: me\npassword: env:X\n", "fine");
        check("urls: []\n", "`urls` is empty");
        check("urls: ['a:9200']\n", "no URL");
        check("urls: ['https://a:9200/?x=1']\n", "more than a server");
        check("index: Logs\n", "no capital letters");
        check("index: _logs\n", "may not begin");
        check("index: '{node}'\n", "only `{stream}` is replaced");
        check("index: aap-ledger\n", "are one");
        check("username: me\n", "needs a `password`");
        check("password: env:X\n", "needs a `username`");
        check("username: me\npassword: env:X\napi_key: env:Y\n", "give one of them");
        check("password: hunter2\n", "never written down here");
        check("concurrency: 99\n", "at most 32");
        check("colour: red\n", "unknown field `colour`");
    }

    #[test]
    fn a_row_has_one_index_whenever_it_is_written() {
        let stream: StreamName = "web.access".parse().unwrap();
        let name: IndexName = "logs-{stream}-{date}".parse().unwrap();
        assert_eq!(name.of(&stream, 20_783), "logs-web.access-2026.11.26");
        assert_eq!(name.of(&stream, -1), "logs-web.access-1969.12.31");
        assert_eq!("logs".parse::<IndexName>().unwrap().of(&stream, 20_783), "logs");
        assert!(!day_text(i64::MAX).is_empty());
    }
}
