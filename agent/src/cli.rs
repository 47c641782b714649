//! The command line of `aap-agent`.

use std::io::Write;
use std::process::ExitCode;

use aap_runtime::{Home, LogFormat, Shutdown, become_owner, init_logging};
use aap_types::{NodeId, Problem};
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand, ValueEnum};

use crate::config;
use crate::daemon::{self, Options};
use crate::enrol::{self, Wish};
use crate::offline::{self, BufferCommand};
use crate::trial;

/// Collects data on this node, keeps it durably, and delivers it exactly once.
#[derive(Debug, Parser)]
#[command(name = "aap-agent", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where state, sockets and configuration are. Default: `AAP_HOME`, else `$XDG_STATE_HOME/aap`.
    #[arg(long, value_name = "DIR", global = true)]
    home: Option<Utf8PathBuf>,
    /// Configuration, any number of times: a file, or a folder with `agent.yaml` and `sources.d/*.yaml`. Default: `config` of the home.
    #[arg(long, value_name = "PATH")]
    config: Vec<Utf8PathBuf>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = Logs::Text)]
    log_format: Logs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Logs {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a configuration file without starting anything.
    Validate {
        /// The file.
        file: Utf8PathBuf,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Makes this machine a node of a platform, with a token that `aap token create` printed.
    Enroll {
        /// The token; `-` reads it from standard input, where no other user of the machine sees it.
        token: String,
        /// The name of the node. Default: that of the token, else this machine's.
        #[arg(long)]
        node: Option<NodeId>,
        /// Enrol although the node of this home was enrolled before.
        #[arg(long)]
        again: bool,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Says which types of sources there are, and tries sources out.
    Source {
        #[command(subcommand)]
        command: SourceCommand,
        /// Form of the answer.
        #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Looks into a buffer directory, with no agent running or beside one.
    Buffer {
        #[command(subcommand)]
        command: BufferCommand,
        /// Form of the answer.
        #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum SourceCommand {
    /// Lists the types of sources, what each promises, and an example.
    Types,
    /// Checks the sources of a file and runs each until its first rows, storing nothing.
    Test {
        /// The file.
        file: Utf8PathBuf,
        /// How long to wait for a row of each source.
        #[arg(long, value_name = "SECONDS", default_value_t = trial::WITHIN.as_secs_f64())]
        seconds: f64,
    },
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs the program.
pub fn main() -> ExitCode {
    aap_runtime::memory::bound_heaps();
    let arguments = Arguments::parse();
    let (result, output) = match arguments.command {
        Some(Command::Validate { file, output }) => (validate(&file, output), output),
        Some(Command::Source { command: SourceCommand::Types, output }) => {
            trial::types(output);
            (Ok(0), output)
        }
        Some(Command::Source { command: SourceCommand::Test { file, seconds }, output }) => {
            let within = std::time::Duration::try_from_secs_f64(seconds).unwrap_or(trial::WITHIN);
            let home = Home::find(arguments.home.as_deref());
            (trial::test(home, &file, within, output).map(|()| 0), output)
        }
        Some(Command::Enroll { token, node, again, output }) => {
            let home = Home::find(arguments.home.as_deref());
            (enroll(&home, Wish { token, node, again }, output), output)
        }
        Some(Command::Buffer { command, output }) => (offline::run(command, output), output),
        None => {
            init_logging(match arguments.log_format {
                Logs::Text => LogFormat::Text,
                Logs::Json => LogFormat::Json,
            });
            let options = Options { home: Home::find(arguments.home.as_deref()), config: arguments.config };
            (serve(options), Output::Text)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            print_problem(&problem, output);
            ExitCode::from(problem.exit.number())
        }
    }
}

fn enroll(home: &Home, wish: Wish, output: Output) -> Result<u8, Problem> {
    become_owner(home).map_err(|error| enrol::not_the_owner(home, &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_threads)?;
    runtime.block_on(enrol::run(home, wish, output)).map(|()| 0)
}

fn no_threads(error: std::io::Error) -> Problem {
    Problem::new("agent.runtime", aap_types::ExitCode::Failed, "start threads").caused_by(&error)
}

fn serve(options: Options) -> Result<u8, Problem> {
    // Two workers: one may wait for a slow client while the other takes acknowledgements. Threads of the blocking
    // pool come and go with the load; an idle agent has none.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .thread_name("agent")
        .enable_all()
        .build()
        .map_err(no_threads)?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        daemon::run(options, shutdown).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => Ok(0),
        Err(error) => Err(problem_of(&error)),
    }
}

/// The problem inside of an error, or one made of its chain.
fn problem_of(error: &anyhow::Error) -> Problem {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return problem.clone();
    }
    let mut chain = error.chain();
    let message = chain.next().map(ToString::to_string).unwrap_or_default();
    let problem =
        Problem::new("agent.failed", aap_types::ExitCode::Failed, format!("the agent cannot run: {message}"));
    chain.fold(problem, |problem, cause| problem.cause(cause.to_string()))
}

fn validate(file: &camino::Utf8Path, output: Output) -> Result<u8, Problem> {
    let config = config::check_file(file).map_err(|error| error.problem())?;
    let text = match output {
        Output::Json => serde_json::json!({
            "format_version": "1.0",
            "kind": "agent.validate",
            "file": file,
            "valid": true,
            "sources": config.sources.iter().map(|source| serde_json::json!({
                "name": source.name,
                "type": source.spec.type_name(),
                "stream": Some(source.spec.streams_text()).filter(|streams| !streams.is_empty()),
                "guarantee": source.spec.guarantee(),
            })).collect::<Vec<_>>(),
        })
        .to_string(),
        Output::Text => {
            let sources = config.sources.iter().map(|source| {
                let streams = source.spec.streams_text();
                let stream = if streams.is_empty() { "(named by each request)" } else { &streams };
                format!(
                    "  {} ({}) -> {}: {}",
                    source.name,
                    source.spec.type_name(),
                    stream,
                    source.spec.guarantee()
                )
            });
            let head = format!("`{file}` is valid: {} sources", config.sources.len());
            std::iter::once(head).chain(sources).collect::<Vec<_>>().join("\n")
        }
    };
    print_line(&text);
    Ok(0)
}

/// Writes a line to stdout. A reader that went away is no error.
pub fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        tracing::debug!("nobody reads the answer");
    }
}

fn print_problem(problem: &Problem, output: Output) {
    let text = match output {
        Output::Json => problem.to_json().to_string(),
        Output::Text => problem.report(),
    };
    let mut err = std::io::stderr().lock();
    if writeln!(err, "{text}").is_err() {
        tracing::debug!("nobody reads the error");
    }
}
