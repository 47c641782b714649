//! Reading configuration files: documents, then sections, each error with its file and line.

use std::io;

use aap_runtime::documents::{Document, DocumentError, documents, nearest_of};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Config, FormatSpec, SOURCE_TYPES, SourceConfig, SourceSpec};
use crate::formats::Recipe;

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("read configuration `{path}`")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document is not what it must be.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl ConfigError {
    /// The form an operator sees.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Read { source, .. } => {
                Problem::new("config.invalid", ExitCode::Usage, self.to_string()).cause(source.to_string())
            }
            Self::Document(error) => error.problem(),
        }
    }
}

/// The files of a home: `config/agent.yaml` and every `*.yaml` in `config/sources.d/`, those that exist.
pub fn config_files(config: &Utf8Path) -> Vec<Utf8PathBuf> {
    let mut extra: Vec<Utf8PathBuf> = config
        .join("sources.d")
        .read_dir_utf8()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().to_owned())
        .filter(|path| path.extension() == Some("yaml"))
        .collect();
    extra.sort();
    let main = config.join("agent.yaml");
    main.exists().then_some(main).into_iter().chain(extra).collect()
}

/// Reads all `files` as one configuration.
pub fn load(files: &[Utf8PathBuf]) -> Result<Config, ConfigError> {
    let mut texts = Vec::with_capacity(files.len());
    for path in files {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        texts.push((path.clone(), text));
    }
    load_text(&texts)
}

/// Checks one file by itself, as `aap-agent validate` does.
pub fn check_file(path: &Utf8Path) -> Result<Config, ConfigError> {
    load(&[path.to_owned()])
}

/// The same from texts in memory.
pub fn load_text(texts: &[(Utf8PathBuf, String)]) -> Result<Config, ConfigError> {
    let mut loader = Loader::default();
    for (path, text) in texts {
        loader.file(path, text)?;
    }
    Ok(Config {
        node: loader.node,
        agent: loader.agent.unwrap_or_default(),
        sources: loader.sources.into_iter().map(|(config, ..)| config).collect(),
    })
}

#[derive(Default)]
struct Loader {
    node: Option<aap_types::NodeId>,
    agent: Option<super::AgentSpec>,
    sources: Vec<(SourceConfig, Utf8PathBuf, usize)>,
}

#[derive(Deserialize)]
struct Typed {
    r#type: Option<String>,
    /// What the coordinator reads has a section of its own instead of a type.
    kafka: Option<IgnoredAny>,
    postgres: Option<IgnoredAny>,
}

impl Loader {
    fn file(&mut self, path: &Utf8Path, text: &str) -> Result<(), ConfigError> {
        for document in documents(path, text) {
            self.document(&document)?;
        }
        Ok(())
    }

    fn document(&mut self, document: &Document) -> Result<(), DocumentError> {
        let envelope = document.envelope()?;
        match envelope.kind.as_str() {
            "Agent" => self.agent(document, &envelope.metadata.name),
            "Source" => self.source(document, envelope.metadata.name),
            other => Err(document.unknown_kind(other, &["Agent", "Source"])),
        }
    }

    fn agent(&mut self, document: &Document, name: &str) -> Result<(), DocumentError> {
        if self.agent.is_some() {
            let message = "a second document of kind Agent".to_owned();
            return Err(document.error("kind", message, Some("keep one of them".into())));
        }
        let node =
            name.parse().map_err(|e: aap_types::NameError| document.error("name", e.to_string(), None))?;
        self.node = Some(node);
        let spec = document.spec::<Option<super::AgentSpec>>()?.unwrap_or_default();
        check_agent(&spec).map_err(|(key, message)| document.error(key, message, None))?;
        self.agent = Some(spec);
        Ok(())
    }

    fn source(&mut self, document: &Document, name: String) -> Result<(), DocumentError> {
        // Names of sources stand in keys of positions and in metrics; the alphabet of streams suits them.
        name.parse::<aap_types::StreamName>()
            .map_err(|_| document.error("name", format!("`{name}` is not a source name"), None))?;
        if let Some((_, other, line)) = self.sources.iter().find(|(config, ..)| config.name == name) {
            let message = format!("a second source `{name}`; the first is at {other}:{line}");
            return Err(document.error("name", message, Some("give it another name".into())));
        }
        let Typed { r#type, kafka, postgres } = document.spec()?;
        let Some(r#type) = r#type else {
            let (message, hint) = match kafka.or(postgres) {
                Some(_) => ("a source that the coordinator reads, not an agent", "aap apply -f FILE"),
                None => ("a source needs a `type`", "`aap source types` lists them"),
            };
            return Err(document.error("spec", message.to_owned(), Some(hint.to_owned())));
        };
        let spec = match r#type.as_str() {
            "file" => SourceSpec::File(document.spec()?),
            "http" => SourceSpec::Http(document.spec()?),
            "journald" => SourceSpec::Journald(document.spec()?),
            "otlp" => SourceSpec::Otlp(document.spec()?),
            "exec" => SourceSpec::Exec(document.spec()?),
            "prometheus_remote_write" => SourceSpec::RemoteWrite(document.spec()?),
            "prometheus_scrape" => SourceSpec::Scrape(document.spec()?),
            "mqtt" => SourceSpec::Mqtt(document.spec()?),
            "stdin" => SourceSpec::Stdin(document.spec()?),
            "syslog" => SourceSpec::Syslog(document.spec()?),
            "host_metrics" | "host-metrics" => SourceSpec::HostMetrics(document.spec()?),
            other => {
                let names: Vec<&str> = SOURCE_TYPES.iter().map(|known| known.name).collect();
                let hint =
                    nearest_of(other, names.iter().copied()).map(|name| format!("did you mean `{name}`?"));
                let message = format!("source type `{other}` is not one of {}", names.join(", "));
                return Err(document.error("type", message, hint));
            }
        };
        check_source(&spec).map_err(|(key, message)| document.error(key, message, None))?;
        let is_single = matches!(spec, SourceSpec::Stdin(_) | SourceSpec::Http(_));
        let same = self.sources.iter().find(|(config, ..)| config.spec.type_name() == spec.type_name());
        if let Some((first, other, line)) = same.filter(|_| is_single) {
            let kind = spec.type_name();
            let message =
                format!("a second source of type {kind}; the first is `{}` at {other}:{line}", first.name);
            let hint = match spec {
                SourceSpec::Stdin(_) => "an agent has one standard input: keep one of them",
                _ => "one HTTP source takes every stream, named by the path: keep one of them",
            };
            return Err(document.error("type", message, Some(hint.to_owned())));
        }
        self.sources.push((SourceConfig { name, spec }, document.path().to_owned(), document.line()));
        Ok(())
    }
}

/// What a limit of lines or messages may be.
const LINE_LIMITS: std::ops::RangeInclusive<u64> = 1024..=8 << 20;

pub(super) type Complaint = (&'static str, String);

fn check_agent(spec: &super::AgentSpec) -> Result<(), Complaint> {
    let one_of = |key, value: &Option<String>, allowed: &[&str]| match value {
        Some(value) if !allowed.contains(&value.as_str()) => {
            Err((key, format!("`{value}` is not one of {}", allowed.join(", "))))
        }
        _ => Ok(()),
    };
    one_of("durability", &spec.buffer.durability, &["fsync", "os", "memory"])?;
    one_of("when_full", &spec.buffer.when_full, &["block", "drop-oldest"])?;
    let segment = spec.buffer.segment_bytes.map_or(16 << 20, |b| b.0);
    if !(1 << 20..=64 << 20).contains(&segment) {
        return Err(("segment_bytes", "segments are from 1MiB to 64MiB".to_owned()));
    }
    if spec.buffer.budget.is_some_and(|budget| budget.0 < 4 * segment) {
        return Err(("budget", "the budget must hold at least four segments".to_owned()));
    }
    if let Some(coordinator) = &spec.coordinator {
        coordinator.check()?;
    }
    if spec.query.concurrency == 0 {
        return Err(("concurrency", "at least one query must be able to run".to_owned()));
    }
    Ok(())
}

fn check_source(spec: &SourceSpec) -> Result<(), Complaint> {
    match spec {
        SourceSpec::File(file) => check_file_source(file),
        SourceSpec::Stdin(stdin) => {
            check_format(&Recipe::new(stdin.format, stdin.pattern.clone(), stdin.timestamp.clone(), false))
        }
        SourceSpec::Http(http) => check_http_source(http),
        SourceSpec::Journald(journald) => journald.check(),
        SourceSpec::Otlp(otlp) => otlp.check(),
        SourceSpec::Exec(exec) => exec.check(),
        SourceSpec::Mqtt(mqtt) => mqtt.check(),
        SourceSpec::RemoteWrite(write) => write.check(),
        SourceSpec::Scrape(scrape) => scrape.check(),
        SourceSpec::Syslog(syslog) => {
            if !LINE_LIMITS.contains(&syslog.message_bytes_max.0) {
                return Err(("message_bytes_max", "the message limit is from 1KiB to 8MiB".to_owned()));
            }
            Recipe::new(FormatSpec::Syslog, None, syslog.timestamp(), false)
                .build(b"")
                .map_err(|error| ("zone", error.to_string()))?;
            let remote = [syslog.udp, syslog.tcp].into_iter().flatten().find(|a| !a.ip().is_loopback());
            match remote {
                _ if syslog.udp.is_none() && syslog.tcp.is_none() => {
                    Err(("type", "a syslog source needs `udp:` or `tcp:` with an address".to_owned()))
                }
                Some(address) if !syslog.allow_remote => Err((
                    "allow_remote",
                    format!(
                        "`{address}` is not a loopback address: anyone there can write; say `allow_remote: true` to accept that"
                    ),
                )),
                _ => Ok(()),
            }
        }
        SourceSpec::HostMetrics(metrics) if metrics.every.0.as_secs() < 1 => {
            Err(("every", "host metrics are read at most once a second".to_owned()))
        }
        _ => Ok(()),
    }
}

fn check_http_source(http: &super::HttpSpec) -> Result<(), Complaint> {
    if let Some(address) = http.listen.filter(|address| !address.ip().is_loopback()) {
        let message = format!("`{address}` is not a loopback address, and this listener has no TLS");
        return Err(("listen", message));
    }
    let keep = http.keep_keys.0;
    if keep.is_zero() || keep > super::HttpSpec::KEEP_KEYS_MAX {
        let message = "answers are kept for at most 24h, and for longer than nothing".to_owned();
        return Err(("keep_keys", message));
    }
    if !(1024..=256 << 20).contains(&http.body_bytes_max.0) {
        return Err(("body_bytes_max", "the body limit is from 1KiB to 256MiB".to_owned()));
    }
    Ok(())
}

fn check_file_source(file: &super::FileSpec) -> Result<(), Complaint> {
    if file.include.is_empty() {
        return Err(("include", "a file source needs at least one path or glob".to_owned()));
    }
    for (key, globs) in [("include", &file.include), ("exclude", &file.exclude)] {
        for glob in globs {
            if !glob.starts_with('/') {
                return Err((key, format!("`{glob}` is not an absolute path")));
            }
            globset::Glob::new(glob).map_err(|e| (key, format!("`{glob}` is not a glob: {}", e.kind())))?;
        }
    }
    if let Some(rule) = &file.multiline {
        let pattern = match (&rule.start, &rule.r#continue) {
            (Some(pattern), None) | (None, Some(pattern)) => pattern,
            _ => return Err(("multiline", "a multi-line rule is either `start:` or `continue:`".to_owned())),
        };
        regex::bytes::Regex::new(pattern)
            .map_err(|_| ("multiline", format!("`{pattern}` is not a regular expression")))?;
    }
    check_format(&Recipe::new(file.format, file.pattern.clone(), file.timestamp.clone(), file.keep_raw))?;
    if !LINE_LIMITS.contains(&file.line_bytes_max.0) {
        return Err(("line_bytes_max", "the line limit is from 1KiB to 8MiB".to_owned()));
    }
    Ok(())
}

pub(super) fn check_format(recipe: &Recipe) -> Result<(), Complaint> {
    use aap_decode::ConfigError::{Pattern, PatternMissing, TimeFormat, TimePattern, Zone};
    recipe.build(b"").map(drop).map_err(|error| {
        let key = match &error {
            TimeFormat { .. } | TimePattern { .. } => "timestamp.format",
            Zone { .. } => "timestamp.zone",
            Pattern(_) | PatternMissing => "pattern",
            _ => "format",
        };
        let chain = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        (key, format!("`spec.{key}`: {chain}"))
    })
}
