//! The clap tree, made from the registry of operations, and what every command takes.

use std::ffi::OsString;
use std::time::Duration;

use aap_client::Named;
use aap_client::operations::{self, Argument, Format, GLOBALS, Id, Kind, NOUNS, Operation, Value};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use clap::builder::{FalseyValueParser, PossibleValuesParser, ValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};

use crate::completion;

/// Most rows or items that are printed unless told otherwise.
const LIMIT_DEFAULT: u64 = 500;

/// What every command takes.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The platform that the command line names.
    pub(crate) on_line: Named,
    /// The platform that the environment names.
    pub(crate) in_environment: Named,
    /// As asked; `None`: what suits stdout.
    pub(crate) format: Option<Format>,
    /// Most rows or items; 0: all.
    pub(crate) limit: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) no_headers: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    pub(crate) yes: bool,
    /// The name of the context, where it asks for it.
    pub(crate) confirm: Option<String>,
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

/// One command, as typed.
pub(crate) struct Parsed {
    pub(crate) operation: &'static Operation,
    pub(crate) arguments: ArgMatches,
    pub(crate) settings: Settings,
}

/// Why there is nothing to run.
pub(crate) struct End {
    error: clap::Error,
    for_programs: bool,
    /// What was typed has line breaks or other control characters in it, which clap repeats as they are.
    is_odd: bool,
}

impl End {
    /// Prints help, version or the usage error.
    pub(crate) fn report(self) -> ExitCode {
        let wanted = matches!(self.error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if self.for_programs && !wanted {
            let problem = usage_problem(&self.error);
            let mut printer = crate::printer::Printer::new(&Settings::plain());
            printer.error_line(&problem.to_json().to_string());
            return ExitCode::Usage;
        }
        if !wanted && self.is_odd {
            let mut printer = crate::printer::Printer::new(&Settings::plain());
            crate::failure::print_problem(&usage_problem(&self.error), &mut printer);
            return ExitCode::Usage;
        }
        // Printing fails only when nobody reads.
        let _ignored = self.error.print();
        if wanted { ExitCode::Ok } else { ExitCode::Usage }
    }
}

fn usage_problem(error: &clap::Error) -> Problem {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let problem = Problem::new("cli.usage", ExitCode::Usage, message);
    let problem = lines.filter(|line| line.starts_with("tip:")).fold(problem, |p, line| p.hint(line));
    problem.hint_command("see what there is", "aap help")
}

/// Reads the command line.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, Box<End>> {
    let arguments: Vec<OsString> = arguments.collect();
    let for_programs = asks_for_json(&arguments);
    let is_odd = arguments.iter().any(|word| word.to_string_lossy().chars().any(char::is_control));
    let end = |error| Box::new(End { error, for_programs, is_odd });
    let matches = command().try_get_matches_from(arguments).map_err(end)?;
    let settings = Settings::from(&matches);
    let (operation, arguments) = selected(matches).ok_or_else(|| {
        end(command().error(ErrorKind::MissingSubcommand, "no command given; `aap help` lists them"))
    })?;
    Ok(Parsed { operation, arguments, settings })
}

/// The operation that the words name: nouns from the outside in, then the verb or, without one, the noun's default.
fn selected(mut matches: ArgMatches) -> Option<(&'static Operation, ArgMatches)> {
    let mut words: Vec<String> = Vec::new();
    while let Some((word, inner)) = matches.remove_subcommand() {
        words.push(word);
        matches = inner;
    }
    let words = words.join(" ");
    let named = operations::all().find(|o| o.words() == words);
    named.or_else(|| operations::all().find(|o| o.is_default && o.noun == words)).map(|o| (o, matches))
}

/// Whether errors must be JSON, known before the command line is understood.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let is_json = |text: &str| matches!(text, "json" | "ndjson");
    let texts: Vec<&str> = arguments.iter().filter_map(|a| a.to_str()).collect();
    let on_line = texts.iter().enumerate().any(|(at, text)| match *text {
        "-o" | "--output" => texts.get(at + 1).is_some_and(|next| is_json(next)),
        text => text.strip_prefix("--output=").or_else(|| text.strip_prefix("-o")).is_some_and(is_json),
    });
    on_line || std::env::var("AAP_OUTPUT").is_ok_and(|text| is_json(&text))
}

/// The whole tree.
pub(crate) fn command() -> Command {
    let mut root = Command::new("aap")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Advanced Analytics Platform: collect, keep and query data, nothing lost, nothing doubled")
        .after_help(
            "`aap up --detach` starts a platform on this machine. `aap help exit-codes` is for scripts.",
        )
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(110);
    for argument in GLOBALS {
        root = root.arg(clap_argument(argument).global(true).help_heading("Options for every command"));
    }
    for operation in operations::all().filter(|o| o.noun.is_empty()) {
        root = root.subcommand(leaf(operation));
    }
    for noun in NOUNS.iter().filter(|noun| noun.within().is_empty()) {
        root = root.subcommand(noun_command(noun));
    }
    root
}

fn noun_command(noun: &operations::Noun) -> Command {
    let mut command = Command::new(noun.word()).about(noun.summary).disable_help_subcommand(true);
    let default = operations::all().find(|o| o.noun == noun.name && o.is_default);
    command = match default {
        Some(operation) => with_arguments(command, operation)
            .after_help(after_help(operation))
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
            .arg_required_else_help(true),
        None => command.subcommand_required(true).arg_required_else_help(true),
    };
    for operation in operations::all().filter(|o| o.noun == noun.name) {
        command = command.subcommand(leaf(operation));
    }
    for inner in NOUNS.iter().filter(|inner| inner.within() == noun.name) {
        command = command.subcommand(noun_command(inner));
    }
    command
}

fn leaf(operation: &'static Operation) -> Command {
    let command = Command::new(operation.verb).about(operation.summary).after_help(after_help(operation));
    with_arguments(command, operation)
}

fn with_arguments(command: Command, operation: &'static Operation) -> Command {
    operation.arguments.iter().fold(command, |command, argument| command.arg(clap_argument(argument)))
}

fn after_help(operation: &Operation) -> String {
    let mut text = String::new();
    if !operation.details.is_empty() {
        text.push_str(operation.details);
        text.push_str("\n\n");
    }
    text.push_str("Examples:\n");
    for example in operation.examples {
        text.push_str(&format!("  {}\n      {}\n", example.command, example.purpose));
    }
    if !operation.hints.is_empty() {
        text.push_str(&format!("\nNext: {}", operation.hints.join(" · ")));
    }
    text
}

fn clap_argument(argument: &'static Argument) -> Arg {
    let mut arg = Arg::new(argument.name).help(argument.summary);
    arg = match argument.kind {
        Kind::Positional { required, many } => {
            let action = if many { ArgAction::Append } else { ArgAction::Set };
            let arg = arg.required(required).action(action).value_name(argument.name);
            if many { arg.num_args(0..) } else { arg }
        }
        Kind::Option { many, .. } => arg
            .long(argument.name)
            .action(if many { ArgAction::Append } else { ArgAction::Set })
            .value_name(value_name(argument.value)),
        Kind::Flag { .. } => {
            arg.long(argument.name).action(ArgAction::SetTrue).value_parser(FalseyValueParser::new())
        }
        Kind::Rest => arg.num_args(0..).trailing_var_arg(true).allow_hyphen_values(true).value_name("MORE"),
    };
    if let Some(letter) = argument.letter() {
        arg = arg.short(letter);
    }
    if argument.value != Value::Nothing {
        arg = arg.value_parser(parser(argument.value)).value_hint(hint(argument.value));
    }
    if let Some(completer) = completion::completer(argument.value) {
        arg = arg.add(completer);
    }
    if let Some(default) = argument.default {
        arg = arg.default_value(default);
    }
    match argument.environment {
        // An empty variable means that it is not set.
        Some(name) if std::env::var_os(name).is_some_and(|value| !value.is_empty()) => arg.env(name),
        Some(name) => arg.help(format!("{} [env: {name}]", argument.summary)),
        None => arg,
    }
}

fn value_name(value: Value) -> &'static str {
    match value {
        Value::Nothing => "",
        Value::Text => "TEXT",
        Value::Number => "N",
        Value::Duration => "DURATION",
        Value::File => "FILE",
        Value::Directory => "DIR",
        Value::Glob => "GLOB",
        Value::Sql => "SQL",
        Value::Stream => "STREAM",
        Value::Node => "NODE",
        Value::Context | Value::DeclaredName => "NAME",
        Value::Sink => "SINK",
        Value::User => "USER",
        Value::Role => "ROLE",
        Value::Declared => "KIND",
        Value::Choice(_) => "WHICH",
    }
}

fn parser(value: Value) -> ValueParser {
    match value {
        Value::Number => clap::value_parser!(u64).into(),
        Value::Duration => ValueParser::new(parse_duration),
        Value::Choice(choices) => PossibleValuesParser::new(choices).into(),
        Value::Stream => ValueParser::new(|text: &str| {
            text.parse::<aap_types::StreamName>().map(|name| name.to_string()).map_err(|e| e.to_string())
        }),
        Value::Node => ValueParser::new(|text: &str| {
            text.parse::<aap_types::NodeId>().map(|name| name.to_string()).map_err(|e| e.to_string())
        }),
        _ => ValueParser::string(),
    }
}

fn hint(value: Value) -> ValueHint {
    match value {
        Value::File | Value::Glob => ValueHint::FilePath,
        Value::Directory => ValueHint::DirPath,
        _ => ValueHint::Unknown,
    }
}

/// `30s`, `5m`, `1h`, `30d`, `500ms`, `1h30m`; a bare number is seconds, a day 24 hours.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write 30s, 5m, 1h, 30d or 500ms");
    let trimmed = text.trim();
    if let Ok(seconds) = trimmed.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let span = trimmed.parse::<jiff::Span>().map_err(|_| wrong())?;
    let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

impl Settings {
    fn from(matches: &ArgMatches) -> Self {
        let text = |name: &str| matches.get_one::<String>(name);
        let format = text("output").and_then(|wanted| {
            Format::NAMES.iter().find(|(name, _)| name == wanted).map(|(_, format)| *format)
        });
        Self {
            on_line: named(matches, ValueSource::CommandLine),
            in_environment: named(matches, ValueSource::EnvVariable),
            format,
            limit: matches.get_one::<u64>("limit").copied().unwrap_or(LIMIT_DEFAULT),
            timeout: matches.get_one::<Duration>("timeout").copied(),
            no_headers: matches.get_flag("no-headers"),
            quiet: matches.get_flag("quiet"),
            verbose: matches.get_flag("verbose"),
            yes: matches.get_flag("yes"),
            confirm: text("confirm").cloned(),
            color: match text("color").map(String::as_str) {
                Some("always") => Color::Always,
                Some("never") => Color::Never,
                _ => Color::Auto,
            },
        }
    }

    fn plain() -> Self {
        Self {
            on_line: Named::default(),
            in_environment: Named::default(),
            format: None,
            limit: LIMIT_DEFAULT,
            timeout: None,
            no_headers: false,
            quiet: false,
            verbose: false,
            yes: false,
            confirm: None,
            color: Color::Never,
        }
    }
}

/// The platform that one place names.
fn named(matches: &ArgMatches, source: ValueSource) -> Named {
    let text = |name: &str| {
        let is_from_it = matches.value_source(name) == Some(source);
        matches.get_one::<String>(name).filter(|value| is_from_it && !value.is_empty()).cloned()
    };
    Named { home: text("home").map(Utf8PathBuf::from), context: text("context") }
}

/// The format to print in: as asked if the operation has it, else what suits stdout.
pub(crate) fn format_for(id: Id, settings: &Settings, terminal: bool) -> Result<Format, Problem> {
    let operation = operations::of(id);
    match settings.format {
        None if terminal => Ok(Format::Table),
        None => Ok(Format::Plain),
        Some(format) if operation.formats.contains(&format) => Ok(format),
        Some(format) => {
            let names: Vec<_> = operation.formats.iter().map(|f| f.name()).collect();
            let message = format!("`{}` does not print {}", operation.command(), format.name());
            Err(Problem::new("cli.format", ExitCode::Usage, message)
                .hint(format!("it prints {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<OsString> {
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in command.chars() {
            match (c, quote) {
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(q)) if c == q => quote = None,
                (' ', None) => words.push(String::new()),
                (c, _) => words.last_mut().unwrap().push(c),
            }
        }
        words.into_iter().map(OsString::from).collect()
    }

    #[test]
    fn every_operation_is_reachable_and_its_examples_parse_to_it() {
        command().debug_assert();
        for operation in operations::all() {
            for example in operation.examples {
                let Ok(parsed) = parse(words(example.command).into_iter()) else {
                    panic!("{} does not parse", example.command)
                };
                assert_eq!(parsed.operation.id, operation.id, "{}", example.command);
            }
        }
    }

    #[test]
    fn a_statement_needs_no_verb_and_global_options_stand_anywhere() {
        for line in [
            "aap query \"select 1\" -o json --limit 7",
            "aap -o json query --limit 7 \"select 1\"",
            "aap --limit=7 query run \"select 1\" --output json",
        ] {
            let Ok(parsed) = parse(words(line).into_iter()) else { panic!("{line}") };
            assert_eq!(parsed.operation.id, Id::QueryRun, "{line}");
            assert_eq!(parsed.arguments.get_one::<String>("sql").unwrap(), "select 1", "{line}");
            assert_eq!((parsed.settings.format, parsed.settings.limit), (Some(Format::Json), 7), "{line}");
        }
    }

    #[test]
    fn a_noun_within_a_noun_takes_global_options_anywhere() {
        for line in [
            "aap -o json --limit 7 sink dlq ls orders",
            "aap sink -o json dlq --limit 7 ls orders",
            "aap sink dlq ls orders -o json --limit=7",
        ] {
            let Ok(parsed) = parse(words(line).into_iter()) else { panic!("{line}") };
            assert_eq!(parsed.operation.id, Id::SinkDlqLs, "{line}");
            assert_eq!(parsed.arguments.get_one::<String>("sink").unwrap(), "orders", "{line}");
            assert_eq!((parsed.settings.format, parsed.settings.limit), (Some(Format::Json), 7), "{line}");
        }
    }

    #[test]
    fn durations_parse_as_people_write_them() {
        for (text, ms) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("500ms", 500),
            ("2", 2000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for bad in ["", "x", "-1s", "5 parsecs", "2 months"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
