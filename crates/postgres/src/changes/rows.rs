//! Messages of the log as groups of rows, each with the position that it ends at.
//!
//! A group is some whole transactions. One that is larger than [`TRANSACTION_BYTES_MAX`] is cut, behind any of its changes: the
//! position then says how many of them the group had, and whoever begins there again leaves them out.
//!
//! Changes of a transaction are counted in a way that depends on the log alone. An update takes two numbers, for one of a key is
//! two rows: the old key is deleted, and the row is there under the new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aap_types::{ExitCode, Problem, StreamName};
use arrow_array::builder::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use super::LogPosition;
use super::message::{Begin, Broken, Message, RelationMessage, Tuple, Value};
use super::relation::{Found, OWN, Relation};
use crate::remote::column::{EPOCH_US, Values};

/// Rows after which a group ends with the transaction: as many as a scan of the engine takes at a time, times four.
const GROUP_ROWS: usize = 8192;
/// Bytes of values after which a group ends with the transaction.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of values after which a transaction is cut: what is in memory of it, and less than the buffer takes as one group.
const TRANSACTION_BYTES_MAX: usize = 8 << 20;
/// What a value takes beside its text, and the columns that every row has.
const VALUE_BYTES: usize = 8;
const OWN_BYTES: usize = 64;

/// Rows that land in one piece.
pub(crate) struct Group {
    pub(crate) batches: Vec<(StreamName, RecordBatch)>,
    pub(crate) position: LogPosition,
}

/// The transaction that is under way.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    begin: Begin,
    /// Changes so far.
    changes: u64,
    /// So many of them have landed before.
    landed: u64,
}

/// Takes messages, makes groups.
pub(crate) struct Rows {
    stream: Option<StreamName>,
    relations: HashMap<u32, Arc<Relation>>,
    open: BTreeMap<u32, Open>,
    done: Vec<(StreamName, RecordBatch)>,
    transaction: Option<Transaction>,
    /// Behind what was taken.
    position: LogPosition,
    rows: usize,
    bytes: usize,
}

/// What a message was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Kept,
    /// Now a group should be taken.
    Full,
}

impl Rows {
    /// Behind `position`. `stream`: where all rows go.
    pub(crate) fn new(stream: Option<StreamName>, position: LogPosition) -> Self {
        let (relations, open, done, transaction) = Default::default();
        Self { stream, relations, open, done, transaction, position, rows: 0, bytes: 0 }
    }

    /// Behind what was taken.
    pub(crate) fn position(&self) -> LogPosition {
        self.position
    }

    /// Whether a table is known in this form.
    pub(crate) fn knows(&self, message: &RelationMessage) -> bool {
        self.relations.get(&message.id).is_some_and(|known| known.message == *message)
    }

    /// The following rows of a table have this form.
    pub(crate) fn set_relation(&mut self, message: RelationMessage, found: &Found) -> Result<(), Problem> {
        let id = message.id;
        self.close(id)?;
        let relation = Relation::new(message, found, self.stream.as_ref())?;
        self.relations.insert(id, Arc::new(relation));
        Ok(())
    }

    /// Takes a message; of a table's form, [`Self::set_relation`] does.
    pub(crate) fn take(&mut self, message: &Message<'_>) -> Result<Taken, Problem> {
        match message {
            Message::Begin(begin) => {
                let landed = match begin.commit_lsn.cmp(&self.position.lsn) {
                    std::cmp::Ordering::Less => u64::MAX,
                    std::cmp::Ordering::Equal => self.position.changes,
                    std::cmp::Ordering::Greater => 0,
                };
                self.transaction = Some(Transaction { begin: *begin, changes: 0, landed });
            }
            Message::Commit(commit) => {
                self.transaction = None;
                // Of one that has landed, the end is known.
                if commit.end_lsn > self.position.lsn {
                    self.position = LogPosition { lsn: commit.end_lsn, changes: 0 };
                }
                if self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
                    return Ok(Taken::Full);
                }
            }
            Message::Insert { relation, new } => self.row(*relation, "insert", new, None)?,
            Message::Delete { relation, old } => self.row(*relation, "delete", old, None)?,
            Message::Update { relation, old, new } => self.update(*relation, old.as_ref(), new)?,
            Message::Truncate { relations } => {
                for relation in relations {
                    let nothing = vec![Value::Null; self.relation(*relation)?.columns.len()];
                    self.row(*relation, "truncate", &nothing, None)?;
                }
            }
            Message::Relation(_) | Message::Other => {}
        }
        Ok(self.cut())
    }

    /// Ends a group within a transaction that is too large.
    fn cut(&mut self) -> Taken {
        match self.transaction {
            Some(transaction) if self.bytes >= TRANSACTION_BYTES_MAX => {
                self.position =
                    LogPosition { lsn: transaction.begin.commit_lsn, changes: transaction.changes };
                Taken::Full
            }
            _ => Taken::Kept,
        }
    }

    /// What has been gathered, if anything.
    pub(crate) fn group(&mut self) -> Result<Option<Group>, Problem> {
        let open: Vec<u32> = self.open.keys().copied().collect();
        for relation in open {
            self.close(relation)?;
        }
        (self.rows, self.bytes) = (0, 0);
        let batches = std::mem::take(&mut self.done);
        if batches.is_empty() {
            return Ok(None);
        }
        Ok(Some(Group { batches, position: self.position }))
    }

    fn update(&mut self, relation: u32, old: Option<&Tuple<'_>>, new: &Tuple<'_>) -> Result<(), Problem> {
        let form = self.relation(relation)?;
        let is_moved = |old: &&Tuple<'_>| {
            let mut values = old.iter().zip(new).zip(&form.keys);
            values.any(|((old, new), is_key)| *is_key && *new != Value::Unchanged && old != new)
        };
        match old.filter(is_moved) {
            Some(old) => self.row(relation, "delete", old, None)?,
            // Its number stays free.
            None => self.transaction()?.changes += 1,
        }
        self.row(relation, "update", new, old)
    }

    /// Adds a row, unless it landed before.
    fn row(&mut self, id: u32, op: &str, values: &Tuple<'_>, old: Option<&Tuple<'_>>) -> Result<(), Problem> {
        let relation = self.relation(id)?;
        let transaction = self.transaction()?;
        transaction.changes += 1;
        let transaction = *transaction;
        if transaction.changes <= transaction.landed {
            return Ok(());
        }
        let open = self.open.entry(id).or_insert_with(|| Open::new(relation));
        self.bytes += open.push(op, transaction, values, old)?;
        self.rows += 1;
        Ok(())
    }

    fn transaction(&mut self) -> Result<&mut Transaction, Problem> {
        self.transaction.as_mut().ok_or_else(|| broken(&Broken))
    }

    fn relation(&self, id: u32) -> Result<Arc<Relation>, Problem> {
        self.relations.get(&id).cloned().ok_or_else(|| broken(&Broken))
    }

    /// Ends the batch of a table.
    fn close(&mut self, id: u32) -> Result<(), Problem> {
        if let Some(open) = self.open.remove(&id) {
            self.done.push(open.finish()?);
        }
        Ok(())
    }
}

/// A batch that grows.
struct Open {
    relation: Arc<Relation>,
    values: Vec<Values>,
    times: TimestampMicrosecondBuilder,
    ops: StringBuilder,
    lsns: Int64Builder,
    changes: Int64Builder,
    unchanged: StringBuilder,
}

impl Open {
    fn new(relation: Arc<Relation>) -> Self {
        let values = relation.columns.iter().map(|column| Values::of(&column.kind)).collect();
        let times = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let (ops, lsns, changes, unchanged) = Default::default();
        Self { relation, values, times, ops, lsns, changes, unchanged }
    }

    /// Adds a row; the bytes that it has.
    fn push(
        &mut self,
        op: &str,
        transaction: Transaction,
        row: &Tuple<'_>,
        old: Option<&Tuple<'_>>,
    ) -> Result<usize, Problem> {
        if row.len() != self.values.len() {
            return Err(broken(&Broken));
        }
        let (mut bytes, mut unchanged) = (OWN_BYTES + VALUE_BYTES * row.len(), vec![]);
        for (at, (values, value)) in self.values.iter_mut().zip(row).enumerate() {
            let known = match (value, old.and_then(|old| old.get(at))) {
                // The whole old row was sent, and has it.
                (Value::Unchanged, Some(Value::Text(text))) => Value::Text(text),
                (value, _) => *value,
            };
            let column = &self.relation.message.columns[at].name;
            match known {
                Value::Null => values.push_null(),
                Value::Unchanged => {
                    values.push_null();
                    unchanged.push(column.as_str());
                }
                Value::Text(text) => {
                    let text = if self.relation.padded[at] { without_blanks(text) } else { text };
                    bytes += text.len();
                    let pushed = values.push_text(text);
                    pushed.ok_or_else(|| no_value(&self.relation.name, column))?;
                }
            }
        }
        self.times.append_value(transaction.begin.committed_us.saturating_add(EPOCH_US));
        self.ops.append_value(op);
        self.lsns.append_value(signed(transaction.begin.commit_lsn)?);
        self.changes.append_value(signed(transaction.changes)?);
        let unchanged = (!unchanged.is_empty()).then(|| serde_json::json!(unchanged).to_string());
        self.unchanged.append_option(unchanged);
        Ok(bytes)
    }

    fn finish(mut self) -> Result<(StreamName, RecordBatch), Problem> {
        let times: ArrayRef = Arc::new(self.times.finish());
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let tables = vec![self.relation.name.as_str(); times.len()];
        let [ts, op, table, lsn, change, commit_ts, unchanged] = OWN;
        let mut fields = vec![Field::new(ts, time.clone(), true)];
        fields.extend(self.relation.columns.iter().map(|column| column.field()));
        let mut arrays = vec![times.clone()];
        arrays.extend(self.values.iter_mut().map(Values::finish));
        let own: [(&str, DataType, ArrayRef); 6] = [
            (op, DataType::Utf8, Arc::new(self.ops.finish())),
            (table, DataType::Utf8, Arc::new(arrow_array::StringArray::from(tables))),
            (lsn, DataType::Int64, Arc::new(self.lsns.finish())),
            (change, DataType::Int64, Arc::new(self.changes.finish())),
            (commit_ts, time, times),
            (unchanged, DataType::Utf8, Arc::new(self.unchanged.finish())),
        ];
        for (name, kind, array) in own {
            fields.push(Field::new(name, kind, true));
            arrays.push(array);
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
        Ok((self.relation.stream.clone(), batch.map_err(|error| broken(&error))?))
    }
}

/// A value of `char(n)` less what fills it up, as its cast to text says.
fn without_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    &text[..end]
}

fn signed(number: u64) -> Result<i64, Problem> {
    i64::try_from(number).map_err(|error| broken(&error))
}

/// What the server sent is not what was agreed on.
pub(crate) fn broken(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("source.failed", ExitCode::Failed, "PostgreSQL sent changes that cannot be understood")
        .caused_by(error)
}

fn no_value(table: &str, column: &str) -> Problem {
    let message = format!("PostgreSQL sent a value of `{column}` of {table} that is none of its type");
    Problem::new("source.failed", ExitCode::Failed, message)
}
