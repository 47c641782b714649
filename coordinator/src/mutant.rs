//! `aap-coordinator` with the deliberate faults of `aap_buffer::mutant`, for tests of the test harnesses.

use std::process::ExitCode;

use aap_coordinator::cli;

fn main() -> ExitCode {
    cli::main()
}
