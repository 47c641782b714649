//! The pages of `docs/errors/`, which `aap` carries with it.

use aap_types::{ExitCode, Problem, nearest};

use crate::printer::Style;

include!(concat!(env!("OUT_DIR"), "/error_pages.rs"));

/// The page of a code.
pub(crate) fn page(code: &str) -> Option<&'static str> {
    let at = PAGES.binary_search_by_key(&code, |(known, _)| *known).ok()?;
    Some(PAGES[at].1)
}

/// Every code, with what it means in a line.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.iter().map(|(code, page)| (*code, summary(page)))
}

/// The line under the heading.
fn summary(page: &str) -> &str {
    page.lines().skip(1).find(|line| !line.is_empty()).unwrap_or_default()
}

/// No page has this code: the nearest are named.
pub(crate) fn unknown(code: &str) -> Problem {
    let known: Vec<&str> = PAGES.iter().map(|(code, _)| *code).collect();
    let problem = Problem::new("help.not_found", ExitCode::NotFound, format!("there is no error `{code}`"));
    let near: Vec<String> = nearest(code, &known).iter().map(|code| format!("`{code}`")).collect();
    let problem =
        if near.is_empty() { problem } else { problem.hint(format!("did you mean {}?", near.join(", "))) };
    problem.hint_command("list all codes", "aap help errors")
}

/// A page as a terminal or a pipe shows it: commands indented, what is emphasised in bold where there is such a thing.
pub(crate) fn rendered(page: &str, style: Style) -> String {
    let mut text = String::new();
    let mut in_commands = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_commands = !in_commands;
        } else if in_commands {
            text.push_str(&format!("    {line}\n"));
        } else {
            text.push_str(&emphasised(line, style));
            text.push('\n');
        }
    }
    text
}

fn emphasised(line: &str, style: Style) -> String {
    if let Some(heading) = line.strip_prefix("# ") {
        return style.bold(heading);
    }
    let parts = line.split("**").enumerate();
    parts.map(|(at, part)| if at % 2 == 1 { style.bold(part) } else { part.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_by_its_code_and_says_what_it_is_in_a_line() {
        assert!(PAGES.len() > 100, "{}", PAGES.len());
        for (code, summary) in all() {
            assert!(page(code).is_some_and(|page| page.starts_with(&format!("# {code}\n"))), "{code}");
            assert!(summary.len() > 5, "{code}: {summary}");
        }
        assert_eq!(page("query"), None);
    }
}
