//! The licences of everything that the programs are made of: each text once, under the crates that come with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use crate::tools;

/// The crates of the programs.
const OURS: [&str; 4] = ["aap-agent", "aap-cli", "aap-coordinator", "aap-engine"];
/// How names of files with licences begin.
const NAMES: [&str; 5] = ["licen", "copying", "notice", "unlicense", "copyright"];
/// Libraries in C lie one or two folders below their crates.
const DEPTH: usize = 2;
/// Longer files are code that is called so.
const TEXT_BYTES_MAX: u64 = 256 << 10;

/// The page of licences.
pub(super) fn page() -> Result<String> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("find packages in cargo's metadata")?;
    let needed = needed(&metadata)?;
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut list = String::new();
    for package in packages.iter().filter(|package| needed.contains(text(package, "id"))) {
        let name = format!("{} {}", text(package, "name"), text(package, "version"));
        list.push_str(&format!("  {name}: {}\n", text(package, "license")));
        let folder = Utf8Path::new(text(package, "manifest_path")).parent().context("find a crate")?;
        for file in licences(folder, DEPTH)? {
            let bytes = fs::read(&file).with_context(|| format!("read `{file}`"))?;
            let licence = String::from_utf8_lossy(&bytes).trim().replace('\r', "");
            texts.entry(licence).or_default().insert(name.clone());
        }
    }
    let mut page = format!("The programs are made of these crates, under these licences:\n\n{list}");
    for (licence, names) in texts {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        page.push_str(&format!("\n{}\n{names}\n\n{licence}\n", "=".repeat(80)));
    }
    Ok(page)
}

fn metadata() -> Result<Value> {
    let described = tools::output(Command::new("rustc").arg("-vV"))?;
    let host =
        described.lines().find_map(|line| line.strip_prefix("host: ")).context("ask rustc for its host")?;
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let json = tools::output(tools::cargo().args(arguments))?;
    serde_json::from_str(&json).context("read cargo's metadata")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The crates from elsewhere that our programs link, or that build what they link.
fn needed(metadata: &Value) -> Result<BTreeSet<&str>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("find what cargo resolved")?;
    let nodes: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let packages = metadata["packages"].as_array().context("find packages in cargo's metadata")?;
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .map(|package| text(package, "id"))
        .collect();
    let is_program = |package: &&Value| package["source"].is_null() && OURS.contains(&text(package, "name"));
    let mut waiting: Vec<&str> =
        packages.iter().filter(is_program).map(|package| text(package, "id")).collect();
    let mut found: BTreeSet<&str> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        for dependency in dependencies.filter(|dependency| is_linked(dependency)) {
            let id = text(dependency, "pkg");
            if found.insert(id) {
                waiting.push(id);
            }
        }
    }
    Ok(found.into_iter().filter(|id| !ours.contains(id)).collect())
}

/// Not only for tests.
fn is_linked(dependency: &Value) -> bool {
    dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"] != "dev")
}

fn licences(folder: &Utf8Path, depth: usize) -> Result<Vec<Utf8PathBuf>> {
    let mut found = vec![];
    for entry in folder.read_dir_utf8().with_context(|| format!("list `{folder}`"))? {
        let entry = entry.with_context(|| format!("list `{folder}`"))?;
        let name = entry.file_name().to_lowercase();
        let kind = entry.file_type().with_context(|| format!("look at `{}`", entry.path()))?;
        if kind.is_dir() && depth > 0 {
            found.extend(licences(entry.path(), depth - 1)?);
        }
        let is_text = !name.ends_with(".rs") && NAMES.iter().any(|start| name.starts_with(start));
        if kind.is_file() && is_text && entry.metadata().is_ok_and(|file| file.len() <= TEXT_BYTES_MAX) {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_tests_need_has_no_licence_to_show() {
        let normal = json!([{"kind": null}]);
        let metadata = json!({
            "packages": [
                {"id": "a", "name": "aap-agent", "source": null}, {"id": "t", "name": "aap-types", "source": null},
                {"id": "x", "name": "x", "source": "r"}, {"id": "y", "name": "y", "source": "r"},
                {"id": "z", "name": "z", "source": "r"},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "t", "dep_kinds": normal}, {"pkg": "y", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "t", "deps": [{"pkg": "x", "dep_kinds": [{"kind": "build"}]}]},
                {"id": "x", "deps": []}, {"id": "y", "deps": []}, {"id": "z", "deps": []},
            ]},
        });
        assert_eq!(needed(&metadata).unwrap().into_iter().collect::<Vec<_>>(), ["x"]);
    }
}
