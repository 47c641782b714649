//! `aap-coordinator`: reads its arguments and runs the daemon.

use std::process::ExitCode;
use std::sync::Arc;

use aap_coordinator::config::Config;
use aap_coordinator::{daemon, init};
use aap_runtime::{Home, LogFormat, Shutdown, SystemClock, init_logging};
use aap_types::{NodeId, Problem};
use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};
use tracing::error;

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
    /// Check the configuration and say what is wrong with it
    Validate,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_logging(if arguments.log_json { LogFormat::Json } else { LogFormat::Text });
    aap_runtime::raise_open_file_limit();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = format!("{failure:#}"), "coordinator stopped");
            let problem = failure.downcast_ref::<Problem>();
            for line in problem.iter().flat_map(|problem| problem.causes.iter()) {
                error!("cause: {line}");
            }
            for hint in problem.iter().flat_map(|problem| problem.hints.iter()) {
                error!("hint: {}", hint.command.as_ref().unwrap_or(&hint.text));
            }
            ExitCode::from(problem.map_or(1, |problem| problem.exit.number()))
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let home = Home::find(arguments.home.as_deref());
    let clock = Arc::new(SystemClock::default());
    if let Some(Command::Init { node }) = arguments.command {
        let node = node.unwrap_or_else(init::local_node);
        let authority = init::prepare_home(&home, clock)?;
        init::issue_node(&home, &authority, &node)?;
        return Ok(());
    }
    let path = arguments.config.clone().unwrap_or_else(|| home.config().join("coordinator.yaml"));
    let config = match arguments.config.is_some() || path.exists() {
        true => Config::read(&path)?,
        false => Config::default(),
    };
    if matches!(arguments.command, Some(Command::Validate)) {
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async { daemon::run(home, config, clock, Shutdown::on_signals()?).await })
}
