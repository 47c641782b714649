//! Deliberate faults: a test harness that does not notice them does not count. Compiled in only for tests of this crate and
//! under the feature `mutants`; chosen by `AAP_MUTANT`. Agent, coordinator and lake ask here too, so one variable speaks to
//! both daemons, and each name means one fault of one of them.
//!
//! | mutant | of | what it does |
//! |---|---|---|
//! | `nofsync` | buffer | answers without having synced |
//! | `nowriteerror` | buffer | takes a group as written that could not be |
//! | `nodirsync` | buffer | does not sync the names of segments |
//! | `fsyncretry` | buffer | believes the second sync after one that failed |
//! | `noharden` | buffer | shows what a killed process left in the page cache |
//! | `nocrc` | buffer | does not compare checksums |
//! | `notail` | buffer | takes the file to its end, with what stands there of an unfinished group |
//! | `keepactive` | buffer | goes on in a segment whose successor may have its name |
//! | `eagerflush`, `overbudget`, `noreserve` | buffer | are careless with the last of the room |
//! | `answerfirst` | agent | answers a source first; its rows are appended a moment later |
//! | `nokeys` | agent | does not look up the key of a request |
//! | `noresume` | agent | forgets how far an `aap ingest` run came |
//! | `nobooks` | agent | does not count what the kernel dropped, nor dead letters |
//! | `nodigest` | agent | takes the ledger's batches for its own by their numbers alone |
//! | `cursorfirst` | agent | moves the uplink's cursor when a batch leaves, not when it is acknowledged |
//! | `ackfirst` | coordinator | acknowledges batches first; they land a moment later |
//! | `nodedupe` | coordinator | says nothing of what has landed, and takes what is repeated once more |
//! | `cutfirst` | lake | moves the cut in a transaction of its own, before the files are visible |
//! | `cutlast` | lake | moves the cut in a transaction of its own, after the files are visible |
//! | `feedagain` | lake | feeds a sink everything again whenever there is something new |
//! | `positionlate` | lake | says in an object of a sink how far the one before it went |

/// Whether the fault `name` was chosen. A constant without the feature, so that no release holds a fault.
#[cfg(any(test, feature = "mutants"))]
pub fn is(name: &str) -> bool {
    #[cfg(test)]
    if chosen::by_this_thread() == Some(name) {
        return true;
    }
    static FROM_ENVIRONMENT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    FROM_ENVIRONMENT.get_or_init(|| std::env::var("AAP_MUTANT").ok()).as_deref() == Some(name)
}

/// Whether the fault `name` was chosen. Never: this build has none.
#[cfg(not(any(test, feature = "mutants")))]
#[inline(always)]
pub const fn is(_name: &str) -> bool {
    false
}

#[cfg(test)]
pub(crate) mod chosen {
    use std::cell::Cell;

    thread_local!(static CHOSEN: Cell<Option<&'static str>> = const { Cell::new(None) });

    pub(crate) fn by_this_thread() -> Option<&'static str> {
        CHOSEN.get()
    }

    /// Runs `work` with a mutant switched on in this thread.
    pub(crate) fn with<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
        CHOSEN.set(Some(name));
        let result = work();
        CHOSEN.set(None);
        result
    }

    /// Whether `harness` panics over the mutant, as it must. The mutant is off again afterwards.
    pub(crate) fn is_caught(name: &'static str, harness: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        with(name, || std::panic::catch_unwind(harness).is_err())
    }
}
