//! Leases, and the fence of the lake.
//!
//! ```text
//!  renew          UPDATE                              waits for nobody but who is taking the row
//!  take over      SELECT … FOR UPDATE, then the time  waits for renewals and for commits under the lease
//!  commit, fenced SELECT … FOR KEY SHARE, then time   keeps whoever takes over waiting, and renewals not
//! ```
//! The time is the server's, read by a statement of its own after the lock was had: the waiting may have lasted longer than the lease.
//!
//! A lease lasts 15 seconds and is renewed every 3. Leases have a connection of their own, without the lock of writers, so a
//! renewal waits behind no commit and no query of the same process; and [`TRY_MAX`] bounds what a server that hangs can cost.
//!
//! What the server forgets is forgotten here: after a failover to a standby that lagged behind, a token may come again. Standbys that
//! may take over have to be synchronous.

use std::sync::PoisonError;
use std::time::Duration;

use aap_store::{Acquired, Error, Fence, Lease, LeaseStore};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::lake::{signed, unsigned};
use super::line::Failure;
use super::{PostgresStore, choose};
use crate::connection::{Error as ServerError, Limits, Session};

/// Longest time for one try, with connecting where that is needed. A line that broke unseen costs two, so whoever renews knows
/// of the trouble at most 3 + 2 × 4 seconds after the renewal before: while it has the lease, and with time to stop.
const TRY_MAX: Duration = Duration::from_secs(4);
/// The server ends within a try what was asked in it, so that nothing of it holds up the next one. A lock that is not had within
/// a second is held by a commit under the lease: whoever takes over asks again, and other leases on the same connection go on.
const LIMITS: Limits = Limits {
    connect: TRY_MAX,
    statement: Duration::from_secs(3),
    lock: Duration::from_secs(1),
    idle: Duration::from_secs(3),
};

/// How a lease reads, with what is left of it in microseconds.
const LOOK: &str = "SELECT name, holder, detail, token, \
     greatest(extract(epoch FROM expires_at - clock_timestamp()) * 1000000, 0)::bigint FROM leases";

impl PostgresStore {
    /// One transaction on the connection of leases. What goes wrong is tried once more on a new connection, whatever became of it:
    /// everything here can be done twice.
    fn hold<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut line = self.lease_line.lock().unwrap_or_else(PoisonError::into_inner);
        let (runtime, session, _) = line.parts()?;
        runtime.block_on(async {
            let mut is_first = session.is_some();
            loop {
                let tried = tokio::time::timeout(TRY_MAX, self.try_once(session, &work)).await;
                let late = |_elapsed| Err(Failure::Server(ServerError::Late { doing, limit: TRY_MAX }));
                match tried.unwrap_or_else(late) {
                    Ok(value) => return Ok(value),
                    Err(failure) => {
                        // Whatever is open there ends with the connection.
                        *session = None;
                        if !(is_first && failure.is_lost_line()) {
                            return Err(failure.during(doing));
                        }
                        is_first = false;
                    }
                }
            }
        })
    }

    async fn try_once<T>(
        &self,
        session: &mut Option<Session>,
        work: &impl AsyncFn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if session.as_ref().is_some_and(Session::is_closed) {
            *session = None;
        }
        let open = match session {
            Some(open) => open,
            None => session.insert(self.access.connect_within(LIMITS).await?),
        };
        open.begin().await?;
        choose(open, &self.schema).await?;
        let value = work(open).await?;
        open.commit().await?;
        Ok(value)
    }
}

impl LeaseStore for PostgresStore {
    fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        detail: &str,
        ttl: Duration,
    ) -> Result<Acquired, Error> {
        self.hold("take a lease", async |s: &Session| acquire(s, name, holder, detail, ttl).await)
    }

    fn renew_leases(
        &self,
        holder: &str,
        leases: &[(String, u64)],
        ttl: Duration,
    ) -> Result<Vec<String>, Error> {
        self.hold("renew leases", async |s: &Session| renew(s, holder, leases, ttl).await)
    }

    fn release_leases(&self, holder: &str, leases: &[(String, u64)]) -> Result<(), Error> {
        self.hold("give leases up", async |s: &Session| release(s, holder, leases).await)
    }

    fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.hold("list leases", async |s: &Session| {
            let sql = format!("{LOOK} WHERE holder IS NOT NULL ORDER BY name");
            Ok(s.query("read leases", &sql, &[]).await?.iter().map(lease).collect())
        })
    }
}

fn lease(row: &Row) -> Lease {
    Lease {
        name: row.get(0),
        holder: row.get::<_, Option<String>>(1).unwrap_or_default(),
        detail: row.get(2),
        token: unsigned(row, 3),
        left: Duration::from_micros(unsigned(row, 4)),
    }
}

async fn look(s: &Session, name: &str) -> Result<Option<Lease>, Failure> {
    let sql = format!("{LOOK} WHERE name = $1");
    Ok(s.query("look up a lease", &sql, &[(&name, Type::TEXT)]).await?.first().map(lease))
}

fn micros(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)
}

async fn acquire(
    s: &Session,
    name: &str,
    holder: &str,
    detail: &str,
    ttl: Duration,
) -> Result<Acquired, Failure> {
    // Most of those who ask find that another one has it, and must not lock the row of whoever renews.
    let seen = look(s, name).await?;
    if let Some(seen) = &seen
        && seen.holder != holder
        && !seen.holder.is_empty()
        && !seen.left.is_zero()
    {
        return Ok(Acquired::Held(seen.clone()));
    }
    let is_own = seen.as_ref().is_some_and(|seen| seen.holder == holder);
    // The row of a lease of one's own needs no lock that a commit under it is in the way of.
    if is_own && let Some(own) = take(s, name, holder, detail, ttl, "holder = $2").await? {
        return Ok(Acquired::Taken(own));
    }
    let seen = match seen {
        Some(seen) => seen,
        None => make(s, name).await?,
    };
    if !lock(s, name).await? {
        return Ok(Acquired::Held(seen));
    }
    let may = "(holder IS NULL OR holder = $2 OR expires_at <= clock_timestamp())";
    match take(s, name, holder, detail, ttl, may).await? {
        Some(taken) => Ok(Acquired::Taken(taken)),
        None => Ok(Acquired::Held(look(s, name).await?.unwrap_or(seen))),
    }
}

/// A lease that nobody ever had.
async fn make(s: &Session, name: &str) -> Result<Lease, Failure> {
    let sql = "INSERT INTO leases VALUES ($1, NULL, '', 0, clock_timestamp()) ON CONFLICT (name) DO NOTHING";
    s.execute("make a lease", sql, &[(&name, Type::TEXT)]).await?;
    let (name, holder, detail) = (name.to_owned(), String::new(), String::new());
    Ok(Lease { name, holder, detail, token: 0, left: Duration::ZERO })
}

/// Locks the row against everybody. Whether that could be had.
async fn lock(s: &Session, name: &str) -> Result<bool, Failure> {
    s.batch("prepare to wait for a lease", "SAVEPOINT before_lock").await?;
    let sql = "SELECT FROM leases WHERE name = $1 FOR UPDATE";
    match s.query("wait for a lease", sql, &[(&name, Type::TEXT)]).await {
        Ok(_) => Ok(true),
        Err(error) if error.state() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            s.batch("wait no longer", "ROLLBACK TO SAVEPOINT before_lock").await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes the holder down if the row is as `may` says; the token grows where it is another one.
async fn take(
    s: &Session,
    name: &str,
    holder: &str,
    detail: &str,
    ttl: Duration,
    may: &str,
) -> Result<Option<Lease>, Failure> {
    let sql = format!(
        "UPDATE leases SET holder = $2, detail = $3, token = CASE WHEN holder = $2 THEN token ELSE token + 1 END, \
         expires_at = clock_timestamp() + $4 * interval '1 microsecond' WHERE name = $1 AND {may} RETURNING token"
    );
    let values = [
        (&name as _, Type::TEXT),
        (&holder as _, Type::TEXT),
        (&detail as _, Type::TEXT),
        (&micros(ttl) as _, Type::INT8),
    ];
    let rows = s.query("take a lease", &sql, &values).await?;
    let (name, holder, detail) = (name.to_owned(), holder.to_owned(), detail.to_owned());
    Ok(rows.first().map(|row| Lease { name, holder, detail, token: unsigned(row, 0), left: ttl }))
}

/// Where a row of `leases AS l` is one of the holder ($1), by name and token ($2, $3).
const IS_OF_HOLDER: &str = "FROM unnest($2::text[], $3::bigint[]) AS mine (name, token) \
     WHERE l.name = mine.name COLLATE \"C\" AND l.token = mine.token AND l.holder = $1";

async fn renew(
    s: &Session,
    holder: &str,
    leases: &[(String, u64)],
    ttl: Duration,
) -> Result<Vec<String>, Failure> {
    let sql = format!(
        "UPDATE leases AS l SET expires_at = clock_timestamp() + $4 * interval '1 microsecond' {IS_OF_HOLDER} \
         RETURNING l.name"
    );
    let (names, tokens) = columns(leases);
    let values = [
        (&holder as _, Type::TEXT),
        (&names as _, Type::TEXT_ARRAY),
        (&tokens as _, Type::INT8_ARRAY),
        (&micros(ttl) as _, Type::INT8),
    ];
    let rows = s.query("renew leases", &sql, &values).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn release(s: &Session, holder: &str, leases: &[(String, u64)]) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE leases AS l SET holder = NULL, detail = '', expires_at = clock_timestamp() {IS_OF_HOLDER}"
    );
    let (names, tokens) = columns(leases);
    let values =
        [(&holder as _, Type::TEXT), (&names as _, Type::TEXT_ARRAY), (&tokens as _, Type::INT8_ARRAY)];
    s.execute("give leases up", &sql, &values).await?;
    Ok(())
}

fn columns(leases: &[(String, u64)]) -> (Vec<&str>, Vec<i64>) {
    leases.iter().map(|(name, token)| (name.as_str(), signed(*token))).unzip()
}

/// Refuses unless the lease of the fence has its token and has not expired; else nobody takes it over before this transaction ends.
pub(super) async fn check_fence(s: &Session, fence: &Fence) -> Result<(), Failure> {
    let sql = "SELECT FROM leases WHERE name = $1 FOR KEY SHARE";
    s.query("lock the lease", sql, &[(&fence.lease, Type::TEXT)]).await?;
    let sql = "SELECT FROM leases WHERE name = $1 AND token = $2 AND holder IS NOT NULL AND expires_at > clock_timestamp()";
    let values = [(&fence.lease as _, Type::TEXT), (&signed(fence.token) as _, Type::INT8)];
    match s.query("check the lease", sql, &values).await?.is_empty() {
        false => Ok(()),
        true => Err(Failure::Refused(Error::Fenced { lease: fence.lease.clone() })),
    }
}
