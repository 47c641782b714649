//! End-to-end figures on the real programs, each beside a limit or a peer measured in the same run.
//!
//! `cargo xtask bench [FILTER]` runs them; `AAP_BENCH_QUICK=1` makes them small enough for a quarter of an hour on two cores, and
//! `AAP_BENCH_OUT=FILE` appends every figure to a file as a JSON line. The working directory is `TMPDIR`: a real disk, please.
//!
//! Throughput is given per core-second: the CPU seconds, user and system, that Linux books to the process. On a machine that
//! does other things these are the dependable figures; times on the wall are not, and carry the load average of the machine.
//!
//! | file | owns |
//! |---|---|
//! | `figures/` | one function per figure, by subject |
//! | `site.rs` | a node and a coordinator as child processes |
//! | `input.rs`, `load.rs` | what they are fed, and a steady load |
//! | `fleet.rs`, `flood.rs` | many agents in this process; strangers who only shake hands |
//! | `meter.rs`, `limits.rs`, `machine.rs` | what processes use, what the machine can do, what it is |
//! | `proxy.rs`, `link.rs` | counting bytes between the two; a link with delay and loss between two network namespaces |
//! | `table.rs`, `scale.rs` | how figures are printed, how large the measurements are |

#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking, as tests do")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

mod figures;
mod fleet;
mod flood;
mod input;
mod limits;
mod link;
mod load;
mod machine;
mod meter;
mod proxy;
mod scale;
mod site;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use scale::Scale;

fn main() -> ExitCode {
    // Arguments of the test harness, such as `--nocapture`, mean nothing here.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| filter.as_deref().is_none_or(|filter| name.contains(filter));
    let (machine, scale) = (machine::describe(), Scale::wanted());
    println!("{machine}\nCPU seconds are dependable on a shared machine; times on the wall are not.\n");
    let (mut all, mut failed) = (vec![], vec![]);
    for (name, measure) in figures::ALL.iter().filter(|(name, _)| wanted(name)) {
        eprintln!("measuring {name} …");
        let began = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| measure(&scale))) {
            Ok(figures) => {
                table::record(&figures, &machine);
                all.extend(figures);
            }
            Err(_) => failed.push(*name),
        }
        eprintln!("  took {:.0} s", began.elapsed().as_secs_f64());
    }
    table::print(&all);
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("not measured: {}", failed.join(", "));
    ExitCode::FAILURE
}
