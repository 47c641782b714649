//! Logs go to stderr, as text or JSON lines, filtered by `AAP_LOG`.
//!
//! A line of the log is one event, whatever stands in its fields: names and errors come from strangers, who must not end a line and begin
//! another, move the cursor of whoever reads, or turn the direction of their text.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber. Call once, first in `main`. Default level is `info`; `AAP_LOG` takes
/// `tracing_subscriber::EnvFilter` directives.
pub fn init_logging(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("AAP_LOG").unwrap_or_else(|_| EnvFilter::new("info,h2=warn,hyper=warn"));
    let is_colored = format == LogFormat::Text && io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || OneLine { out: io::stderr(), is_colored });
    match format {
        LogFormat::Text => builder.with_ansi(is_colored).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Writes what it is given at once, an event with its line end, as one line.
struct OneLine<W> {
    out: W,
    /// Escape characters are of our own colours; those in fields were escaped before.
    is_colored: bool,
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        let is_unsafe = |c: char| is_unsafe(c) && !(self.is_colored && c == '\x1b');
        if !line.chars().any(is_unsafe) {
            return self.out.write_all(event).map(|()| event.len());
        }
        let mut escaped = String::with_capacity(event.len() + 16);
        for c in line.chars() {
            match c {
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                // In this form also within a string of JSON.
                c if is_unsafe(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => escaped.push(c),
            }
        }
        escaped.push_str(end);
        self.out.write_all(escaped.as_bytes()).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Control characters but the tab, and those that turn the direction of text.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of a hostile name, as a field and in a message.
    fn logged(format: LogFormat) -> String {
        let kept = Kept::default();
        let out = kept.clone();
        let builder = tracing_subscriber::fmt()
            .with_writer(move || OneLine { out: out.clone(), is_colored: false })
            .with_ansi(false);
        let name = "edge\n2026-01-01T00:00:00Z  INFO forged\r\x1b]52;c;Zm9v\x07\x1b[31m\u{202e}\u{9b}2J\",\"forged\":\"";
        let log = || tracing::warn!(node = %name, other = ?name, "refused {name}");
        match format {
            LogFormat::Text => tracing::subscriber::with_default(builder.finish(), log),
            LogFormat::Json => tracing::subscriber::with_default(builder.json().finish(), log),
        }
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a8_a_name_of_a_stranger_makes_no_line_of_its_own_and_moves_no_cursor() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format);
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(text.ends_with('\n') && !text.trim_end_matches('\n').chars().any(is_unsafe), "{text:?}");
        }
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert!(line.get("forged").is_none(), "{line}");
        assert!(line["fields"]["node"].as_str().unwrap().starts_with("edge"), "{line}");
    }
}
