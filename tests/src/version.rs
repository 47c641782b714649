//! The two versions of the tests: the default one, and the long one with `AAP_TEST_LONG`.

/// Whether this is the long version.
pub fn is_long() -> bool {
    std::env::var_os("AAP_TEST_LONG").is_some()
}

/// `default`, or in the long version `long`, or what the variable `name` says.
pub fn amount(name: &str, default: u64, long: u64) -> u64 {
    let said = std::env::var(name).ok().and_then(|text| text.parse().ok());
    said.unwrap_or(if is_long() { long } else { default })
}

/// Says why a test does nothing here.
pub fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}
