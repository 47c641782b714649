//! Contexts: named ways to platforms, in `contexts.toml`. No secret stands there, so the file may be shared.
//!
//! ```toml
//! current = "prod-eu"
//!
//! [contexts.prod-eu]
//! endpoint = "coord.eu.example:7401"
//! ca = "ca/prod-eu.pem"        # beside this file
//! user = "ana"                 # whom `aap auth login` takes
//! protection = "confirm"       # open | confirm | read-only | unlock
//!
//! [contexts.here]
//! home = "/srv/aap"            # a platform of this machine
//! ```
//! Whatever else people write into it, comments and the order, stays.

use std::fmt;
use std::io;
use std::str::FromStr;

use aap_services::Locator;
use aap_types::{ExitCode, Problem, nearest};
use camino::{Utf8Path, Utf8PathBuf};
use toml_edit::{DocumentMut, Item, Table, TomlError, Value, value};

use crate::authority::Authority;
use crate::files;
use crate::found;
use crate::protection::Protection;

const FILE: &str = "contexts.toml";
const CONTEXTS: &str = "contexts";
const CURRENT: &str = "current";
/// What a context has.
const KEYS: [&str; 5] = ["endpoint", "ca", "home", "user", "protection"];
/// What an exported one has beside it: the certificates themselves.
const AUTHORITY: &str = "authority";
/// Longest name: it is a file's, too, and has to be typed.
const NAME_LETTERS_MAX: usize = 64;
/// Where operators are answered unless said otherwise.
const PORT: &str = "7401";

/// The name of a context: small letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextName(String);

impl ContextName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContextName {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let is_letter =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins_well && text.len() <= NAME_LETTERS_MAX && text.bytes().all(is_letter) {
            return Ok(Self(text.to_owned()));
        }
        let message = format!("`{text}` is no name of a context");
        let rule =
            format!("small letters, digits, `-`, `_` and `.`, at most {NAME_LETTERS_MAX}, such as prod-eu");
        Err(Problem::new("context.bad_name", ExitCode::Usage, message).hint(rule))
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One way to a platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorContext {
    /// Where the coordinator answers operators, HOST:PORT. None: where the home says.
    pub endpoint: Option<String>,
    /// The file with its certificate authority.
    pub ca: Option<Utf8PathBuf>,
    /// The home of a platform on this machine.
    pub home: Option<Utf8PathBuf>,
    /// Whom to log in.
    pub user: Option<String>,
    /// What it takes to change something.
    pub protection: Protection,
}

/// The file, as it was read.
#[derive(Debug, Clone)]
pub struct Contexts {
    folder: Utf8PathBuf,
    document: DocumentMut,
}

impl Contexts {
    /// Reads the file in a folder; one that is not there has no context.
    ///
    /// # Errors
    /// `context.file` (2).
    pub fn read(folder: &Utf8Path) -> Result<Self, Problem> {
        let path = folder.join(FILE);
        let text = files::found(std::fs::read_to_string(&path)).map_err(|error| unreadable(&path, &error))?;
        let document: DocumentMut =
            text.unwrap_or_default().parse().map_err(|error: TomlError| bad_file(&path).caused_by(&error))?;
        let contexts = Self { folder: folder.to_owned(), document };
        contexts.check()?;
        Ok(contexts)
    }

    /// Where the file is.
    pub fn path(&self) -> Utf8PathBuf {
        self.folder.join(FILE)
    }

    /// The context that is meant where none is named.
    pub fn current(&self) -> Option<&str> {
        self.document.get(CURRENT).and_then(Item::as_str)
    }

    /// Every name, in the order of the file.
    pub fn names(&self) -> Vec<&str> {
        self.table().map_or_else(Vec::new, |table| table.iter().map(|(name, _)| name).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// `context.not_found` (3) with the nearest names; `context.file` (2); `context.bad_name` (2).
    pub fn get(&self, name: &str) -> Result<(ContextName, OperatorContext), Problem> {
        let item = self.table().and_then(|table| table.get(name)).ok_or_else(|| self.unknown(name))?;
        let table =
            item.as_table_like().ok_or_else(|| self.wrong(&format!("`{CONTEXTS}.{name}` is no table")))?;
        let text = |key: &str| match table.get(key).map(Item::as_str) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text.to_owned())),
            Some(None) => Err(self.wrong(&format!("`{CONTEXTS}.{name}.{key}` is no text"))),
        };
        let protection = match text("protection")? {
            None => Protection::Open,
            Some(word) => Protection::of(&word).ok_or_else(|| {
                self.wrong(&format!("`{word}` in `{CONTEXTS}.{name}` is no protection"))
                    .hint(format!("there are {}", Protection::NAMES.join(", ")))
            })?,
        };
        let context = OperatorContext {
            endpoint: text("endpoint")?.as_deref().map(endpoint).transpose()?,
            ca: text("ca")?.map(|path| self.folder.join(path)),
            home: text("home")?.map(Utf8PathBuf::from),
            user: text("user")?,
            protection,
        };
        Ok((name.parse()?, context))
    }

    /// Adds one; its certificate authority is copied beside the file. The first one becomes the current one.
    ///
    /// # Errors
    /// `context.exists` (6); `context.file` (2).
    pub fn add(
        &mut self,
        name: &ContextName,
        context: &OperatorContext,
        authority: Option<&Authority>,
    ) -> Result<(), Problem> {
        self.must_be_free(name)?;
        let is_first = self.names().is_empty() && self.current().is_none();
        let mut table = table_of(context);
        if let Some(authority) = authority {
            let file = authority_file(name);
            self.write(&file, authority.pem())?;
            table["ca"] = value(file.as_str());
        }
        self.table_mut().insert(name.as_str(), Item::Table(table));
        if is_first {
            self.write_current(name.as_str());
        }
        self.save()
    }

    /// Makes one the current one, or none.
    ///
    /// # Errors
    /// `context.not_found` (3); `context.file` (2).
    pub fn set_current(&mut self, name: Option<&str>) -> Result<(), Problem> {
        match name {
            Some(name) => {
                self.get(name)?;
                self.write_current(name);
            }
            None => drop(self.document.remove(CURRENT)),
        }
        self.save()
    }

    /// Gives one another name.
    ///
    /// # Errors
    /// `context.not_found` (3); `context.exists` (6); `context.file` (2).
    pub fn rename(&mut self, from: &ContextName, to: &ContextName) -> Result<(), Problem> {
        self.get(from.as_str())?;
        self.must_be_free(to)?;
        let was_current = self.current() == Some(from.as_str());
        let Some(mut item) = self.table_mut().remove(from.as_str()) else {
            return Err(self.unknown(from.as_str()));
        };
        if item.get("ca").and_then(Item::as_str) == Some(authority_file(from).as_str()) {
            let authority = Authority::read(&self.folder.join(authority_file(from)))?;
            self.write(&authority_file(to), authority.pem())?;
            item["ca"] = value(authority_file(to).as_str());
        }
        self.table_mut().insert(to.as_str(), item);
        if was_current {
            self.write_current(to.as_str());
        }
        self.save()?;
        self.forget_authority(from)
    }

    /// Removes one, with its copy of the certificate authority.
    ///
    /// # Errors
    /// `context.not_found` (3); `context.file` (2).
    pub fn remove(&mut self, name: &ContextName) -> Result<(), Problem> {
        if self.table_mut().remove(name.as_str()).is_none() {
            return Err(self.unknown(name.as_str()));
        }
        if self.current() == Some(name.as_str()) {
            self.document.remove(CURRENT);
        }
        self.save()?;
        self.forget_authority(name)
    }

    /// Unknown keys are mistyped ones.
    fn check(&self) -> Result<(), Problem> {
        let only = |key: &str, known: &[&str], place: &str| {
            if known.contains(&key) {
                return Ok(());
            }
            let problem = self.wrong(&format!("`{key}` is no key {place}"));
            Err(match nearest(key, known).first() {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint(format!("there are {}", known.join(", "))),
            })
        };
        for (key, _) in self.document.iter() {
            only(key, &[CURRENT, CONTEXTS], "of the file")?;
        }
        for (name, item) in self.table().into_iter().flat_map(|table| table.iter()) {
            for (key, _) in item.as_table_like().into_iter().flat_map(|table| table.iter()) {
                only(key, &KEYS, &format!("of the context `{name}`"))?;
            }
        }
        Ok(())
    }

    fn table(&self) -> Option<&dyn toml_edit::TableLike> {
        self.document.get(CONTEXTS).and_then(Item::as_table_like)
    }

    fn table_mut(&mut self) -> &mut dyn toml_edit::TableLike {
        let missing = !self.document.get(CONTEXTS).is_some_and(Item::is_table_like);
        if missing {
            let mut table = Table::new();
            // Its header says nothing that those of the contexts do not.
            table.set_implicit(true);
            self.document.insert(CONTEXTS, Item::Table(table));
        }
        self.document[CONTEXTS].as_table_like_mut().expect("it is there, or was just made")
    }

    /// What stands around the former name stays, such as a comment behind it.
    fn write_current(&mut self, name: &str) {
        let mut new = Value::from(name);
        if let Some(old) = self.document.get(CURRENT).and_then(Item::as_value) {
            *new.decor_mut() = old.decor().clone();
        }
        self.document[CURRENT] = Item::Value(new);
    }

    fn must_be_free(&self, name: &ContextName) -> Result<(), Problem> {
        if !self.names().contains(&name.as_str()) {
            return Ok(());
        }
        let message = format!("there is a context `{name}` already");
        Err(Problem::new("context.exists", ExitCode::Conflict, message)
            .hint_command("see it", format!("aap context show {name}"))
            .hint_command("remove it first", format!("aap context rm {name}")))
    }

    fn unknown(&self, name: &str) -> Problem {
        let problem =
            Problem::new("context.not_found", ExitCode::NotFound, format!("there is no context `{name}`"));
        let problem = match nearest(name, &self.names()).first() {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem,
        };
        problem.hint_command("see which there are", "aap context ls")
    }

    fn wrong(&self, message: &str) -> Problem {
        bad_file(&self.path()).cause(message)
    }

    fn save(&self) -> Result<(), Problem> {
        self.write(Utf8Path::new(FILE), &self.document.to_string())
    }

    /// A file of the folder. Nothing in it is secret, but only its owner may decide to which platform commands go.
    fn write(&self, name: &Utf8Path, text: &str) -> Result<(), Problem> {
        let path = self.folder.join(name);
        files::make_private(path.parent().unwrap_or(&self.folder))
            .and_then(|()| aap_runtime::write_durably(&path, text.as_bytes(), 0o644))
            .map_err(|error| unreadable(&path, &error))
    }

    fn forget_authority(&self, name: &ContextName) -> Result<(), Problem> {
        let path = self.folder.join(authority_file(name));
        files::remove(&path).map(|_was_there| ()).map_err(|error| unreadable(&path, &error))
    }
}

/// Where the authority of a context lies that was added here.
pub(crate) fn authority_in(folder: &Utf8Path, name: &ContextName) -> Utf8PathBuf {
    folder.join(authority_file(name))
}

fn authority_file(name: &ContextName) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("ca/{name}.pem"))
}

fn table_of(context: &OperatorContext) -> Table {
    let mut table = Table::new();
    let texts = [
        ("endpoint", context.endpoint.as_deref()),
        ("home", context.home.as_deref().map(Utf8Path::as_str)),
        ("user", context.user.as_deref()),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            table[key] = value(text);
        }
    }
    if context.protection != Protection::Open {
        table["protection"] = value(context.protection.name());
    }
    table
}

/// Where a coordinator is, as HOST:PORT.
///
/// # Errors
/// `context.bad_endpoint` (2).
pub fn endpoint(text: &str) -> Result<String, Problem> {
    if Locator::is_meant(text) {
        return found::locator(text).map(|locator| locator.to_string());
    }
    let bad = |cause: &str| {
        Problem::new(
            "context.bad_endpoint",
            ExitCode::Usage,
            format!("`{text}` is not where a coordinator can be"),
        )
        .cause(cause)
        .hint("write HOST:PORT, such as coord.example:7401; it is always TLS")
    };
    let place = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let uri: tonic::transport::Uri =
        format!("https://{place}").parse().map_err(|_| bad("it is no address"))?;
    let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
    if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(bad("it has more than host and port"));
    }
    match (authority.host(), authority.port_u16()) {
        ("", _) => Err(bad("it names no host")),
        (host, None) if authority.as_str() == host => Ok(format!("{host}:{PORT}")),
        (_, Some(port)) if port > 0 => Ok(authority.to_string()),
        _ => Err(bad("its port is no port")),
    }
}

/// A context as a text that others can add it from: with its certificate authority, without anything of this machine.
pub fn exported(name: &ContextName, context: &OperatorContext, authority: &Authority) -> String {
    let mut table = table_of(&OperatorContext { home: None, ..context.clone() });
    table[AUTHORITY] = value(authority.pem());
    let mut contexts = Table::new();
    contexts.set_implicit(true);
    contexts.insert(name.as_str(), Item::Table(table));
    let mut document = DocumentMut::new();
    document.insert(CONTEXTS, Item::Table(contexts));
    document.to_string()
}

/// What [`exported`] wrote.
///
/// # Errors
/// `context.file` (2), `context.bad_endpoint` (2), `context.bad_authority` (2).
pub fn imported(text: &str, path: &Utf8Path) -> Result<(OperatorContext, Authority), Problem> {
    let wrong = |cause: &str| {
        bad_file(path)
            .cause(cause)
            .hint_command("where the context is known, write it", "aap context export NAME")
    };
    let mut document: DocumentMut =
        text.parse().map_err(|error: TomlError| bad_file(path).caused_by(&error))?;
    let contexts = document.get_mut(CONTEXTS).and_then(Item::as_table_like_mut);
    let contexts = contexts.ok_or_else(|| wrong("it holds no context"))?;
    if contexts.len() != 1 {
        return Err(wrong("it holds not one context, but several or none"));
    }
    let name = contexts.iter().next().map(|(name, _)| name.to_owned()).unwrap_or_default();
    let authority =
        contexts.get_mut(&name).and_then(Item::as_table_like_mut).and_then(|table| table.remove(AUTHORITY));
    let authority =
        authority.as_ref().and_then(Item::as_str).ok_or_else(|| wrong("it has no certificate authority"))?;
    let authority = Authority::of(authority, &format!("`{path}`"))?;
    let read = Contexts { folder: path.parent().unwrap_or(path).to_owned(), document };
    read.check()?;
    let (_name, context) = read.get(&name)?;
    match context {
        OperatorContext { endpoint: Some(_), ca: None, home: None, .. } => Ok((context, authority)),
        _ => Err(wrong("it needs an endpoint, and may have no files of a machine")),
    }
}

fn bad_file(path: &Utf8Path) -> Problem {
    Problem::new("context.file", ExitCode::Usage, format!("`{path}` cannot be used"))
}

fn unreadable(path: &Utf8Path, error: &io::Error) -> Problem {
    bad_file(path).caused_by(error).hint("AAP_CONFIG_DIR names another folder for it")
}

#[cfg(test)]
mod tests;
