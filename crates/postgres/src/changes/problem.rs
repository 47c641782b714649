//! What can be wrong with a server whose changes are read, as operators see it.

use aap_types::{ExitCode, Problem};

use crate::connection::{Error, Trouble};
use crate::source::ChangesSource;

/// Codes of the server that mean several things, by what was asked.
pub(crate) const IN_USE: &str = "55006";
const NOT_READY: &str = "55000";
const UNDEFINED: &str = "42704";
const PRIVILEGE: &str = "42501";
const LIMIT: &str = "53400";
const LOCKED: &str = "55P03";

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing that is special to changes.
    Looking,
    /// Making or changing a publication.
    Publishing,
    /// Making a slot.
    MakingSlot,
    /// Reading a slot, or moving it.
    ReadingSlot,
}

impl ChangesSource {
    /// An error of the connection.
    pub(crate) fn problem(&self, doing: Doing, slot: &str, error: &Error) -> Problem {
        let state = error.state().map(|state| state.code()).unwrap_or_default();
        let role = self.access.url.user();
        let problem = match (doing, state) {
            (Doing::MakingSlot | Doing::ReadingSlot, PRIVILEGE) => denied(
                format!("the role `{role}` may not read the server's log"),
                format!("let it, as a superuser: ALTER ROLE \"{role}\" REPLICATION"),
            ),
            (Doing::Publishing, PRIVILEGE) => denied(
                format!("the role `{role}` may not make a publication of these tables"),
                "it must own them and may create in the database; or let their owner CREATE PUBLICATION, and name that \
                 with `publication: NAME`"
                    .to_owned(),
            ),
            (Doing::MakingSlot, LIMIT) => setting(
                "PostgreSQL has no replication slot left",
                "raise max_replication_slots and restart the server, or drop a slot that nobody reads any more",
            ),
            (Doing::MakingSlot, LOCKED) => waiting(),
            (Doing::MakingSlot, _) if error.is_too_slow() => waiting(),
            (Doing::ReadingSlot, IN_USE) => in_use(slot),
            (Doing::ReadingSlot, NOT_READY) => lost(&format!("the server does not let slot `{slot}` go on")),
            (Doing::ReadingSlot, UNDEFINED) if error_text(error).contains("publication") => no_publication(
                "a publication was not there yet when some of the changes were made, or is not there any more",
            ),
            (Doing::ReadingSlot, UNDEFINED) => lost(&format!("there is no slot `{slot}` any more")),
            _ => return self.plain(error),
        };
        problem.caused_by(error)
    }

    fn plain(&self, error: &Error) -> Problem {
        let (code, exit, message) = match error.trouble() {
            Trouble::Away => ("source.unreachable", ExitCode::Unavailable, "does not answer"),
            Trouble::Denied | Trouble::Tls | Trouble::Setting | Trouble::NoDatabase => {
                ("source.denied", ExitCode::Denied, "does not let us read")
            }
            Trouble::ReadOnly | Trouble::Data | Trouble::Statement => {
                ("source.failed", ExitCode::Failed, "refuses what it was asked")
            }
        };
        Problem::new(code, exit, format!("PostgreSQL at {} {message}", self.access.url)).caused_by(error)
    }
}

fn error_text(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

fn denied(message: String, hint: String) -> Problem {
    Problem::new("source.replication_denied", ExitCode::Denied, message).hint(hint)
}

fn setting(message: &str, hint: &str) -> Problem {
    Problem::new("source.replication_setting", ExitCode::Conflict, message).hint(hint)
}

/// The log does not say enough.
pub(crate) fn wal_level(level: &str) -> Problem {
    setting(
        &format!("PostgreSQL does not log changes so that they can be read: wal_level is `{level}`"),
        "set it and restart the server: ALTER SYSTEM SET wal_level = 'logical'",
    )
}

fn waiting() -> Problem {
    Problem::new(
        "source.slot_waits",
        ExitCode::Unavailable,
        "the slot cannot begin before every transaction that is open now has ended",
    )
    .hint("see which: SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY 2")
}

fn in_use(slot: &str) -> Problem {
    Problem::new("source.slot_in_use", ExitCode::Unavailable, format!("somebody else reads slot `{slot}`"))
        .hint(format!("see who: SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'"))
}

/// The slot is of another kind, or of another database.
pub(crate) fn foreign(slot: &str) -> Problem {
    Problem::new(
        "source.slot_in_use",
        ExitCode::Conflict,
        format!("slot `{slot}` belongs to another database or another plugin"),
    )
    .hint(format!("was `url` changed? Else drop it: SELECT pg_drop_replication_slot('{slot}')"))
}

/// Changes are gone for good.
pub(crate) fn lost(what: &str) -> Problem {
    Problem::new(
        "source.changes_lost",
        ExitCode::Conflict,
        format!("{what}: changes since the last ones that landed are lost"),
    )
    .hint("delete the source and declare it anew: it begins with the changes from then on. Rows as they are now can be read by a Catalog")
}

/// The publication cannot be used.
pub(crate) fn no_publication(what: &str) -> Problem {
    Problem::new("source.publication", ExitCode::Conflict, what)
        .hint("a publication must be there before the source is made: delete the source and declare it anew")
}

/// Rows of these tables cannot be told apart.
pub(crate) fn no_identity(tables: &[String]) -> Problem {
    let list = tables.join(", ");
    let message = format!("updates and deletes cannot be published of {list}: nothing tells the rows apart");
    Problem::new("source.identity", ExitCode::Conflict, message).hint(
        "give each a primary key, or ALTER TABLE … REPLICA IDENTITY FULL: as they are, the server would refuse to update them",
    )
}
