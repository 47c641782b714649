//! Places where a test can kill or stop a process: `AAP_FAIL=name:N=action[;name:N=action…]`.
//!
//! At the `N`th time (from 1; without `:N` the first) that the process comes by the named place, it does the action:
//! `abort` ends it at once, as SIGKILL would; `exit` ends it with status 99. Without the variable a place costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
struct Failpoint {
    name: String,
    at: u64,
    exit: bool,
    passed: AtomicU64,
}

static FAILPOINTS: OnceLock<Vec<Failpoint>> = OnceLock::new();

/// Comes by the place `name`.
pub fn hit(name: &str) {
    let failpoints = FAILPOINTS.get_or_init(|| parse(&std::env::var("AAP_FAIL").unwrap_or_default()));
    for failpoint in failpoints.iter().filter(|failpoint| failpoint.name == name) {
        if failpoint.passed.fetch_add(1, Ordering::SeqCst) + 1 == failpoint.at {
            match failpoint.exit {
                true => std::process::exit(99),
                false => std::process::abort(),
            }
        }
    }
}

fn parse(text: &str) -> Vec<Failpoint> {
    let entries = text.split([',', ';']).filter(|entry| !entry.trim().is_empty());
    let parsed = entries.filter_map(|entry| {
        let (place, action) = entry.trim().split_once('=')?;
        let (name, at) = place.split_once(':').unwrap_or((place, "1"));
        let exit = match action {
            "abort" => false,
            "exit" => true,
            _ => return None,
        };
        Some(Failpoint { name: name.to_owned(), at: at.parse().ok()?, exit, passed: AtomicU64::new(0) })
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn places_and_counts_are_read_and_nonsense_is_inert() {
        let read = super::parse("a.b:3=abort; c=exit ,x;y=dance;z:q=abort");
        let seen: Vec<_> = read.iter().map(|f| (f.name.as_str(), f.at, f.exit)).collect();
        assert_eq!(seen, [("a.b", 3, false), ("c", 1, true)]);
    }
}
