//! What the source has on the server: a slot, which keeps the log until it was read, and a publication, which says of which tables.
//!
//! The publication is made first: changes that are older than it cannot be decoded with it. Its comment says that the slot was
//! made, so that a slot that is gone is never taken for one that is still to be made.

use aap_types::Problem;

use super::problem::{Doing, foreign, lost, no_identity, no_publication, wal_level};
use crate::connection::{Error, Session};
use crate::names::{literal, quoted};
use crate::source::{ChangesSource, Publish, shape};

/// Digits of the source's identity in the names.
const UID_DIGITS: usize = 16;
/// What a publication of ours says once it has a slot.
const COMMENT: &str = "its slot was made";
/// The plugin that every server has.
const PLUGIN: &str = "pgoutput";

/// What the slot and the publication of a source are called.
pub fn slot_name(uid: &str) -> String {
    let digits = uid.chars().filter(char::is_ascii_alphanumeric).take(UID_DIGITS);
    format!("aap_{}", digits.collect::<String>().to_lowercase())
}

/// A source's things on the server, seen from a session.
pub(crate) struct Slot<'a> {
    pub(crate) source: &'a ChangesSource,
    pub(crate) name: &'a str,
    pub(crate) session: &'a Session,
}

impl Slot<'_> {
    /// Makes what is missing. `has_landed`: whether anything was read from the slot ever.
    pub(crate) async fn prepare(&self, has_landed: bool) -> Result<(), Problem> {
        let sql = format!(
            "SELECT current_setting('wal_level'), s.slot_name IS NOT NULL, s.wal_status = 'lost', \
             s.plugin::text = '{PLUGIN}' AND s.database = current_database(), \
             (SELECT obj_description(oid, 'pg_publication') FROM pg_catalog.pg_publication WHERE pubname = s1.n) \
             FROM (SELECT {}::name AS n) s1 LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = s1.n",
            literal(self.name)
        );
        let rows = self.query("look at the slot", &sql).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (level, is_there): (String, bool) = (row.get(0), row.get(1));
        let (is_lost, is_ours): (Option<bool>, Option<bool>) = (row.get(2), row.get(3));
        let comment: Option<String> = row.get(4);
        if level != "logical" {
            return Err(wal_level(&level));
        }
        if is_lost == Some(true) {
            let what = format!(
                "the server has removed what slot `{}` still needed (max_slot_wal_keep_size)",
                self.name
            );
            return Err(lost(&what));
        }
        if is_there && is_ours != Some(true) {
            return Err(foreign(self.name));
        }
        if !is_there && (has_landed || comment.as_deref() == Some(COMMENT)) {
            return Err(lost(&format!("there is no slot `{}` any more", self.name)));
        }
        match &self.source.publish {
            Publish::Tables(tables) => self.publish(tables, is_there).await?,
            Publish::Publication(name) => self.check_publication(name).await?,
        }
        if !is_there {
            self.make().await?;
        }
        if matches!(self.source.publish, Publish::Tables(_)) && comment.as_deref() != Some(COMMENT) {
            let sql = format!("COMMENT ON PUBLICATION {} IS {}", quoted(self.name), literal(COMMENT));
            self.batch("note the slot", &sql).await?;
        }
        Ok(())
    }

    /// Makes our publication of these tables, or changes it to them.
    async fn publish(&self, tables: &[String], has_slot: bool) -> Result<(), Problem> {
        let list: Vec<String> = tables.iter().map(|table| literal(table)).collect();
        let sql = format!(
            "SELECT t.n, to_regclass(t.n)::oid::bigint FROM unnest(ARRAY[{}]::text[]) t (n)",
            list.join(", ")
        );
        let mut wanted: Vec<i64> = vec![];
        for row in self.query("look for the tables", &sql).await? {
            let (table, oid): (String, Option<i64>) = (row.get(0), row.get(1));
            let missing = || shape(format!("there is no table {table}"), "make it, or correct `tables`");
            wanted.push(oid.ok_or_else(missing)?);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let oids: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        self.check_identity(&format!("ARRAY[{}]::oid[]", oids.join(", "))).await?;
        let sql = format!(
            "SELECT ARRAY(SELECT r.prrelid::bigint FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid ORDER BY 1) \
             FROM pg_catalog.pg_publication p WHERE p.pubname = {}",
            literal(self.name)
        );
        let known =
            self.query("look at the publication", &sql).await?.first().map(|row| row.get::<_, Vec<i64>>(0));
        let (name, tables) = (quoted(self.name), tables.join(", "));
        let sql = match known {
            Some(known) if known == wanted => return Ok(()),
            Some(_) => format!("ALTER PUBLICATION {name} SET TABLE {tables}"),
            None if has_slot => {
                return Err(no_publication(
                    "the source began with another publication, or its own was dropped",
                ));
            }
            None => {
                format!(
                    "CREATE PUBLICATION {name} FOR TABLE {tables} WITH (publish_via_partition_root = true)"
                )
            }
        };
        self.batch("make a publication", &sql).await
    }

    async fn check_publication(&self, name: &str) -> Result<(), Problem> {
        let sql = format!(
            "SELECT pubupdate OR pubdelete, ARRAY(SELECT c.oid FROM pg_catalog.pg_publication_tables t \
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
             WHERE t.pubname = p.pubname)::text FROM pg_catalog.pg_publication p WHERE pubname = {}",
            literal(name)
        );
        let rows = self.query("look at the publication", &sql).await?;
        let Some(row) = rows.first() else {
            return Err(no_publication(&format!("there is no publication `{name}`")));
        };
        match (row.get::<_, bool>(0), row.get::<_, String>(1)) {
            (true, tables) => self.check_identity(&format!("{}::oid[]", literal(&tables))).await,
            (false, _) => Ok(()),
        }
    }

    /// Refuses tables whose rows cannot be told apart: once published, the server would refuse to update them.
    async fn check_identity(&self, oids: &str) -> Result<(), Problem> {
        let sql = format!(
            "SELECT DISTINCT c.oid::regclass::text FROM unnest({oids}) t (oid) \
             CROSS JOIN LATERAL (SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid)) p (oid) \
             JOIN pg_catalog.pg_class c ON c.oid = p.oid \
             WHERE c.relreplident = 'n' OR c.relreplident = 'd' \
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) ORDER BY 1"
        );
        let rows = self.query("look at the keys of the tables", &sql).await?;
        let bare: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if bare.is_empty() { Ok(()) } else { Err(no_identity(&bare)) }
    }

    async fn make(&self) -> Result<(), Problem> {
        let failed = |error: Error| self.source.problem(Doing::MakingSlot, self.name, &error);
        // It waits for the transactions that are open. The deadlines of a transaction end that on the server, too.
        self.session.begin_read_only().await.map_err(failed)?;
        let name = literal(self.name);
        let sql = format!("SELECT pg_create_logical_replication_slot({name}, '{PLUGIN}')");
        self.session.query("make the slot", &sql, &[]).await.map_err(failed)?;
        self.session.commit().await.map_err(failed)
    }

    async fn query(&self, doing: &'static str, sql: &str) -> Result<Vec<tokio_postgres::Row>, Problem> {
        let rows = self.session.query(doing, sql, &[]).await;
        rows.map_err(|error| self.source.problem(Doing::Looking, self.name, &error))
    }

    async fn batch(&self, doing: &'static str, sql: &str) -> Result<(), Problem> {
        let failed = |error: Error| self.source.problem(Doing::Publishing, self.name, &error);
        self.session.begin().await.map_err(failed)?;
        self.session.batch(doing, sql).await.map_err(failed)?;
        self.session.commit().await.map_err(failed)
    }
}
