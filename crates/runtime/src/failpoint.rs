//! Places where a test can kill or stop a process: `AAP_FAIL=name:N=action[;name:N=action…]`.
//!
//! At the `N`th time (from 1; without `:N` the first) that the process comes by the named place, it does the action:
//! `abort` ends it at once, as SIGKILL would; `exit` ends it with status 99; `error` makes the step fail where it can fail.
//! Without the variable a place costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Exit,
    Error,
}

#[derive(Debug)]
struct Failpoint {
    name: String,
    at: u64,
    action: Action,
    passed: AtomicU64,
}

/// A place asked its step to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failpoint asked for an error")]
pub struct Injected;

static FAILPOINTS: OnceLock<Vec<Failpoint>> = OnceLock::new();

/// Comes by the place `name`, where nothing can fail.
pub fn hit(name: &str) {
    // `error` means nothing here.
    pass(name).ok();
}

/// Comes by the place `name`.
///
/// # Errors
/// [`Injected`] if `error` is what is to happen there now.
pub fn pass(name: &str) -> Result<(), Injected> {
    let failpoints = FAILPOINTS.get_or_init(|| parse(&std::env::var("AAP_FAIL").unwrap_or_default()));
    for failpoint in failpoints.iter().filter(|failpoint| failpoint.name == name) {
        if failpoint.passed.fetch_add(1, Ordering::SeqCst) + 1 == failpoint.at {
            match failpoint.action {
                Action::Exit => std::process::exit(99),
                Action::Abort => std::process::abort(),
                Action::Error => return Err(Injected),
            }
        }
    }
    Ok(())
}

fn parse(text: &str) -> Vec<Failpoint> {
    let entries = text.split([',', ';']).filter(|entry| !entry.trim().is_empty());
    let parsed = entries.filter_map(|entry| {
        let (place, action) = entry.trim().split_once('=')?;
        let (name, at) = place.split_once(':').unwrap_or((place, "1"));
        let action = match action {
            "abort" => Action::Abort,
            "exit" => Action::Exit,
            "error" => Action::Error,
            _ => return None,
        };
        Some(Failpoint { name: name.to_owned(), at: at.parse().ok()?, action, passed: AtomicU64::new(0) })
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::Action;

    #[test]
    fn places_and_counts_are_read_and_nonsense_is_inert() {
        let read = super::parse("a.b:3=abort; c=exit ,x;y=dance;z:q=abort;d:2=error");
        let seen: Vec<_> = read.iter().map(|f| (f.name.as_str(), f.at, f.action)).collect();
        assert_eq!(seen, [("a.b", 3, Action::Abort), ("c", 1, Action::Exit), ("d", 2, Action::Error)]);
    }
}
