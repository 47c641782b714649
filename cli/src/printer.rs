//! stdout for data, stderr for everything else. The only place that prints.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use aap_client::operations::Format;

use crate::arguments::{Color, Settings};

/// What a piece of narration is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31;1", text)
    }
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes what a command has to say.
pub(crate) struct Printer {
    out: BufWriter<Stdout>,
    out_style: Style,
    error_style: Style,
    stdout_is_terminal: bool,
    quiet: bool,
    verbose: bool,
    for_programs: bool,
    broken: bool,
}

impl Printer {
    pub(crate) fn new(settings: &Settings) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let colored = |terminal: bool| match settings.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !plain,
        };
        Self {
            out: BufWriter::with_capacity(64 << 10, io::stdout()),
            out_style: Style { on: colored(stdout_is_terminal) },
            error_style: Style { on: colored(io::stderr().is_terminal()) },
            stdout_is_terminal,
            quiet: settings.quiet,
            verbose: settings.verbose,
            for_programs: matches!(settings.format, Some(Format::Json | Format::Ndjson)),
            broken: false,
        }
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }
    pub(crate) fn style(&self) -> Style {
        self.out_style
    }
    pub(crate) fn error_style(&self) -> Style {
        self.error_style
    }
    pub(crate) fn for_programs(&self) -> bool {
        self.for_programs
    }
    /// Whether progress may be drawn: a terminal on stderr, and nobody asked for silence.
    pub(crate) fn draws_progress(&self) -> bool {
        !self.quiet && !self.for_programs && io::stderr().is_terminal()
    }

    /// Data.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.out.write_all(bytes);
        self.broken |= written.is_err();
        written
    }

    /// A line of data.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    /// Gives what was written to whoever reads.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.broken |= flushed.is_err();
        flushed
    }

    /// Flushes data before an error is printed; data that cannot be written is not worth a second error.
    pub(crate) fn discard_if_broken(&mut self) {
        if !self.broken {
            self.broken = self.out.flush().is_err();
        }
    }

    /// Narration; silent with `--quiet`.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.quiet {
            self.error_line(text);
        }
    }

    /// Narration of `--verbose`.
    pub(crate) fn detail(&mut self, text: &str) {
        if self.verbose && !self.quiet {
            self.error_line(text);
        }
    }

    /// An error, or a warning that must be seen.
    pub(crate) fn error_line(&mut self, text: &str) {
        // If stderr is gone, nobody is left to be told.
        let _ignored = writeln!(io::stderr().lock(), "{text}");
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        if self.broken {
            // `BufWriter` would try once more to write what nobody reads.
            let out = std::mem::replace(&mut self.out, BufWriter::with_capacity(0, io::stdout()));
            let (_stdout, _unwritten) = out.into_parts();
        }
    }
}
