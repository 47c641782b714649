//! Logs go to stderr, as text or JSON lines, filtered by `AAP_LOG`.

use std::io::IsTerminal;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}
