//! What can go wrong with a query, as the operator sees it.

use aap_runtime::Shutdown;
use aap_types::{ExitCode, Problem, nearest};

/// `query.unknown_table`: no stream has that name; the near ones are named.
pub fn unknown_table(name: &str, known: &[String]) -> Problem {
    let problem =
        Problem::new("query.unknown_table", ExitCode::NotFound, format!("there is no stream `{name}`"));
    let near = nearest(name, known);
    let problem =
        if near.is_empty() { problem } else { problem.hint(format!("did you mean {}?", quoted_list(&near))) };
    problem.hint_command("list the streams", "aap stream ls")
}

/// `query.engine_missing`: the engine program is not where it should be.
pub fn engine_missing(path: &str, error: &std::io::Error) -> Problem {
    Problem::new("query.engine_missing", ExitCode::Failed, format!("cannot start the query engine `{path}`"))
        .caused_by(error)
        .hint("install `aap-engine` beside the daemon, or name it in AAP_ENGINE")
}

/// `query.engine_died`: the engine ended without an answer.
pub fn engine_died(how: &str, stderr: &str) -> Problem {
    let problem = Problem::new(
        "query.engine_died",
        ExitCode::Failed,
        format!("the query engine ended before it had answered ({how})"),
    );
    let last_lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).rev().take(3).collect();
    let problem = last_lines.into_iter().rev().fold(problem, |problem, line| problem.cause(line));
    problem.hint("nothing but this query is lost: run it again").retry_after_ms(0)
}

/// `query.deadline`.
pub fn deadline(deadline_ms: u64) -> Problem {
    Problem::new(
        "query.deadline",
        ExitCode::Failed,
        format!("the query did not finish within its deadline of {deadline_ms} ms"),
    )
    .hint("narrow it with a condition on `ts`, or give it more time with --timeout")
}

/// `query.memory`.
pub fn memory(limit_bytes: u64) -> Problem {
    Problem::new(
        "query.memory",
        ExitCode::Failed,
        format!("the query needs more memory than its limit of {} MiB", limit_bytes >> 20),
    )
    .hint("aggregate or filter more, select fewer columns, or raise the limit")
}

/// `query.cancelled`: by somebody else. Whoever presses Ctrl-C ends with 130 by itself and never sees this.
pub fn cancelled() -> Problem {
    Problem::new("query.cancelled", ExitCode::Failed, "the query was cancelled")
        .hint("somebody ran `aap query cancel`; run it again if that was not meant")
}

/// The problem a query ended with, or `query.stopped` where it was only cancelled because its daemon is stopping: nobody
/// meant that query.
pub fn unless_stopping(problem: Problem, daemon: &Shutdown) -> Problem {
    if !daemon.is_requested() || problem.code != "query.cancelled" {
        return problem;
    }
    Problem::new("query.stopped", ExitCode::Unavailable, "the daemon stopped before it had answered")
        .hint_command("run it again when the platform is back; see whether it is", "aap status")
        .retry_after_ms(1000)
}

/// `query.busy`: too many queries at once.
pub fn busy(concurrency: usize) -> Problem {
    Problem::new(
        "query.busy",
        ExitCode::Unavailable,
        format!("{concurrency} queries are running, which is the most at once"),
    )
    .hint_command("see them", "aap query ls")
    .retry_after_ms(1000)
}

/// `query.scratch`: no place to spill.
pub fn scratch(path: &str, error: &std::io::Error) -> Problem {
    Problem::new("query.scratch", ExitCode::Failed, format!("cannot make the scratch folder `{path}`"))
        .caused_by(error)
}

/// `query.protocol`: engine and daemon do not understand each other.
pub fn protocol(what: &str) -> Problem {
    Problem::new("query.protocol", ExitCode::Bug, format!("the query engine sent {what}"))
        .hint("engine and daemon must be of the same release")
}

fn quoted_list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_to_the_command_itself_ends_with_130() {
        let (running, stopping) = (Shutdown::default(), Shutdown::default());
        stopping.request();
        assert_eq!(unless_stopping(cancelled(), &running).exit, ExitCode::Failed);
        let stopped = unless_stopping(cancelled(), &stopping);
        assert_eq!((stopped.code.as_str(), stopped.exit), ("query.stopped", ExitCode::Unavailable));
        assert!(stopped.is_retryable());
        assert_eq!(unless_stopping(deadline(1), &stopping), deadline(1));
    }

    #[test]
    fn unknown_table_names_the_near_ones() {
        let known = ["logs", "host_metrics", "events"].map(str::to_owned);
        let problem = unknown_table("log", &known);
        assert_eq!(problem.exit, ExitCode::NotFound);
        assert_eq!(problem.hints[0].text, "did you mean `logs`?");
        let problem = unknown_table("evnets", &known);
        assert_eq!(problem.hints[0].text, "did you mean `events`?");
        assert_eq!(unknown_table("zzzzzz", &known).hints.len(), 1);
    }
}
