//! What can go wrong with a query, as the operator sees it.

use aap_types::{ExitCode, Problem};

/// Most near names a hint lists.
const NEAR_NAMES_MAX: usize = 5;

/// `query.unknown_table`: no stream has that name; the near ones are named.
pub fn unknown_table(name: &str, known: &[String]) -> Problem {
    let problem =
        Problem::new("query.unknown_table", ExitCode::NotFound, format!("there is no stream `{name}`"));
    let near = near_names(name, known);
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

/// `query.cancelled`.
pub fn cancelled() -> Problem {
    Problem::new("query.cancelled", ExitCode::Interrupted, "the query was cancelled")
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

/// The names nearest to `name`, nearest first.
fn near_names<'a>(name: &str, known: &'a [String]) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let far = (wanted.chars().count() / 2).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(|candidate| (distance(&wanted, candidate), candidate.as_str()))
        .filter(|(distance, candidate)| {
            *distance <= far || candidate.contains(&wanted) || wanted.contains(candidate)
        })
        .collect();
    near.sort();
    near.into_iter().take(NEAR_NAMES_MAX).map(|(_, candidate)| candidate).collect()
}

/// Levenshtein distance in characters. Names are short, so the simple form does.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(128).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y { diagonal } else { diagonal + 1 };
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

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
