//! What every command gets.

use std::time::Duration;

use aap_client::{Clock, Platform, SystemClock};

use crate::arguments::Settings;
use crate::printer::Printer;

/// How long a call that should answer at once may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Platform, settings and printer of one command.
pub(crate) struct Context<'a> {
    pub(crate) platform: Platform,
    pub(crate) settings: Settings,
    pub(crate) printer: &'a mut Printer,
    pub(crate) clock: SystemClock,
}

impl<'a> Context<'a> {
    pub(crate) fn new(settings: Settings, printer: &'a mut Printer) -> Self {
        let platform = Platform::find(settings.home.as_deref());
        Self { platform, settings, printer, clock: SystemClock::default() }
    }

    /// `--timeout`, or what suits a call that should answer at once.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.settings.timeout.unwrap_or(CALL_TIMEOUT)
    }

    pub(crate) fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }
}
