//! The loop of the supervisor: restarts, readiness, log rotation, stop.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use aap_client::v1::StatusRequest;
use aap_client::{Home, Platform, call};
use aap_types::{ExitCode, Problem};
use rustix::process::Signal;
use tokio::time::Instant;

use super::process::{self, Exit, PROGRAMS, Process, Program};
use super::ready::{self, Ready};
use super::{Options, STOP_WITHIN, detach, log_file, prepare, print_ready};
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupts;

/// Whoever ran this long has started well; the next death is not a failed start.
const STARTED_WELL: Duration = Duration::from_secs(10);
/// After a kill from outside: at once, but not in a busy loop.
const RESTART_AFTER_KILL: Duration = Duration::from_millis(50);
/// A program that ends by itself again and again is started no more often than this.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A program that a signal ended is back within two seconds, whoever sent it.
const RESTART_AFTER_SIGNAL_MAX: Duration = Duration::from_millis(1500);
/// Own deaths before the platform was ever ready, after which the start has failed.
const FAILED_STARTS_MAX: u32 = 3;
/// Lines of its log that are shown when a program dies by itself.
const LOG_LINES: u64 = 8;
/// How often logs are looked at for rotation.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How often a foreground supervisor says how things are.
const STATUS_LINE: Duration = Duration::from_secs(10);
/// Nothing is restarted while the status is awaited.
const STATUS_WITHIN: Duration = Duration::from_millis(500);

/// A daemon under supervision.
struct Daemon {
    program: &'static Program,
    process: Option<Process>,
    started: Instant,
    restart_at: Option<Instant>,
    /// Deaths by itself since it last ran well.
    failures: u32,
}

/// Runs the platform until it is told to stop.
pub(crate) async fn run(
    context: &mut Context<'_>,
    options: &Options,
    detached: bool,
) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::new()?;
    let home = &options.home;
    process::remember_supervisor(home)?;
    let started = start_all(context, options).await;
    let mut daemons = match started {
        Ok(daemons) => daemons,
        Err(problem) => return Err(end_before_ready(home, problem, detached)),
    };
    let ended = until_asked(context, options, &mut daemons, &mut interrupts, detached).await;
    stop_all(context, home, &mut daemons, &mut interrupts).await;
    process::forget_all(home);
    match ended {
        Ok(code) => Ok(code),
        Err(Failure::Problem(problem)) if detached => {
            detach::answer(Err((*problem).clone()));
            Err(Failure::Problem(problem))
        }
        Err(failure) => Err(failure),
    }
}

fn end_before_ready(home: &Home, problem: Problem, detached: bool) -> Failure {
    process::forget_all(home);
    if detached {
        detach::answer(Err(problem.clone()));
    }
    problem.into()
}

async fn start_all(context: &mut Context<'_>, options: &Options) -> Result<Vec<Daemon>, Problem> {
    let home = &options.home;
    prepare::home(home, options.node.as_deref(), &options.tail)?;
    let mut daemons = Vec::new();
    // The coordinator first, so that the agent finds it at its first attempt.
    for program in PROGRAMS.iter().rev() {
        let process = match Process::adopt(home, program).await {
            Some(process) => {
                say(context, &format!("{} was running; it goes on", program.name));
                if program.name == "agent" && !options.tail.is_empty() {
                    process.signal(Signal::HUP);
                }
                process
            }
            None => Process::start(home, program)?,
        };
        let started = Instant::now();
        daemons.push(Daemon { program, process: Some(process), started, restart_at: None, failures: 0 });
    }
    Ok(daemons)
}

/// Supervises until a signal (its exit code) or a start that failed for good.
async fn until_asked(
    context: &mut Context<'_>,
    options: &Options,
    daemons: &mut [Daemon],
    interrupts: &mut Interrupts,
    detached: bool,
) -> Result<ExitCode, Failure> {
    let platform = Platform::at(options.home.clone());
    let mut readiness = Box::pin(ready::wait(&platform, options.ready_within));
    let mut was_ready = false;
    let mut waiting = true;
    let mut announced = false;
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    let mut status = tokio::time::interval(STATUS_LINE);
    let mut last_status = String::new();
    loop {
        let [coordinator, agent] = daemons else { return Ok(ExitCode::Bug) };
        tokio::select! {
            _ = interrupts.next() => return Ok(ExitCode::Ok),
            outcome = &mut readiness, if waiting => {
                was_ready = outcome.is_ok();
                waiting = !was_ready;
                if !std::mem::replace(&mut announced, true) {
                    announce(context, outcome, detached)?;
                }
                if waiting {
                    readiness = Box::pin(ready::wait(&platform, options.ready_within));
                }
            }
            event = coordinator.next() => apply(context, &options.home, coordinator, event, was_ready)?,
            event = agent.next() => apply(context, &options.home, agent, event, was_ready)?,
            _ = housekeeping.tick() => rotate_logs(context, &options.home),
            _ = status.tick(), if was_ready && !detached => {
                say_status(context, &platform, &mut last_status).await;
            }
        }
    }
}

/// What happens to a daemon.
enum Event {
    Ended(Exit),
    RestartDue,
}

impl Daemon {
    /// The next event; never while there is nothing to wait for. Cancel-safe.
    async fn next(&mut self) -> Event {
        match (&mut self.process, self.restart_at) {
            (Some(process), _) => Event::Ended(process.wait().await),
            (None, Some(at)) => {
                tokio::time::sleep_until(at).await;
                Event::RestartDue
            }
            (None, None) => std::future::pending().await,
        }
    }
}

fn apply(
    context: &mut Context<'_>,
    home: &Home,
    daemon: &mut Daemon,
    event: Event,
    was_ready: bool,
) -> Result<(), Failure> {
    match event {
        Event::Ended(exit) => died(context, home, daemon, exit, was_ready),
        Event::RestartDue => {
            restart(context, home, daemon);
            Ok(())
        }
    }
}

/// The platform is ready, or not yet: says so once, to the terminal or to the parent.
fn announce(
    context: &mut Context<'_>,
    outcome: Result<Ready, Problem>,
    detached: bool,
) -> Result<(), Failure> {
    if detached {
        detach::answer(outcome);
        return Ok(());
    }
    match outcome {
        Ok(ready) => {
            print_ready(context, &ready)?;
            context.printer.note("running in the foreground; Ctrl-C stops it");
        }
        // It goes on: a slow disk may need longer, and Ctrl-C is at hand.
        Err(problem) => crate::failure::print_problem(&problem, context.printer),
    }
    Ok(())
}

/// Books the end of a daemon and decides when it is started again.
fn died(
    context: &mut Context<'_>,
    home: &Home,
    daemon: &mut Daemon,
    exit: Exit,
    was_ready: bool,
) -> Result<(), Failure> {
    let log_from = daemon.process.take().map_or(0, |process| process.log_from);
    let name = daemon.program.name;
    let killed = killed_from_outside(exit);
    if daemon.started.elapsed() > STARTED_WELL {
        daemon.failures = 0;
    }
    say(context, &format!("{name} {}", how_it_ended(exit)));
    if !killed {
        daemon.failures += 1;
        let lines = crate::commands::logs::last_lines(&daemon.program.log(home), log_from, LOG_LINES);
        for line in &lines {
            say(context, &format!("  {name} | {}", crate::text::clean(line)));
        }
        if !was_ready && (daemon.failures >= FAILED_STARTS_MAX || is_hopeless(exit)) {
            return Err(failed_start(name, exit, lines).into());
        }
    }
    let delay = restart_delay(killed, daemon.started.elapsed(), daemon.failures);
    let by_signal = exit.status.is_some_and(|status| status.signal().is_some());
    let delay = if by_signal { delay.min(RESTART_AFTER_SIGNAL_MAX) } else { delay };
    daemon.restart_at = Some(Instant::now() + delay);
    Ok(())
}

/// Stopped or killed by somebody, rather than ended by itself: a daemon ends with 0 only when it was asked to. Of an
/// adopted process nothing is known but that it ended.
fn killed_from_outside(exit: Exit) -> bool {
    let Some(status) = exit.status else { return true };
    if status.success() {
        return true;
    }
    let signals = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    status.signal().is_some_and(|number| signals.iter().any(|signal| signal.as_raw() == number))
}

/// Whether starting again cannot help: what is configured is wrong, or something else holds the state.
fn is_hopeless(exit: Exit) -> bool {
    let code = exit.status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    code.is_some_and(|code| {
        matches!(ExitCode::from_number(code), ExitCode::Usage | ExitCode::Denied | ExitCode::Conflict)
    })
}

fn restart_delay(killed: bool, ran: Duration, failures: u32) -> Duration {
    if killed {
        // Killed over and over (out of memory, say): still within two seconds, but without haste.
        return if ran < Duration::from_secs(1) { RESTART_AFTER_KILL * 10 } else { RESTART_AFTER_KILL };
    }
    let doubled = Duration::from_millis(100) * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    doubled.min(RESTART_DELAY_MAX)
}

fn how_it_ended(exit: Exit) -> String {
    match exit.status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
        None => "ended".to_owned(),
    }
}

fn failed_start(name: &str, exit: Exit, lines: Vec<String>) -> Problem {
    let code = exit.status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    let code = code.map_or(ExitCode::Failed, ExitCode::from_number);
    let problem = Problem::new(
        "up.failed_start",
        code,
        format!("the {name} does not start: it {}", how_it_ended(exit)),
    );
    let problem = lines.into_iter().fold(problem, Problem::cause);
    problem.hint_command("see its whole log", format!("aap logs {name}"))
}

fn restart(context: &mut Context<'_>, home: &Home, daemon: &mut Daemon) {
    daemon.restart_at = None;
    daemon.started = Instant::now();
    match Process::start(home, daemon.program) {
        Ok(process) => {
            daemon.process = Some(process);
            say(context, &format!("{} started again", daemon.program.name));
        }
        Err(problem) => {
            daemon.failures += 1;
            say(context, &format!("{}: {}", problem.message, problem.causes.join(": ")));
            daemon.restart_at = Some(Instant::now() + restart_delay(false, Duration::ZERO, daemon.failures));
        }
    }
}

fn rotate_logs(context: &mut Context<'_>, home: &Home) {
    let logs = PROGRAMS.iter().map(|program| program.log(home)).chain([home.log().join("up.log")]);
    for log in logs {
        if let Err(error) = log_file::rotate(&log) {
            say(context, &format!("log `{log}` cannot be cut: {error}"));
        }
    }
}

/// One line on how things are, when it differs from the last.
async fn say_status(context: &mut Context<'_>, platform: &Platform, last: &mut String) {
    let asked = async {
        let mut api = platform.operator().await?;
        call(STATUS_WITHIN, api.status(StatusRequest {})).await
    };
    // A coordinator that is being restarted is already spoken of.
    let Ok(Ok(status)) = tokio::time::timeout(STATUS_WITHIN, asked).await else { return };
    let connected = status.nodes.iter().filter(|node| node.connected).count();
    let rows: u64 = status.streams.iter().map(|stream| stream.rows).sum();
    let rate: f64 = status.streams.iter().map(|stream| stream.rows_per_second).sum();
    let waiting: u64 = status.nodes.iter().map(|node| node.waiting_bytes).sum();
    let line = format!(
        "{connected} of {} nodes connected, {} streams, {} rows, {} rows/s, {} waiting",
        status.nodes.len(),
        status.streams.len(),
        crate::text::count(rows),
        crate::text::rate(rate),
        crate::text::bytes(waiting)
    );
    if line != *last {
        say(context, &line);
        *last = line;
    }
}

/// Stops in data order: the agent hands over what it can, then the coordinator ends. A second signal kills.
async fn stop_all(
    context: &mut Context<'_>,
    home: &Home,
    daemons: &mut [Daemon],
    interrupts: &mut Interrupts,
) {
    for daemon in daemons.iter_mut().rev() {
        let name = daemon.program.name;
        let Some(process) = &mut daemon.process else { continue };
        say(context, &format!("stopping the {name}"));
        process.signal(Signal::TERM);
        let hurried = tokio::select! {
            _ = process.wait() => continue,
            () = tokio::time::sleep(STOP_WITHIN) => "did not end in time",
            _ = interrupts.next() => "is not waited for",
        };
        say(context, &format!("the {name} {hurried}; it is killed (what was acknowledged is safe)"));
        process.signal(Signal::KILL);
        process.wait().await;
    }
    say(context, &format!("stopped; the state stays in {}", home.root()));
}

/// A line with the time, for terminal and log alike.
fn say(context: &mut Context<'_>, text: &str) {
    let now = jiff::Timestamp::from_microsecond(context.now_us()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    context.printer.note(&format!("{now:.0} {text}"));
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_killed_program_is_back_within_two_seconds_however_often_it_is_killed() {
        for ran in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(100)] {
            assert!(restart_delay(true, ran, 7) <= Duration::from_secs(1));
        }
    }

    #[test]
    fn a_program_that_dies_by_itself_is_started_less_and_less_often() {
        let delays: Vec<u128> =
            (1..10).map(|n| restart_delay(false, Duration::ZERO, n).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[test]
    fn the_way_it_ended_decides() {
        let exit = |raw| Exit { status: Some(ExitStatus::from_raw(raw)) };
        assert!(
            killed_from_outside(exit(0))
                && killed_from_outside(exit(9))
                && killed_from_outside(Exit { status: None })
        );
        assert!(!killed_from_outside(exit(6)) && !killed_from_outside(exit(1 << 8)));
        assert!(is_hopeless(exit(2 << 8)) && !is_hopeless(exit(1 << 8)) && !is_hopeless(exit(9)));
    }
}
