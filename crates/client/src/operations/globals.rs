//! Arguments that every command takes, and what exit codes mean.

use aap_types::ExitCode;

use super::vocabulary::{Argument, Value};

const FORMATS: &[&str] = &["table", "plain", "json", "ndjson", "csv", "parquet", "arrow"];

/// Arguments that every command takes. Each has an `AAP_*` twin; the command line wins.
pub const GLOBALS: &[Argument] = &[
    Argument::option("home", Value::Directory, "Where the platform keeps its files").environment("AAP_HOME"),
    Argument::option("context", Value::Context, "The platform of this name: see `aap context`")
        .short('c')
        .environment("AAP_CONTEXT"),
    Argument::option(
        "output",
        Value::Choice(FORMATS),
        "Format of stdout; by default `table` on a terminal, `plain` (tab-separated) in a pipe",
    )
    .short('o')
    .environment("AAP_OUTPUT"),
    Argument::option(
        "limit",
        Value::Number,
        "Most rows or items to print, 0 for all; what is cut off is announced [default: 500]",
    )
    .environment("AAP_LIMIT"),
    Argument::option("timeout", Value::Duration, "Give up after this long, such as 30s, 5m or 500ms")
        .environment("AAP_TIMEOUT"),
    Argument::flag("no-headers", "Leave out the line of column names").environment("AAP_NO_HEADERS"),
    Argument::flag("quiet", "Say nothing on stderr but errors").short('q').environment("AAP_QUIET"),
    Argument::flag("verbose", "Say more on stderr").short('v').environment("AAP_VERBOSE"),
    Argument::flag("yes", "Do not ask before removing anything").short('y').environment("AAP_YES"),
    Argument::option(
        "confirm",
        Value::Context,
        "The name of the context, where it asks for it before something is changed",
    )
    .environment("AAP_CONFIRM"),
    Argument::option("color", Value::Choice(&["auto", "always", "never"]), "Colours; `NO_COLOR` is honoured")
        .default("auto")
        .environment("AAP_COLOR"),
];

/// What an exit code of `aap` means: a contract.
pub fn exit_meaning(code: ExitCode) -> &'static str {
    match code {
        ExitCode::Ok => "it worked; an empty list too",
        ExitCode::Failed => "the operation failed",
        ExitCode::Usage => "the command line or the configuration is wrong",
        ExitCode::NotFound => "the named object does not exist",
        ExitCode::LoginNeeded => "nobody is logged in, or the token was refused",
        ExitCode::Denied => "not permitted",
        ExitCode::Conflict => "it exists already, or something changed in between",
        ExitCode::Unavailable => "not reachable now; trying again may help",
        ExitCode::Pending => "the deadline passed and the work goes on",
        ExitCode::Partial => "some targets failed or did not answer",
        ExitCode::Changes => "there are changes",
        ExitCode::CheckFailed => "a check failed; of `status`: data does not advance",
        ExitCode::Bug => "a bug of ours",
        ExitCode::Interrupted => "interrupted by Ctrl-C",
        ExitCode::Terminated => "ended by SIGTERM",
    }
}
