//! What goes wrong with other systems, as operators see it.

use std::error::Error;

use aap_types::{ExitCode, Problem, nearest};

/// Most names that are listed where none is near.
const NAMES_MAX: usize = 20;

type Cause<'a> = &'a (dyn Error + 'static);

/// `query.remote_unreachable`: it does not answer, or not in time.
pub fn unreachable(kind: &str, place: &str, cause: Cause<'_>) -> Problem {
    Problem::new(
        "query.remote_unreachable",
        ExitCode::Unavailable,
        format!("{kind} at {place} does not answer"),
    )
    .caused_by(cause)
    .hint("see that the server runs and that the coordinator's machine reaches it")
    .retry_after_ms(2000)
}

/// `query.remote_denied`: it does not let us in, or not read that.
pub fn denied(kind: &str, place: &str, cause: Cause<'_>) -> Problem {
    Problem::new("query.remote_denied", ExitCode::Denied, format!("{kind} at {place} does not let us read"))
        .caused_by(cause)
        .hint_command("look at user and password of the catalog", "aap get catalog -o yaml")
}

/// `query.remote_refused`: it does not do what it was asked.
pub fn refused(kind: &str, place: &str, statement: &str, cause: Cause<'_>) -> Problem {
    let problem = Problem::new(
        "query.remote_refused",
        ExitCode::Failed,
        format!("{kind} at {place} refuses the query"),
    )
    .caused_by(cause);
    if statement.is_empty() { problem } else { problem.cause(format!("it was asked: {statement}")) }
}

/// `query.remote_table`: there is no such table.
pub fn no_table(kind: &str, place: &str, table: &str, known: &[String]) -> Problem {
    let message = format!("{kind} at {place} has no table `{table}`");
    let problem = Problem::new("query.remote_table", ExitCode::NotFound, message);
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let near = nearest(table, &names);
    if let Some(near) = near.first() {
        return problem.hint(format!("did you mean `{near}`?"));
    }
    match known.len() {
        0 => problem.hint("none that we may read is there"),
        1..=NAMES_MAX => problem.hint(format!("there are {}", names.join(", "))),
        more => problem.hint(format!("there are {more}, such as {}", names[..NAMES_MAX].join(", "))),
    }
}
