//! The files of `-f`: their texts as they are sent, and the objects that they name.

use std::io::Read;

use aap_client::documents::{Document, documents};
use aap_client::v1::apply_request::File;
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use clap::ArgMatches;
use serde::Deserialize;

/// What stdin is called in messages.
const STDIN: &str = "stdin";
/// Files of a directory that are documents.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Which object a document is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName {
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} `{}`", self.kind.to_lowercase(), self.name)
    }
}

/// Reads every file of `--file`, in the order given; of a directory in the order of names.
///
/// # Errors
/// `cli.usage` (2) if there are none, `resource.unreadable` (2).
pub(crate) fn files(arguments: &ArgMatches, command: &str) -> Result<Vec<File>, Problem> {
    let mut files = Vec::new();
    for name in arguments.get_many::<String>("file").into_iter().flatten() {
        let path = Utf8Path::new(name);
        if name == "-" {
            files.push(stdin()?);
        } else if path.is_dir() {
            for path in documents_in(path)? {
                files.push(file(&path)?);
            }
        } else {
            files.push(file(path)?);
        }
    }
    if files.is_empty() {
        return Err(Problem::new("cli.usage", ExitCode::Usage, "no file is given")
            .hint_command("name one, or a directory, or `-` for stdin", format!("{command} -f FILE")));
    }
    Ok(files)
}

fn stdin() -> Result<File, Problem> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(|error| unreadable(STDIN, &error))?;
    Ok(File { path: STDIN.to_owned(), text })
}

fn file(path: &Utf8Path) -> Result<File, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path.as_str(), &error))?;
    Ok(File { path: path.to_string(), text })
}

/// The documents that lie in a directory itself. Hidden files are not meant.
fn documents_in(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>, Problem> {
    let failed = |error: std::io::Error| unreadable(folder.as_str(), &error);
    let mut paths = Vec::new();
    for entry in folder.read_dir_utf8().map_err(failed)? {
        let path = entry.map_err(failed)?.into_path();
        let is_hidden = path.file_name().is_some_and(|name| name.starts_with('.'));
        let is_document = path.extension().is_some_and(|ending| ENDINGS.contains(&ending));
        if is_document && !is_hidden && !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let message = format!("`{folder}` has no file that ends in .yaml, .yml or .json");
        return Err(Problem::new("resource.unreadable", ExitCode::Usage, message)
            .hint("directories within it are not looked at; name them, too"));
    }
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &str, error: &std::io::Error) -> Problem {
    Problem::new("resource.unreadable", ExitCode::Usage, format!("`{path}` cannot be read"))
        .caused_by(error)
        .hint_command("look whether it is there and text", format!("ls -l {path}"))
}

/// The objects that files name, each once. All else that stands in the documents is not looked at: a document that could not
/// be applied any more can still be deleted by.
///
/// # Errors
/// `config.invalid` (2) with file and line.
pub(crate) fn objects(files: &[File]) -> Result<Vec<ObjectName>, Problem> {
    let mut found: Vec<ObjectName> = Vec::new();
    for file in files {
        for document in documents(Utf8Path::new(&file.path), &file.text) {
            let object = object(&document)?;
            if !found.contains(&object) {
                found.push(object);
            }
        }
    }
    if found.is_empty() {
        return Err(Problem::new("cli.usage", ExitCode::Usage, "the files hold no document")
            .hint("a document has `kind:` and `metadata: { name: … }`"));
    }
    Ok(found)
}

fn object(document: &Document) -> Result<ObjectName, Problem> {
    #[derive(Deserialize)]
    struct Named {
        kind: String,
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    let Named { kind, metadata } = serde_norway::from_str(document.text())
        .map_err(|error| document.error("metadata", error.to_string(), None).problem())?;
    Ok(ObjectName { kind, name: metadata.name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, Problem> {
        let files = [File { path: "sinks.yaml".into(), text: text.into() }];
        Ok(objects(&files)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn objects_are_named_in_flow_and_block_style_in_json_and_once() {
        let text = "# sinks\nkind: Sink\nmetadata: { name: a }\nspec: { whatever: [1] }\n---\nmetadata:\n  name: b\nkind: Sink\n\
                    ---\n{\"kind\": \"Sink\", \"metadata\": {\"name\": \"c\"}}\n---\nkind: Sink\nmetadata: { name: a }\n---\n# end\n";
        assert_eq!(names(text).unwrap(), ["sink `a`", "sink `b`", "sink `c`"]);
    }

    #[test]
    fn a_document_without_a_name_is_refused_with_its_line() {
        let problem =
            names("kind: Sink\nmetadata: { name: a }\n---\nkind: Sink\nmetadata: {}\n").unwrap_err();
        assert_eq!(problem.code, "config.invalid");
        assert!(problem.message.starts_with("sinks.yaml:5: "), "{problem}");
        assert_eq!(names("# nothing\n").unwrap_err().code, "cli.usage");
    }
}
