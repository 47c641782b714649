//! Error codes and their pages: each code that the sources make has a page in `docs/errors/` with cause and remedy, and each
//! page belongs to a code.
//!
//! A code is a literal `area.what` that is given to `Problem::new`, or one of an area that has pages: helpers and tables
//! make codes too. What looks alike and is none (crash points, kinds of output, keys, names of files) is told by its neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::tools;

/// Folders and files, by name without ending, whose literals no user meets.
const SKIPPED: [&str; 6] = ["target", "docs", "examples", "testing", "tests", "xtask"];
/// Calls whose argument is the name of a crash point, the kind of an output, or what the audit log does by itself.
const OTHER_CALLS: [&str; 6] = ["reach(", "pass(", "hit(", "injected(deps,", "answer(output,", "action("];
/// Endings of file names.
const FILE_ENDINGS: [&str; 7] = ["json", "key", "log", "pem", "pid", "sock", "yaml"];

/// Checks both directions, and the form of the pages.
pub(crate) fn check() -> Result<()> {
    let folder = tools::root().join("docs/errors");
    let pages = pages(&folder)?;
    let areas = pages.keys().filter_map(|code| code.split('.').next()).collect();
    let mut made = BTreeMap::new();
    for path in sources(tools::root())? {
        let text = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
        for code in codes(&program(&text), &areas) {
            made.entry(code.to_owned()).or_insert_with(|| path.clone());
        }
    }
    let mut faults = Vec::new();
    for (code, path) in made.iter().filter(|(code, _)| !pages.contains_key(*code)) {
        faults.push(format!(
            "`{path}` makes the error `{code}`: write `docs/errors/{code}.md`, or tell in xtask/src/errors.rs why it is none"
        ));
    }
    for (code, page) in &pages {
        if !made.contains_key(code) {
            faults.push(format!(
                "`docs/errors/{code}.md` belongs to no error: remove it, or rename it with its code"
            ));
        }
        if !is_whole(code, page) {
            faults.push(format!(
                "`docs/errors/{code}.md` must begin with `# {code}` and have **Cause.** and **Remedy.**"
            ));
        }
    }
    if !faults.is_empty() {
        bail!("errors and their pages differ:\n  {}", faults.join("\n  "));
    }
    println!("errors: {} codes, each with its page", made.len());
    Ok(())
}

/// The pages by code.
fn pages(folder: &Utf8Path) -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for entry in folder.read_dir_utf8().with_context(|| format!("list `{folder}`"))? {
        let path = entry?.into_path();
        let code = path.file_name().unwrap_or_default().trim_end_matches(".md").to_owned();
        pages.insert(code, fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?);
    }
    Ok(pages)
}

fn is_whole(code: &str, page: &str) -> bool {
    page.starts_with(&format!("# {code}\n")) && page.contains("**Cause.**") && page.contains("**Remedy.**")
}

/// The source files of the programs and their libraries.
fn sources(root: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().with_context(|| format!("list `{folder}`"))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = path.file_stem().unwrap_or_default();
            if SKIPPED.contains(&name) || name.starts_with('.') {
                continue;
            }
            if kind.is_dir() {
                folders.push(path.to_owned());
            } else if path.extension() == Some("rs") {
                files.push(path.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A source file without its unit tests and comments.
fn program(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines: Vec<&str> = text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    lines.join("\n")
}

/// The codes in a program. A piece between two quotes is a literal, or what stands between literals, which is never a code.
fn codes<'a>(program: &'a str, areas: &BTreeSet<&str>) -> Vec<&'a str> {
    let pieces: Vec<&str> = program.split('"').collect();
    let inner = 1..pieces.len().saturating_sub(1);
    inner.filter(|at| is_code(&pieces, *at, areas)).map(|at| pieces[at]).collect()
}

/// Whether the piece `at` is a code, judged by itself and its neighbours.
fn is_code(pieces: &[&str], at: usize, areas: &BTreeSet<&str>) -> bool {
    let Some((area, what)) = pieces[at].split_once('.') else { return false };
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if !is_word(area) || !is_word(what) {
        return false;
    }
    let (before, after) = (pieces[at - 1].trim(), pieces[at + 1].trim());
    if before.ends_with("Problem::new(") {
        return true;
    }
    let is_kind = before.ends_with("kind:") || (before == ":" && pieces[at - 2] == "kind");
    let is_key = after.starts_with(':');
    let is_point = OTHER_CALLS.iter().any(|call| before.ends_with(call));
    areas.contains(area) && !is_kind && !is_key && !is_point && !FILE_ENDINGS.contains(&what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_from_what_looks_alike() {
        let source = r#"
            // "query.comment"
            Problem::new("fresh.code", ExitCode::Failed, "no.t one");
            Problem::new(
                "query.on_its_own_line",
            );
            ("Parser", "query.table", ExitCode::Usage);
            code = "query.set";
            failpoints.reach("query.after_read");
            injected(deps, "query.uplink_before_send")?;
            json!({ "kind": "query.printed", "query.name": name });
            Output::List { kind: "query.list", fields: ALL };
            home.join("query.json");
            name("other.area");
        "#;
        let source = format!("{source}#[cfg(test)]\nmod tests {{ Problem::new(\"query.test\") }}");
        let areas = BTreeSet::from(["query"]);
        let expected = ["fresh.code", "query.on_its_own_line", "query.table", "query.set"];
        assert_eq!(codes(&program(&source), &areas), expected);
    }

    #[test]
    fn a_page_has_its_code_a_cause_and_a_remedy() {
        assert!(is_whole("a.b", "# a.b\n\nText.\n\n**Cause.** C\n\n**Remedy.** R\n"));
        assert!(!is_whole("a.b", "# a.c\n\n**Cause.** C\n\n**Remedy.** R\n"));
        assert!(!is_whole("a.b", "# a.b\n\n**Cause.** C\n"));
    }
}
