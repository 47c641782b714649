//! What an operator says about a sink.

use aap_runtime::SecretRef;
use aap_sinks::Template;
use camino::Utf8PathBuf;
use mongodb::options::{ConnectionString, HostInfo, ServerAddress};
use serde::{Deserialize, Serialize};

/// The collection of positions, of all sinks in a database.
pub(crate) const LEDGER: &str = "aap_ledger";
/// What a URL may say behind `?`: where the servers are. How they are written to is ours.
const OPTIONS: [&str; 2] = ["replicaSet", "directConnection"];
/// Longest name of a database, in bytes, and what cannot be in it: the server's own rules.
const DATABASE_LENGTH_MAX: usize = 63;
const NOT_IN_DATABASES: [char; 13] = ['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0'];
/// What cannot be in the name of a collection, and how it cannot begin.
const NOT_IN_COLLECTIONS: [char; 2] = ['$', '\0'];
const SYSTEM: &str = "system.";

/// Where rows go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoDbSpec {
    /// `mongodb://host:port`, of a replica set some of its members with commas between them. What follows `/` is the database in
    /// which the user is defined.
    pub url: String,
    /// The database of documents and ledger.
    pub database: String,
    /// The collection; `{stream}` is replaced by the name of the stream.
    pub collection: Template,
    /// What decimals become. Default: decimals of the server.
    #[serde(default)]
    pub decimals: Decimals,
    /// Who we are. Default: nobody, for servers that ask for no password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Encrypts. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// What decimals become, and integers that no signed 64 bits hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decimals {
    /// `Decimal128` of the server, which has 34 digits; texts beyond.
    #[default]
    Decimal128,
    /// Texts, for servers without that type.
    Text,
}

/// How the line is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the authorities to believe. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
}

impl MongoDbSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Where it writes, without anything secret.
    pub fn place(&self) -> String {
        format!("{} {}.{}", self.url, self.database, self.collection)
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        check_url(&self.url)?;
        let database = self.database.as_str();
        let is_database = !database.is_empty()
            && database.len() <= DATABASE_LENGTH_MAX
            && !database.contains(NOT_IN_DATABASES);
        if !is_database {
            return Err(format!("`database` `{database}` cannot be: MongoDB allows no such name"));
        }
        let collection = self.collection.to_string();
        if collection.contains(NOT_IN_COLLECTIONS) || collection.starts_with(SYSTEM) {
            return Err(format!("`collection` `{collection}` cannot be: MongoDB allows no such name"));
        }
        if collection == LEDGER {
            return Err(format!("`collection` cannot be `{LEDGER}`: the ledger has that name"));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => Err("`username` needs a `password`, as in `password: env:NAME`".to_owned()),
            (None, Some(_)) => Err("`password` needs a `username`".to_owned()),
            _ => Ok(()),
        }
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let wrong = || {
        "`url` is none of a server: write `mongodb://HOST:PORT`, or several with commas between them"
            .to_owned()
    };
    let rest = url.strip_prefix("mongodb://").ok_or_else(wrong)?;
    // Looked for before anything else is said of the URL: what is in front of it is not repeated.
    if rest.contains('@') {
        return Err("a user or password stands in `url`: give them by `username` and `password`".to_owned());
    }
    let (_, options) = rest.split_once('?').unwrap_or((rest, ""));
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or_default();
        if !OPTIONS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            let known = OPTIONS.map(|name| format!("`{name}`")).join(" and ");
            return Err(format!("`url` cannot have `{name}`: {known} may stand there"));
        }
    }
    let parsed = ConnectionString::parse(url).map_err(|error| format!("`url`: {}", error.kind))?;
    let HostInfo::HostIdentifiers(hosts) = parsed.host_info else { return Err(wrong()) };
    let is_tcp = |host: &ServerAddress| matches!(host, ServerAddress::Tcp { .. });
    if hosts.iter().all(is_tcp) { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let base = [
            ("url:", "url: 'mongodb://a'\n"),
            ("database:", "database: shop\n"),
            ("collection:", "collection: '{stream}'\n"),
        ];
        let text =
            base.iter().filter(|(key, _)| !more.contains(key)).map(|(_, line)| *line).collect::<String>();
        let found = match serde_norway::from_str::<MongoDbSpec>(&(text + more)) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check(
            "url: 'mongodb://a:27017,[::1]:27018/admin?replicaSet=rs0'\ntls: {ca: /x}\ndecimals: text\n",
            "fine",
        );
        check("username: me\npassword: env:X\ntls: {}\n", "fine");
        check("url: 'http://a'\n", "write `mongodb://HOST:PORT`");
        check("url: 'mongodb+srv://a.example'\n", "write `mongodb://HOST:PORT`");
        check("url: 'mongodb://%2Ftmp%2Fa.sock'\n", "write `mongodb://HOST:PORT`");
        check("url: 'mongodb://a:0'\n", "`url`: ");
        check("url: 'mongodb://me:hunter2@a'\n", "by `username` and `password`");
        check("url: 'mongodb://a/?w=0'\n", "cannot have `w`");
        check("url: 'mongodb://a/?tls=true'\n", "cannot have `tls`");
        check("database: 'a.b'\n", "`database` `a.b` cannot be");
        check("database: ''\n", "cannot be");
        check("collection: 'a$b'\n", "`collection` `a$b` cannot be");
        check("collection: system.users\n", "cannot be");
        check("collection: aap_ledger\n", "the ledger has that name");
        check("collection: ''\n", "the name is empty");
        check("username: me\n", "needs a `password`");
        check("password: env:X\n", "needs a `username`");
        check("username: me\npassword: hunter2\n", "never written down here");
        check("decimals: float\n", "unknown variant `float`");
        check("colour: red\n", "unknown field `colour`");
    }

    #[test]
    fn a_spec_survives_its_text() {
        let text =
            "{url: 'mongodb://a', database: shop, collection: 'c.{stream}', username: me, password: 'env:X'}";
        let spec: MongoDbSpec = serde_norway::from_str(text).unwrap();
        assert_eq!(spec.place(), "mongodb://a shop.c.{stream}");
        let again: MongoDbSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }
}
