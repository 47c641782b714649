//! What the system allows this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for thousands of followed files, connections and segments; more would only hide a leak.
const OPEN_FILES_WANTED: u64 = 65_536;

/// Raises the number of files that may be open, which is 1,024 on most systems, as far as the system lets us. Returns
/// the limit that holds now; `None` for none.
pub fn raise_open_file_limit() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(OPEN_FILES_WANTED, |most| most.min(OPEN_FILES_WANTED));
    if now.current.is_none_or(|current| current >= wanted) {
        return now.current;
    }
    let raised = Rlimit { current: Some(wanted), maximum: now.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() { Some(wanted) } else { now.current }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_and_stays() {
        let before = getrlimit(Resource::Nofile).current;
        let raised = raise_open_file_limit();
        assert!(raised.is_none_or(|raised| raised >= before.unwrap_or(0).min(OPEN_FILES_WANTED)));
        assert_eq!(raise_open_file_limit(), raised);
        assert_eq!(getrlimit(Resource::Nofile).current, raised);
    }
}
