//! Deliberate faults: a test harness that does not notice them does not count. Only ever in the test build of this crate.
//!
//! | mutant | what it does | who must notice |
//! |---|---|---|
//! | `answerfirst` | answers an append at once, and writes its record when there are some more | kills |
//! | `fsyncretry` | believes the second sync after one that failed | failing disks |
//! | `nochain` | does not compare `prev` with the line before | mutations |
//! | `nosignature` | takes every signature for good | mutations |
//! | `cutall` | takes damage in the middle for a torn tail | recovery |

/// Whether the fault `name` was chosen, for this thread or by `AAP_MUTANT` for the process.
#[cfg(test)]
pub(crate) fn is(name: &str) -> bool {
    chosen::by_this_thread() == Some(name) || std::env::var("AAP_MUTANT").is_ok_and(|chosen| chosen == name)
}

/// Whether the fault `name` was chosen. Never: this build has none.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is(_name: &str) -> bool {
    false
}

#[cfg(test)]
pub(crate) mod chosen {
    use std::cell::Cell;
    use std::panic::{UnwindSafe, catch_unwind};

    thread_local!(static CHOSEN: Cell<Option<&'static str>> = const { Cell::new(None) });

    pub(crate) fn by_this_thread() -> Option<&'static str> {
        CHOSEN.get()
    }

    /// Whether `harness` panics over the mutant, as it must. The mutant is off again afterwards.
    pub(crate) fn is_caught(name: &'static str, harness: impl FnOnce() + UnwindSafe) -> bool {
        CHOSEN.set(Some(name));
        let caught = catch_unwind(harness).is_err();
        CHOSEN.set(None);
        caught
    }
}
