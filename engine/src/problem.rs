//! What DuckDB complains about, as the operator sees it.

use aap_sql::problem as queries;
use aap_types::{ExitCode, Problem};
use serde::Deserialize;

/// Longest message of DuckDB that is passed on.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// How the kinds of DuckDB's errors end a query. The kind is the text before ` Error: `.
const KINDS: &[(&str, &str, ExitCode)] = &[
    ("Parser", "query.syntax", ExitCode::Usage),
    ("Syntax", "query.syntax", ExitCode::Usage),
    ("Binder", "query.unbound", ExitCode::Usage),
    ("Catalog", "query.unknown_name", ExitCode::Usage),
    ("Conversion", "query.value", ExitCode::Failed),
    ("Invalid Input", "query.value", ExitCode::Failed),
    ("Invalid Type", "query.value", ExitCode::Failed),
    ("Mismatch Type", "query.value", ExitCode::Failed),
    ("Out of Range", "query.value", ExitCode::Failed),
    ("Permission", "query.not_allowed", ExitCode::Denied),
    ("Not implemented", "query.unsupported", ExitCode::Usage),
    ("IO", "query.io", ExitCode::Failed),
];

/// The problem of an error. `memory_bytes` is the limit that was set.
pub(crate) fn of_duckdb(error: &duckdb::Error, memory_bytes: u64) -> Problem {
    of_message(&error.to_string(), memory_bytes)
}

/// The problem of an error's text.
pub(crate) fn of_message(text: &str, memory_bytes: u64) -> Problem {
    // Some errors come as JSON, and all others as `KIND Error: MESSAGE`.
    if let Some(Exception { exception_type, exception_message }) = exception_in(text) {
        return of_kind(&exception_type, cut(&exception_message), memory_bytes);
    }
    let text = cut(text);
    let Some((kind, rest)) = text.split_once(" Error: ") else {
        return Problem::new("query.failed", ExitCode::Failed, text.trim());
    };
    of_kind(kind.rsplit(':').next().unwrap_or(kind).trim(), rest, memory_bytes)
}

#[derive(Deserialize)]
struct Exception {
    exception_type: String,
    exception_message: String,
}

fn exception_in(text: &str) -> Option<Exception> {
    let json = &text[text.find("{\"exception_type\"")?..];
    serde_json::Deserializer::from_str(json).into_iter().next()?.ok()
}

fn of_kind(kind: &str, rest: &str, memory_bytes: u64) -> Problem {
    match kind {
        "Out of Memory" | "OutOfMemory" => queries::memory(memory_bytes).cause(first_line(rest)),
        "INTERRUPT" | "Interrupt" => queries::cancelled(),
        "INTERNAL" | "FATAL" | "TransactionContext" => bug(rest),
        _ => known(kind, rest),
    }
}

fn known(kind: &str, rest: &str) -> Problem {
    let listed = KINDS.iter().find(|(name, _, _)| *name == kind);
    let (mut code, mut exit) =
        listed.map_or(("query.failed", ExitCode::Failed), |(_, code, exit)| (*code, *exit));
    if rest.starts_with("Table with name") {
        (code, exit) = ("query.unknown_table", ExitCode::NotFound);
    } else if rest.contains("not found in FROM clause") || rest.contains("does not have a column named") {
        code = "query.unknown_column";
    } else if rest.contains("Function with name") && rest.contains("does not exist") {
        code = "query.unknown_function";
    } else if kind == "IO" && rest.contains("max_temp_directory_size") {
        return queries::memory(0).cause(first_line(rest));
    }
    let mut problem = Problem::new(code, exit, first_line(rest));
    for line in rest.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        if suggests_forbidden(line) {
            continue;
        }
        if line.starts_with("Candidate bindings") || line.starts_with("Did you mean") {
            problem = problem.hint(line.trim().to_owned());
        } else {
            problem = problem.cause(line.trim_end().to_owned());
        }
    }
    problem
}

/// What helps against problems of a kind, where nothing more special is known.
const HINTS: &[(&str, &str, Option<&str>)] = &[
    ("query.syntax", "the dialect is DuckDB's; quote names that hold `.` or `-` with double quotes", None),
    (
        "query.not_allowed",
        "a query reads streams and calls plain functions; see which streams there are",
        Some("aap stream ls"),
    ),
    ("query.unbound", "see the columns and their types", Some("aap stream show NAME")),
    ("query.value", "`try_cast(value as TYPE)` gives NULL where a value does not fit", None),
    ("query.unsupported", "write it with plain SELECTs, joins and window functions", None),
    ("query.parameter", "put the value into the statement itself", None),
];

/// The same problem, never without a remedy where one is known.
pub(crate) fn with_hint(problem: Problem) -> Problem {
    match HINTS.iter().find(|(code, _, _)| *code == problem.code).filter(|_| problem.hints.is_empty()) {
        Some((_, text, Some(command))) => problem.hint_command(*text, *command),
        Some((_, text, None)) => problem.hint(*text),
        None => problem,
    }
}

fn bug(rest: &str) -> Problem {
    Problem::new("query.engine_bug", ExitCode::Failed, "the query engine hit an internal error")
        .cause(first_line(rest))
        .hint("nothing but this query is lost; write it differently, and report it with the statement")
}

/// `Did you mean "write_log"?`
fn suggests_forbidden(line: &str) -> bool {
    line.starts_with("Did you mean") && line.split('"').nth(1).is_some_and(crate::functions::is_forbidden)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_duckdb_become_problems_with_codes() {
        let column = "Binder Error: Referenced column \"sev\" not found in FROM clause!\nCandidate bindings: \"severity\"\n\nLINE 1: select sev";
        let problem = of_message(column, 0);
        assert_eq!((problem.code.as_str(), problem.exit), ("query.unknown_column", ExitCode::Usage));
        assert_eq!(problem.hints[0].text, "Candidate bindings: \"severity\"");
        for (text, code) in [
            ("Catalog Error: Table with name x does not exist!", "query.unknown_table"),
            ("Catalog Error: Scalar Function with name foo does not exist!", "query.unknown_function"),
            ("Out of Memory Error: failed to allocate", "query.memory"),
            ("INTERRUPT Error: Interrupted!", "query.cancelled"),
            ("Conversion Error: Could not convert", "query.value"),
            ("INTERNAL Error: oops", "query.engine_bug"),
            ("whatever", "query.failed"),
        ] {
            assert_eq!(of_message(text, 0).code, code, "{text}");
        }
    }
}
