//! `aap logs`: the last lines of the daemons' logs, and what is added to them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use clap::ArgMatches;

use super::text;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::printer::Printer;

const PROGRAMS: [&str; 3] = ["coordinator", "agent", "up"];
/// How often a followed log is looked at: soon enough for eyes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn show(context: &mut Context<'_>, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let lines = arguments.get_one::<u64>("lines").copied().unwrap_or(100);
    let mut logs = chosen(context, text(arguments, "program"))?;
    for log in &mut logs {
        for line in log.last(lines) {
            log.print(&line, context.printer)?;
        }
    }
    if !arguments.get_flag("follow") {
        return Ok(ExitCode::Ok);
    }
    let mut interrupts = Interrupts::new()?;
    loop {
        context.printer.flush()?;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            code = interrupts.next() => return Ok(code),
        }
        for log in &mut logs {
            for line in log.added() {
                log.print(&line, context.printer)?;
            }
        }
    }
}

fn chosen(context: &Context<'_>, program: &str) -> Result<Vec<Log>, Problem> {
    let directory = context.platform.home()?.log();
    let wanted: Vec<&str> =
        PROGRAMS.into_iter().filter(|name| program.is_empty() || *name == program).collect();
    let prefixed = wanted.len() > 1;
    let logs: Vec<Log> = wanted
        .into_iter()
        .map(|name| Log::new(name, directory.join(format!("{name}.log")), prefixed))
        .filter(|log| log.path.exists())
        .collect();
    if logs.is_empty() {
        return Err(Problem::new(
            "logs.not_found",
            ExitCode::NotFound,
            format!("there is no log in `{directory}`"),
        )
        .hint_command("start the platform, which writes it", "aap up --detach"));
    }
    Ok(logs)
}

/// One log file that is read on.
struct Log {
    name: &'static str,
    path: Utf8PathBuf,
    prefixed: bool,
    inode: u64,
    offset: u64,
    partial: Vec<u8>,
}

impl Log {
    fn new(name: &'static str, path: Utf8PathBuf, prefixed: bool) -> Self {
        Self { name, path, prefixed, inode: 0, offset: 0, partial: vec![] }
    }

    /// The last `count` lines.
    fn last(&mut self, count: u64) -> Vec<String> {
        let mut lines = self.added();
        let keep = usize::try_from(count).unwrap_or(usize::MAX);
        lines.split_off(lines.len().saturating_sub(keep))
    }

    /// Whole lines added since the last look. A log that was cut or replaced is read from its beginning.
    fn added(&mut self) -> Vec<String> {
        let Ok(mut file) = File::open(&self.path) else { return vec![] };
        let Ok(metadata) = file.metadata() else { return vec![] };
        if metadata.ino() != self.inode || metadata.len() < self.offset {
            (self.inode, self.offset) = (metadata.ino(), 0);
            self.partial.clear();
        }
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return vec![];
        }
        let mut bytes = std::mem::take(&mut self.partial);
        let read = file.take(metadata.len() - self.offset).read_to_end(&mut bytes).unwrap_or(0);
        self.offset += read as u64;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.partial = bytes.split_off(end);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    fn print(&self, line: &str, printer: &mut Printer) -> std::io::Result<()> {
        let line = crate::text::clean(line);
        if self.prefixed { printer.line(&format!("{:11} | {line}", self.name)) } else { printer.line(&line) }
    }
}

/// The last lines of a log beyond its first `from` bytes, for whoever must say why a program died.
pub(crate) fn last_lines(path: &Utf8Path, from: u64, count: u64) -> Vec<String> {
    let inode = std::fs::metadata(path).map_or(0, |metadata| metadata.ino());
    let mut log = Log { inode, offset: from, ..Log::new("", path.to_owned(), false) };
    log.last(count)
}
