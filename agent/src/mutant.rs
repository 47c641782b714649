//! `aap-agent` with the deliberate faults of `aap_buffer::mutant`, for tests of the test harnesses.

use std::process::ExitCode;

use aap_agent::cli;

fn main() -> ExitCode {
    aap_runtime::raise_open_file_limit();
    cli::main()
}
