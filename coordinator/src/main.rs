//! `aap-coordinator`: the work is in the library.

use std::process::ExitCode;

use aap_coordinator::cli;

fn main() -> ExitCode {
    cli::main()
}
