//! `aap-engine`: spawned by the daemons, not by people.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => aap_engine::serve(),
        Some("--self-test") => report(&aap_engine::self_test()),
        Some("--version") => report(concat!("aap-engine ", env!("CARGO_PKG_VERSION"))),
        Some(_) => {
            report("aap-engine answers one query of a daemon over its pipes; run `aap query` instead");
            ExitCode::from(2)
        }
    }
}

fn report(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}
