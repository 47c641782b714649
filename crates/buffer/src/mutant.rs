//! Deliberate faults: a test harness that does not notice them does not count. Compiled in only for tests and under the
//! feature `mutants`; chosen by `AAP_MUTANT`.

#[cfg(any(test, feature = "mutants"))]
pub(crate) fn is(name: &str) -> bool {
    #[cfg(test)]
    if chosen::by_this_thread() == Some(name) {
        return true;
    }
    static FROM_ENVIRONMENT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    FROM_ENVIRONMENT.get_or_init(|| std::env::var("AAP_MUTANT").ok()).as_deref() == Some(name)
}

#[cfg(not(any(test, feature = "mutants")))]
pub(crate) const fn is(_name: &str) -> bool {
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
}
