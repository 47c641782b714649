//! The only scripts a contributor needs: `cargo xtask build | up | test | check | bench | gen | dist`.
//!
//! | file | owns |
//! |---|---|
//! | `tools.rs` | running commands, and what the machine must have |
//! | `duckdb.rs` | the prebuilt DuckDB library: where it comes from and its pinned checksums |
//! | `build.rs` | `build`, `up` |
//! | `dist.rs` | `dist`: the package, the archive, and the check of both |
//! | `test.rs` | `test`, `test --long`, `test --services` |
//! | `services.rs` | real servers for tests |
//! | `check.rs` | `check`: format, lints, structure, licences, pages of errors, docs, generated code |
//! | `structure.rs` | the direction of dependencies, one home for each driver, licences, duplicates |
//! | `errors.rs` | a page in `docs/errors/` for every error code, and a code for every page |
//! | `bench.rs` | `bench`: the table of figures, each with its ratio to a limit measured in the same run |

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people at a terminal")]

mod bench;
mod build;
mod check;
mod dist;
mod duckdb;
mod errors;
mod services;
mod structure;
mod test;
mod tools;

use anyhow::Result;
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Build, run, test and measure AAP", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the four release programs into target/release, fetching the DuckDB library first
    Build,
    /// Build what is missing and start a platform on this machine; arguments after `--` go to `aap up`
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every test: unit, property, model, and end to end on the release programs
    Test {
        /// The long version: 1,000 kills, power cuts, 10,000 model seeds, an hour of load
        #[arg(long)]
        long: bool,
        /// Only the tests against other systems, against every real server that can be had
        #[arg(long)]
        services: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Format, lints, structure, licences, pages of errors, documentation, generated code
    Check,
    /// Measure, and print each figure beside a limit measured in the same run
    Bench {
        /// Only measurements whose name contains this
        filter: Option<String>,
    },
    /// Regenerate committed code from the .proto files
    Gen,
    /// Build what is shipped into target/dist-out: a package for Debian, and an archive for every other system
    Dist {
        /// Unpack it into a clean root, look at what is in it, and try it
        #[arg(long)]
        check: bool,
        /// Take the programs of this folder instead of building them
        #[arg(long, value_name = "DIR")]
        programs: Option<Utf8PathBuf>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Build => build::release().map(drop),
        Task::Up { arguments } => build::up(&arguments),
        Task::Test { long, services, filter } => test::run(long, services, filter.as_deref()),
        Task::Check => check::run(),
        Task::Bench { filter } => bench::run(filter.as_deref()),
        Task::Gen => check::generate(),
        Task::Dist { check, programs } => dist::run(programs, check),
    }
}
