//! The command line of `aap-coordinator`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use aap_runtime::{Home, LogFormat, Shutdown, SystemClock, become_owner, init_logging};
use aap_types::{NodeId, Problem};
use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand, ValueEnum};

use crate::cluster::migrate::Moved;
use crate::config::Config;
use crate::setup::{self, Wanted};
use crate::{cluster, daemon, init};

/// The coordinator of an AAP platform: data of all nodes lands here and is queried here.
#[derive(Debug, Parser)]
#[command(name = "aap-coordinator", version)]
struct Arguments {
    /// Where all state lies. Default: $AAP_HOME, else $XDG_STATE_HOME/aap, else ~/.local/state/aap
    #[arg(long, global = true)]
    home: Option<Utf8PathBuf>,
    /// Configuration. Default: config/coordinator.yaml of the home, if it exists
    #[arg(long, global = true)]
    config: Option<Utf8PathBuf>,
    /// Write the log as JSON lines
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a home: directories, certificate authority, operator's token, and the certificate of a node
    Init {
        /// The node. Default: this machine's name
        #[arg(long)]
        node: Option<NodeId>,
    },
    /// Make a coordinator that others find, and its first administrator; `aap init` runs this. Nothing may run in the home
    Setup {
        /// HOST:PORT at which operators find it
        #[arg(long)]
        endpoint: String,
        /// HOST:PORT at which agents find it. Default: the same host, port 7400
        #[arg(long)]
        agents: Option<String>,
        /// The name of the first administrator
        #[arg(long, default_value = "admin")]
        admin: String,
        /// Certificate for operators from elsewhere, PEM
        #[arg(long, requires = "key")]
        certificate: Option<Utf8PathBuf>,
        /// Its key, PEM
        #[arg(long, requires = "certificate")]
        key: Option<Utf8PathBuf>,
        /// Text for people, or one JSON object
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Take the platform of this home into the cluster that its configuration names; it must be stopped
    Migrate {
        /// Text for people, or one JSON object
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Check the configuration and say what is wrong with it
    Validate,
}

/// How the end of a command is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the program.
pub fn main() -> ExitCode {
    aap_runtime::memory::bound_heaps();
    let arguments = Arguments::parse();
    init_logging(if arguments.log_json { LogFormat::Json } else { LogFormat::Text });
    aap_runtime::raise_open_file_limit();
    let output = match arguments.command {
        Some(Command::Migrate { output } | Command::Setup { output, .. }) => output,
        _ => Output::Text,
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let problem = problem_of(&failure);
            let text = match output {
                Output::Text => problem.report(),
                Output::Json => problem.to_json().to_string(),
            };
            let mut stderr = std::io::stderr().lock();
            if writeln!(stderr, "{text}").is_err() {
                tracing::debug!("nobody reads the error");
            }
            ExitCode::from(problem.exit.number())
        }
    }
}

/// The problem inside of a failure, or one made of its chain.
fn problem_of(failure: &anyhow::Error) -> Problem {
    for error in failure.chain() {
        if let Some(problem) = error.downcast_ref::<Problem>() {
            return problem.clone();
        }
        if let Some(error) = error.downcast_ref::<aap_buffer::Error>() {
            return error.problem();
        }
        if let Some(error) = error.downcast_ref::<aap_transport::Error>() {
            return error.problem();
        }
        if let Some(error @ aap_store::Error::Newer { .. }) = error.downcast_ref::<aap_store::Error>() {
            return newer_state(error);
        }
    }
    let problem =
        Problem::new("coordinator.failed", aap_types::ExitCode::Failed, "the coordinator cannot run");
    failure
        .chain()
        .fold(problem, |problem, cause| problem.cause(cause.to_string()))
        .hint_command("see what it said before", "aap logs coordinator")
}

fn newer_state(error: &aap_store::Error) -> Problem {
    Problem::new("coordinator.newer_state", aap_types::ExitCode::Conflict, error.to_string())
        .hint("start the newer coordinator that wrote it; or go back to the backup from before the upgrade")
}

fn run(arguments: Arguments) -> Result<()> {
    let home = Home::find(arguments.home.as_deref());
    if matches!(arguments.command, Some(Command::Init { .. } | Command::Migrate { .. })) {
        become_owner(&home).context("go on as the user whom the home belongs to")?;
    }
    let clock = Arc::new(SystemClock::default());
    if let Some(Command::Init { node }) = arguments.command {
        let node = node.unwrap_or_else(init::local_node);
        let authority = init::prepare_home(&home, clock)?;
        init::issue_node(&authority, &node)?;
        return Ok(());
    }
    if let Some(Command::Setup { endpoint, agents, admin, certificate, key, output }) = arguments.command {
        let wanted = Wanted { endpoint, agents, administrator: admin, certificate: certificate.zip(key) };
        return runtime()?.block_on(set_up(&home, wanted, clock, output));
    }
    let path = arguments.config.clone().unwrap_or_else(|| home.config().join("coordinator.yaml"));
    let config = match arguments.config.is_some() || path.exists() {
        true => Config::read(&path)?,
        false => Config::default(),
    };
    if matches!(arguments.command, Some(Command::Validate)) {
        return Ok(());
    }
    let runtime = runtime()?;
    if let Some(Command::Migrate { output }) = arguments.command {
        return runtime.block_on(migrate(&home, &config, clock, output));
    }
    runtime.block_on(async { daemon::run(home, config, clock, Shutdown::on_signals()?).await })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

async fn set_up(home: &Home, wanted: Wanted, clock: Arc<SystemClock>, output: Output) -> Result<()> {
    let made = setup::run(home, wanted, clock).await?;
    let (name, password) = match &made.administrator {
        Some((name, password)) => (name.as_str(), password.reveal()),
        None => ("", ""),
    };
    let text = match output {
        Output::Json => serde_json::json!({
            "configuration": made.configuration, "endpoint": made.endpoint, "authority": made.authority,
            "certificate_authority": home.root().join(init::AUTHORITY), "user": name, "password": password,
        })
        .to_string(),
        Output::Text => {
            let administrator = match &made.administrator {
                Some(_) => format!(
                    "administrator  {name}\npassword       {password}\n\nThe password is shown this once, and has to be changed at the first log-in."
                ),
                None => "There are users already; none was made.".to_owned(),
            };
            format!(
                "configuration  {}\nendpoint       {}\nauthority      {} (fingerprint {})\n{administrator}\nNext: aap up --detach, or start the service; then aap auth login {name}",
                made.configuration,
                made.endpoint,
                home.root().join(init::AUTHORITY),
                made.authority,
            )
        }
    };
    writeln!(std::io::stdout().lock(), "{text}").context("say what was made")
}

async fn migrate(home: &Home, config: &Config, clock: Arc<SystemClock>, output: Output) -> Result<()> {
    let moved = cluster::migrate::run(home, config, clock).await?;
    let line = match (output, moved) {
        (Output::Json, moved) => {
            let Moved { files, batches, rows } = moved.unwrap_or_default();
            serde_json::json!({"moved": moved.is_some(), "files": files, "batches": batches, "rows": rows})
                .to_string()
        }
        (Output::Text, None) => {
            "there is nothing to move: this home has no landing buffer of its own any more".to_owned()
        }
        (Output::Text, Some(Moved { files, batches, rows })) => format!(
            "moved {files} files of the lake, and {batches} batches with {rows} rows that waited for it; \
             start the coordinator: aap up --detach"
        ),
    };
    writeln!(std::io::stdout().lock(), "{line}").context("say what was moved")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_a_newer_version_is_refused_by_a_code_of_its_own() {
        let newer = aap_store::Error::Newer { path: "meta.db".into(), found: 99, known: 7 };
        let problem = problem_of(&anyhow::Error::from(newer).context("open metadata"));
        assert_eq!(
            (problem.code.as_str(), problem.exit),
            ("coordinator.newer_state", aap_types::ExitCode::Conflict)
        );
        assert!(problem.message.contains("version 99"), "{problem:?}");
    }
}
