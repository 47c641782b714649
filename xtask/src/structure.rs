//! The shape of the workspace: which crate may depend on which, which crate is the home of which driver, which
//! licences may come in, and which crates may stand in the lock file twice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools;

/// Layers from the bottom; a crate may depend on crates of lower layers only. Crates of one layer do not see each other,
/// except where [`SAME_LAYER`] says so.
const LAYERS: [&[&str]; 7] = [
    &["aap-types"],
    &["aap-columns", "aap-runtime"],
    &[
        "aap-access",
        "aap-audit",
        "aap-proto",
        "aap-backup",
        "aap-buffer",
        "aap-decode",
        "aap-federation",
        "aap-services",
        "aap-gateway",
        "aap-oidc",
        "aap-sinks",
    ],
    &[
        "aap-transport",
        "aap-sql",
        "aap-lake",
        "aap-store",
        "aap-client",
        "aap-kafka",
        "aap-postgres",
        "aap-cassandra",
        "aap-http",
        "aap-redis",
        "aap-mongodb",
        "aap-spark",
        "aap-vault",
    ],
    &["aap-agent", "aap-coordinator", "aap-engine"],
    &["aap-cli"],
    &["aap-tests", "xtask", "aap-proto-gen"],
];

/// Exceptions to the rule above, each with its reason.
const SAME_LAYER: [(&str, &str, &str); 4] = [
    (
        "aap-proto",
        "aap-audit",
        "records of the audit log, and what verifying it came to, go over the wire in one form",
    ),
    ("aap-lake", "aap-store", "a file becomes visible by the catalogue's commit, so the lake writes both"),
    (
        "aap-postgres",
        "aap-store",
        "in a cluster the metadata lies in PostgreSQL, which one crate alone may name",
    ),
    ("aap-redis", "aap-store", "sessions of people may lie in Redis, which one crate alone may name"),
];

/// What `cli` may see of ours: it links no storage, no engine, no Arrow. A backup knows files, not what is in them.
const CLI_SEES: [&str; 4] = ["aap-backup", "aap-client", "aap-runtime", "aap-types"];

/// Each driver is named by exactly one crate.
const HOMES: [(&str, &str); 18] = [
    ("argon2", "aap-access"),
    ("duckdb", "aap-engine"),
    ("libduckdb-sys", "aap-engine"),
    ("ort", "aap-engine"),
    ("rusqlite", "aap-store"),
    ("object_store", "aap-lake"),
    ("rdkafka", "aap-kafka"),
    ("tokio-postgres", "aap-postgres"),
    ("scylla", "aap-cassandra"),
    ("reqwest", "aap-http"),
    ("redis", "aap-redis"),
    ("mongodb", "aap-mongodb"),
    ("quinn", "aap-transport"),
    ("rcgen", "aap-transport"),
    ("simple-dns", "aap-services"),
    ("secret-service", "aap-client"),
    ("zbus", "aap-client"),
    ("ratatui", "aap-tui"),
];

/// Crates that must not be in the tree.
const BANNED: [(&str, &str); 4] = [
    ("aws-lc-sys", "TLS runs on ring: one provider, and forty CPU seconds less to build"),
    ("openssl-sys", "rustls everywhere; OpenSSL only ever inside the coordinator's drivers"),
    ("native-tls", "rustls everywhere"),
    ("serde_yml", "unmaintained and unsound"),
];

/// Who may bring a banned crate nevertheless, and why.
const BROUGHT_BY: [(&str, &str, &str); 1] =
    [("openssl-sys", "rdkafka-sys", "librdkafka speaks TLS and SCRAM by OpenSSL and by nothing else")];

/// Licences that may come in; each alternative of an expression counts.
const LICENCES: [&str; 13] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "Unlicense",
    "CDLA-Permissive-2.0",
    "BSL-1.0",
];

/// Crates that stand in the lock file in more than one version today. A new one fails the check: unify it, or add it
/// here with the change that brings it.
const DUPLICATES: &[&str] = &include!("duplicates.in");

/// Checks all of the above.
pub(crate) fn check() -> Result<()> {
    let json = tools::output(tools::cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&json).context("read cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("find packages in cargo's metadata")?;
    let mut faults = Vec::new();
    let ours: Vec<&Value> = packages.iter().filter(|package| package["source"].is_null()).collect();
    for package in &ours {
        direction(package, &mut faults);
        homes(package, &mut faults);
    }
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        licence(package, &mut faults);
        let name = text(package, "name");
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            let brought_by = dependents(&metadata, text(package, "id"));
            if !is_excepted(name, &brought_by) {
                let who = brought_by.join("`, `");
                faults.push(format!("`{name}` is in the tree, brought by `{who}`; it is banned: {reason}"));
            }
        }
    }
    duplicates(packages, &mut faults);
    if !faults.is_empty() {
        bail!("the structure does not hold:\n  {}", faults.join("\n  "));
    }
    println!("structure: {} crates of ours, {} from elsewhere", ours.len(), packages.len() - ours.len());
    Ok(())
}

/// The names of the packages that have a package among their dependencies, as resolved.
fn dependents<'a>(metadata: &'a Value, id: &str) -> Vec<&'a str> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let on_it = |node: &&Value| {
        node["dependencies"].as_array().is_some_and(|all| all.iter().any(|dependency| dependency == id))
    };
    let ids = nodes.into_iter().flatten().filter(on_it).map(|node| &node["id"]);
    let packages = metadata["packages"].as_array();
    let name = |id: &Value| {
        packages
            .into_iter()
            .flatten()
            .find(|package| package["id"] == *id)
            .map(|package| text(package, "name"))
    };
    ids.filter_map(name).collect()
}

/// Whether a banned crate comes only from where it may.
fn is_excepted(name: &str, brought_by: &[&str]) -> bool {
    let may = |who: &&str| BROUGHT_BY.iter().any(|(banned, by, _)| *banned == name && by == who);
    !brought_by.is_empty() && brought_by.iter().all(may)
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn dependencies(package: &Value) -> impl Iterator<Item = (&str, bool)> {
    package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|dependency| (text(dependency, "name"), dependency["kind"] == "dev"))
}

fn direction(package: &Value, faults: &mut Vec<String>) {
    let name = text(package, "name");
    let Some(own) = layer(name) else {
        faults.push(format!("`{name}` has no layer: give it one in xtask/src/structure.rs"));
        return;
    };
    for (dependency, dev) in dependencies(package).filter(|(dependency, _)| layer(dependency).is_some()) {
        let allowed = layer(dependency).is_some_and(|theirs| theirs < own)
            || SAME_LAYER.iter().any(|(from, to, _)| *from == name && *to == dependency)
            || (dev && dependency == name);
        if !allowed {
            faults.push(format!(
                "`{name}` must not depend on `{dependency}`: dependencies point to lower layers"
            ));
        }
        if name == "aap-cli" && !CLI_SEES.contains(&dependency) {
            faults
                .push(format!("`{name}` must not depend on `{dependency}`: it sees {}", CLI_SEES.join(", ")));
        }
    }
}

fn homes(package: &Value, faults: &mut Vec<String>) {
    let name = text(package, "name");
    if name == "aap-tests" {
        // What our sinks wrote is counted by clients that share no code with them.
        return;
    }
    for (dependency, _) in dependencies(package) {
        if let Some((driver, home)) =
            HOMES.iter().find(|(driver, home)| *driver == dependency && *home != name)
        {
            faults.push(format!("`{name}` names `{driver}`, whose one home is `{home}`"));
        }
    }
}

fn licence(package: &Value, faults: &mut Vec<String>) {
    let expression = text(package, "license").replace('/', " OR ");
    let allowed = expression.split(" OR ").any(|alternative| {
        alternative
            .trim_matches(['(', ')', ' '])
            .split(" AND ")
            .all(|one| LICENCES.contains(&one.trim_matches(['(', ')', ' '])))
    });
    if !allowed {
        faults.push(format!(
            "`{}` is licensed `{expression}`, which is not on the list",
            text(package, "name")
        ));
    }
}

fn duplicates(packages: &[Value], faults: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    for (name, found) in versions.iter().filter(|(_, found)| found.len() > 1) {
        if !DUPLICATES.contains(name) {
            let list = found.iter().copied().collect::<Vec<_>>().join(", ");
            faults
                .push(format!("`{name}` is there in versions {list}: unify them, or list it with a reason"));
        }
    }
    for name in DUPLICATES.iter().filter(|name| versions.get(**name).is_none_or(|found| found.len() < 2)) {
        faults.push(format!("`{name}` is listed as a duplicate and is none: take it off the list"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_banned_crate_may_come_only_from_where_it_is_excepted() {
        let metadata = json!({
            "packages": [
                {"id": "1", "name": "openssl-sys"}, {"id": "2", "name": "rdkafka-sys"}, {"id": "3", "name": "curl-sys"},
            ],
            "resolve": {"nodes": [
                {"id": "1", "dependencies": []}, {"id": "2", "dependencies": ["1"]}, {"id": "3", "dependencies": ["2"]},
            ]},
        });
        let found = dependents(&metadata, "1");
        assert_eq!(found, ["rdkafka-sys"]);
        assert!(is_excepted("openssl-sys", &found));
        assert!(!is_excepted("openssl-sys", &["rdkafka-sys", "curl-sys"]));
        assert!(!is_excepted("openssl-sys", &[]));
        assert!(!is_excepted("native-tls", &["rdkafka-sys"]));
    }
}
