//! `aap up` and `aap down`: the supervisor of a platform on this machine.
//!
//! One supervisor per home holds `run/up.lock`. It starts `aap-coordinator` and `aap-agent` in process groups of
//! their own, with `log/*.log` as their output, and starts a killed one again within two seconds. The daemons do not
//! die with it: they go on collecting, and the next `aap up` adopts them (their pid files name processes that run
//! our programs on this home), so that a killed supervisor costs nothing and collides with nothing.
//!
//! ```text
//! aap up            lock → prepare home → start or adopt → wait until ready → supervise → stop in data order
//! aap up --detach   starts the same in a session of its own and returns when that says that it is ready
//! aap up (second)   adds the files of --tail, waits until ready, returns 0
//! aap down          asks the supervisor to stop; without one, stops the daemons itself
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `up/programs.rs` | where the daemons' programs are |
//! | `up/prepare.rs` | directories, certificates, token, configuration, `--tail` |
//! | `up/process.rs` | one process: start, adopt, wait, signal, its pid file |
//! | `up/supervise.rs` | the loop: restarts, readiness, log rotation, stop |
//! | `up/ready.rs` | when a platform is ready |
//! | `up/detach.rs` | the supervisor in the background |
//! | `up/log_file.rs` | logs and their rotation |

mod detach;
mod log_file;
mod prepare;
mod process;
pub(crate) mod programs;
mod ready;
mod supervise;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use aap_client::operations::Id;
use aap_client::{Home, Platform};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use clap::ArgMatches;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{object, print_item};
use crate::up::process::{PROGRAMS, RunningProgram, running};
use crate::up::ready::Ready;

/// A platform that is not ready after this is reported, and left to go on.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// `aap down` kills a supervisor that takes longer than its own deadlines allow.
const SUPERVISOR_WITHIN: Duration = Duration::from_secs(60);
/// A daemon that does not end on SIGTERM is killed after this.
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// What `aap up` was asked for.
#[derive(Debug, Clone)]
struct Options {
    home: Home,
    tail: Vec<String>,
    node: Option<String>,
    ready_within: Duration,
}

pub(crate) async fn up(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let options = options(context, arguments)?;
    context.platform = Platform::at(options.home.clone());
    prepare::directories(&options.home)?;
    let detached_child = detach::is_child();
    let Some(lock) = Lock::take(&options.home)? else {
        let outcome = already_running(context, &options).await;
        return if detached_child {
            detach::answer_and_end(outcome)
        } else {
            print_ready(context, &outcome?)
        };
    };
    if arguments.get_flag("detach") && !detached_child {
        drop(lock);
        let ready = detach::start(context, &options).await?;
        return print_ready(context, &ready);
    }
    supervise::run(context, &options, detached_child).await
}

fn options(context: &Context<'_>, arguments: &ArgMatches) -> Result<Options, Problem> {
    let here =
        std::env::current_dir().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok()).ok_or_else(
            || Problem::new("up.directory", ExitCode::Failed, "the current directory has no name in UTF-8"),
        )?;
    let tail = arguments.get_many::<String>("tail").into_iter().flatten();
    Ok(Options {
        home: Home::at(prepare::absolute(&here, context.platform.home()?.root().as_str())),
        tail: tail.map(|glob| prepare::absolute_glob(&here, glob)).collect(),
        node: arguments.get_one::<String>("node").cloned(),
        ready_within: context.settings.timeout.unwrap_or(READY_WITHIN),
    })
}

/// A second `up`: the files of `--tail` are added, and the platform must be ready.
async fn already_running(context: &mut Context<'_>, options: &Options) -> Result<Ready, Failure> {
    if let Some(wanted) = &options.node {
        prepare::node_name(&options.home, Some(wanted))?;
    }
    let added = prepare::add_tail(&options.home, &options.tail)?;
    if !added.is_empty()
        && let Some(agent) = running(&options.home, &PROGRAMS[0])
    {
        // It also watches its files; the signal only makes it look now.
        agent.signal(rustix::process::Signal::HUP);
    }
    let platform = Platform::at(options.home.clone());
    let mut ready = ready::wait(&platform, options.ready_within).await?;
    ready.already_running = true;
    ready.tail_added = added;
    context.printer.note("already running");
    Ok(ready)
}

/// Says where everything is and what to type next.
fn print_ready(context: &mut Context<'_>, ready: &Ready) -> Result<ExitCode, Failure> {
    let item = object(json!({
        "home": ready.home,
        "node": ready.node,
        "operator": ready.operator,
        "agents": ready.agents,
        "http": ready.http,
        "already_running": ready.already_running,
        "tail_added": ready.tail_added,
    }));
    let as_of_us = context.now_us();
    print_item(context, Id::Up, &item, as_of_us, |_| Ok(()))?;
    context.printer.flush()?;
    for line in next_steps(&ready.home) {
        context.printer.note(&line);
    }
    Ok(ExitCode::Ok)
}

fn next_steps(home: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let aap = programs::own_path();
    let on_path = std::env::var("PATH").is_ok_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("aap").canonicalize().ok() == aap)
    });
    if let Some(aap) = aap.filter(|_| !on_path) {
        lines.push(format!("`aap` is {}", aap.display()));
    }
    if Home::find(None).root() != home {
        lines.push(format!("first: export AAP_HOME={home}"));
    }
    lines.push("next:  aap status".to_owned());
    lines.push("       aap query \"select * from host_metrics limit 5\"".to_owned());
    lines.push("       aap ingest STREAM FILE · aap logs -f · aap down".to_owned());
    lines
}

/// Whether a supervisor looks after this home.
pub(crate) fn is_supervised(platform: &Platform) -> bool {
    platform.home().is_ok_and(|home| process::supervisor(home).is_some())
}

pub(crate) async fn down(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let home = context.platform.home()?.clone();
    let before = alive(&home);
    let mut killed = Vec::new();
    if let Some(supervisor) = process::supervisor(&home) {
        supervisor.signal(rustix::process::Signal::TERM);
        if !supervisor.ended_within(SUPERVISOR_WITHIN).await {
            context.printer.error_line("the supervisor did not end in time; it is killed");
            supervisor.signal(rustix::process::Signal::KILL);
            supervisor.ended_within(Duration::from_secs(5)).await;
        }
    }
    // Without a supervisor, or after one that was killed, the daemons are ours to stop: the agent first.
    for program in alive(&home) {
        if !program.stop(STOP_WITHIN).await {
            context.printer.error_line(&format!("{} did not end in time and was killed", program.name()));
            killed.push(program.name());
        }
        program.forget(&home);
    }
    let stopped: Vec<_> = before.iter().map(RunningProgram::name).collect();
    if stopped.is_empty() {
        context.printer.note("nothing was running");
    }
    let item = object(json!({"stopped": stopped, "killed": killed}));
    let as_of_us = context.now_us();
    print_item(context, Id::Down, &item, as_of_us, |_| Ok(()))?;
    Ok(ExitCode::Ok)
}

/// The daemons that run for this home, in the order in which they are stopped.
fn alive(home: &Home) -> Vec<RunningProgram> {
    PROGRAMS.iter().filter_map(|program| running(home, program)).collect()
}

/// Held by the one supervisor of a home. The kernel lets go of it when the process ends, however it ends.
struct Lock {
    _file: File,
}

impl Lock {
    /// `None` if another supervisor holds it.
    fn take(home: &Home) -> Result<Option<Self>, Problem> {
        let path = home.run().join("up.lock");
        let failed = |path: &Utf8Path, error: &dyn std::fmt::Display| {
            Problem::new("up.lock", ExitCode::Failed, format!("`{path}` cannot be locked"))
                .cause(error.to_string())
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(&path, &error))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(&path, &error)),
        }
    }
}
