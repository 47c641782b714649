//! `aap-agent`: arguments, logs, exit code. The work is in the library.

use std::process::ExitCode;

use aap_agent::cli;

fn main() -> ExitCode {
    aap_runtime::raise_open_file_limit();
    cli::main()
}
