//! What an operation is made of.

use aap_types::ExitCode;
use serde::Serialize;

use super::ids::Id;

/// A kind of object that operations act on.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Noun {
    /// As typed. Two words, such as `sink dlq`, are a noun within the noun of the first.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
}

impl Noun {
    /// The noun that this one is within; empty for most.
    pub fn within(&self) -> &'static str {
        self.name.rsplit_once(' ').map_or("", |(outer, _)| outer)
    }

    /// The last word, which is what the noun is called within the other.
    pub fn word(&self) -> &'static str {
        self.name.rsplit_once(' ').map_or(self.name, |(_, word)| word)
    }
}

/// One thing an operator can do.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Operation {
    /// Which.
    pub id: Id,
    /// The noun, of one word or two; empty for a command that is a verb alone, such as `up`.
    pub noun: &'static str,
    /// The verb.
    pub verb: &'static str,
    /// Whether `aap NOUN ARGUMENTS` means this verb.
    pub is_default: bool,
    /// One line, no final period.
    pub summary: &'static str,
    /// What the summary leaves out; may be empty.
    pub details: &'static str,
    /// Its own arguments; [`super::GLOBALS`] come on top.
    pub arguments: &'static [Argument],
    /// What it does to the world.
    pub effect: Effect,
    /// The permission it needs, such as `stream:delete`; empty: none beyond access to the files. A kind and a verb of `aap-access`,
    /// whose parser every one passes (tested).
    pub permission: &'static str,
    /// What it prints to stdout.
    pub output: Output,
    /// The formats `--output` takes here; the first is the one for a terminal.
    pub formats: &'static [Format],
    /// How it can end, usage errors (2), interrupts (130, 143) and bugs (70) aside.
    pub exits: &'static [ExitCode],
    /// Commands that work as they stand.
    pub examples: &'static [Example],
    /// What to do next.
    pub hints: &'static [&'static str],
}

impl Operation {
    /// As typed: `aap stream ls`.
    pub fn command(&self) -> String {
        format!("aap {}", self.words())
    }

    /// The same without the program: `stream ls`.
    pub fn words(&self) -> String {
        if self.noun.is_empty() { self.verb.to_owned() } else { format!("{} {}", self.noun, self.verb) }
    }
}

/// What an operation does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Changes nothing.
    Read,
    /// Changes something that can be changed back.
    Mutate,
    /// Removes what cannot be brought back; confirms first.
    Destructive,
}

/// An argument of an operation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Argument {
    /// `--name`, or the name of the position.
    pub name: &'static str,
    /// How it is given.
    pub kind: Kind,
    /// What its value is.
    pub value: Value,
    /// One line.
    pub summary: &'static str,
    /// The value when it is not given.
    pub default: Option<&'static str>,
    /// The environment variable that gives it.
    pub environment: Option<&'static str>,
}

/// How an argument is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// By position.
    Positional {
        /// Must be given.
        required: bool,
        /// May be given several times.
        many: bool,
    },
    /// `--name VALUE`.
    Option {
        /// `-x VALUE`.
        short: Option<char>,
        /// May be given several times.
        many: bool,
    },
    /// `--name`.
    Flag {
        /// `-x`.
        short: Option<char>,
    },
    /// Everything that follows, unread: it belongs to the program that is run.
    Rest,
}

/// What the value of an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// A flag has none.
    Nothing,
    /// Any text.
    Text,
    /// A whole number, not negative.
    Number,
    /// `30s`, `5m`, `1h`, `500ms`; a bare number is seconds.
    Duration,
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A pattern of file names.
    Glob,
    /// An SQL statement.
    Sql,
    /// The name of a stream.
    Stream,
    /// The name of a node.
    Node,
    /// The name of a context.
    Context,
    /// The name of a sink.
    Sink,
    /// The name of a user.
    User,
    /// The name of a role.
    Role,
    /// A kind of declared objects.
    Declared,
    /// The name of a declared object, of the kind that stands before it.
    DeclaredName,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Argument {
    /// A position that must be filled.
    pub const fn position(name: &'static str, value: Value, summary: &'static str) -> Self {
        Self::new(name, Kind::Positional { required: true, many: false }, value, summary)
    }
    /// A position that may stay empty.
    pub const fn optional(name: &'static str, value: Value, summary: &'static str) -> Self {
        Self::new(name, Kind::Positional { required: false, many: false }, value, summary)
    }
    /// `--name VALUE`.
    pub const fn option(name: &'static str, value: Value, summary: &'static str) -> Self {
        Self::new(name, Kind::Option { short: None, many: false }, value, summary)
    }
    /// `--name`.
    pub const fn flag(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, Kind::Flag { short: None }, Value::Nothing, summary)
    }
    /// Everything that follows.
    pub const fn rest(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, Kind::Rest, Value::Text, summary)
    }

    const fn new(name: &'static str, kind: Kind, value: Value, summary: &'static str) -> Self {
        Self { name, kind, value, summary, default: None, environment: None }
    }

    /// Also `-letter`.
    #[must_use]
    pub const fn short(mut self, letter: char) -> Self {
        self.kind = match self.kind {
            Kind::Option { many, .. } => Kind::Option { short: Some(letter), many },
            Kind::Flag { .. } => Kind::Flag { short: Some(letter) },
            other => other,
        };
        self
    }

    /// May be given several times.
    #[must_use]
    pub const fn many(mut self) -> Self {
        self.kind = match self.kind {
            Kind::Positional { required, .. } => Kind::Positional { required, many: true },
            Kind::Option { short, .. } => Kind::Option { short, many: true },
            other => other,
        };
        self
    }

    /// The value when it is not given.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// The environment variable that gives it.
    #[must_use]
    pub const fn environment(mut self, name: &'static str) -> Self {
        self.environment = Some(name);
        self
    }

    /// The letter of `-x`.
    pub fn letter(&self) -> Option<char> {
        match self.kind {
            Kind::Option { short, .. } | Kind::Flag { short } => short,
            Kind::Positional { .. } | Kind::Rest => None,
        }
    }
}

/// An encoding of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Aligned columns for people. The default on a terminal.
    Table,
    /// Tab-separated values with a header line. The default in a pipe.
    Plain,
    /// One JSON document.
    Json,
    /// One JSON value a line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// An Apache Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

impl Format {
    /// Every format, by name.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("table", Self::Table),
        ("plain", Self::Plain),
        ("json", Self::Json),
        ("ndjson", Self::Ndjson),
        ("csv", Self::Csv),
        ("parquet", Self::Parquet),
        ("arrow", Self::Arrow),
    ];

    /// As typed.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

/// What an operation prints to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Lines for people; with `-o json` one object of this kind.
    Item {
        /// `kind` of the envelope.
        kind: &'static str,
        /// What the object has.
        fields: &'static [Field],
    },
    /// Objects of one kind.
    List {
        /// `kind` of the envelope.
        kind: &'static str,
        /// What each object has.
        fields: &'static [Field],
    },
    /// Rows whose columns the statement or the stream decides.
    Rows {
        /// `kind` of the envelope.
        kind: &'static str,
    },
    /// JSON lines as the work goes on, the last of `type` `done` and with these fields.
    Events {
        /// `kind` of the events.
        kind: &'static str,
        /// What the last event has.
        fields: &'static [Field],
    },
    /// Text, such as a script or a log.
    Text,
    /// Whatever the program prints that is run.
    Program,
}

impl Output {
    /// The fields of each object, where they are known beforehand.
    pub fn fields(&self) -> &'static [Field] {
        match self {
            Self::Item { fields, .. } | Self::List { fields, .. } | Self::Events { fields, .. } => fields,
            Self::Rows { .. } | Self::Text | Self::Program => &[],
        }
    }

    /// `kind` of the envelope.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Item { kind, .. }
            | Self::List { kind, .. }
            | Self::Rows { kind }
            | Self::Events { kind, .. } => kind,
            Self::Text | Self::Program => "",
        }
    }
}

/// One field of an object that is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Heading in tables; empty: only in JSON.
    pub heading: &'static str,
    /// What it is, which decides how a table shows it.
    pub value: FieldType,
}

impl Field {
    /// A field that tables show, too.
    pub const fn shown(name: &'static str, heading: &'static str, value: FieldType) -> Self {
        Self { name, heading, value }
    }
    /// A field of JSON only.
    pub const fn json(name: &'static str, value: FieldType) -> Self {
        Self { name, heading: "", value }
    }
}

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldType {
    /// Text.
    Text,
    /// A count.
    Count,
    /// Bytes.
    Bytes,
    /// Per second.
    Rate,
    /// Milliseconds.
    Milliseconds,
    /// RFC 3339 in JSON, age in tables; null: never.
    Time,
    /// Yes or no.
    Boolean,
    /// A list of texts.
    Texts,
    /// An object; null: none.
    Object,
    /// A list of objects.
    Objects,
}

/// A command that works as it stands.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Example {
    /// The command.
    pub command: &'static str,
    /// What it is good for.
    pub purpose: &'static str,
}
