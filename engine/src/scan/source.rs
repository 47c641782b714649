//! What one table has in frames and IPC files.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::{Arc, Mutex, PoisonError};

use aap_buffer::FrameSchema;
use aap_buffer::scan::{ScannedFrame, Scanner};
use aap_sql::{TableManifest, TableNeed};
use aap_types::{ExitCode, Problem, StreamKey};
use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use camino::{Utf8Path, Utf8PathBuf};

use crate::types;

/// Most damages that are listed by name.
const DAMAGES_MAX: usize = 100;

/// Frames that could not be read and were passed over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Damage(Arc<Mutex<Vec<String>>>);

impl Damage {
    pub(crate) fn report(&self, what: String) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < DAMAGES_MAX {
            list.push(what);
        }
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What identifies a row, which readers add to a frame's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Node,
    Epoch,
    Sequence,
    Row,
}

impl System {
    pub(crate) const ALL: [(Self, &'static str, DataType); 4] = [
        (Self::Sequence, "_seq", DataType::UInt64),
        (Self::Node, "_node", DataType::Utf8),
        (Self::Epoch, "_epoch", DataType::UInt64),
        (Self::Row, "_row", DataType::UInt64),
    ];
}

/// A column of a source.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    /// Set where frames do not store it.
    pub(crate) system: Option<System>,
}

/// A unit of work.
#[derive(Debug)]
pub(crate) enum Unit {
    Frame { scanner: Arc<Scanner>, frame: Box<ScannedFrame>, schema: Arc<Layout> },
    Ipc { path: Utf8PathBuf, schema: Arc<Layout> },
}

/// A schema that occurs in a source, and where its columns stand in the source.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Absent for IPC files.
    pub(crate) frame: Option<Arc<FrameSchema>>,
    /// For each column of the source, its index in this schema.
    pub(crate) positions: Vec<Option<usize>>,
}

/// One table's frames, or one table's IPC files.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) columns: Vec<Column>,
    pub(crate) units: Vec<Unit>,
    pub(crate) rows: u64,
    pub(crate) damage: Damage,
    /// DuckDB types of columns by lower-case name, where the fields of all IPC files name theirs.
    pub(crate) named_types: HashMap<String, String>,
}

impl Source {
    /// The frames of a table. Reads headers only.
    pub(crate) fn of_frames(
        table: &TableManifest,
        need: Option<&TableNeed>,
        damage: &Damage,
    ) -> Result<Self, Problem> {
        let found = find_frames(table, damage)?;
        let mut columns = Columns::with_system();
        let mut known: HashMap<u64, Arc<FrameSchema>> = HashMap::new();
        for (_, frame, schema) in &found {
            known.entry(frame.schema).or_insert_with(|| {
                columns.add(schema.arrow());
                schema.clone()
            });
        }
        let layouts: HashMap<u64, Arc<Layout>> = known
            .into_iter()
            .map(|(fingerprint, schema)| {
                let positions = columns.positions(schema.arrow());
                (fingerprint, Arc::new(Layout { frame: Some(schema), positions }))
            })
            .collect();
        // Frames outside the time range still tell which columns the stream has.
        let wanted = |found: &Found| need.is_none_or(|need| overlaps(&found.1, need));
        let rows =
            found.iter().filter(|found| wanted(found)).map(|(_, frame, _)| u64::from(frame.rows)).sum();
        let units = found
            .into_iter()
            .filter(wanted)
            .filter_map(|(scanner, frame, _)| {
                let schema = layouts.get(&frame.schema)?.clone();
                Some(Unit::Frame { scanner, frame: Box::new(frame), schema })
            })
            .collect();
        let (columns, damage, named_types) = (columns.finish(), damage.clone(), HashMap::new());
        Ok(Self { columns, units, rows, damage, named_types })
    }

    /// The IPC files of a table. Reads their schemas.
    pub(crate) fn of_ipc(table: &TableManifest, damage: &Damage) -> Result<Self, Problem> {
        let mut columns = Columns::default();
        let mut schemas = vec![];
        for path in &table.ipc {
            let schema = open_ipc(path)?.schema();
            columns.add(&schema);
            schemas.push((path, schema));
        }
        let named_types = named_types(schemas.iter().map(|(_, schema)| schema.as_ref()));
        let units = schemas
            .into_iter()
            .map(|(path, schema)| {
                let layout = Layout { frame: None, positions: columns.positions(&schema) };
                Unit::Ipc { path: path.clone(), schema: Arc::new(layout) }
            })
            .collect();
        Ok(Self { columns: columns.finish(), units, rows: 0, damage: damage.clone(), named_types })
    }
}

type Found = (Arc<Scanner>, ScannedFrame, Arc<FrameSchema>);

fn find_frames(table: &TableManifest, damage: &Damage) -> Result<Vec<Found>, Problem> {
    let stream = table.only.as_ref().map_or(table.name.as_str(), |only| only.as_str());
    let after: HashMap<&StreamKey, u64> =
        table.after.iter().map(|(key, sequence)| (key, sequence.0)).collect();
    let mut found = vec![];
    for segment in &table.segments {
        let mut scanner = Scanner::open(segment).map_err(|error| unreadable(&segment.path, &error))?;
        let mut frames = vec![];
        for frame in scanner.by_ref() {
            match frame {
                Ok(frame) => frames.push(frame),
                Err(error) => damage.report(format!("{}: {error}", segment.path)),
            }
        }
        if scanner.damaged_bytes() > 0 {
            damage.report(format!("{}: {} damaged bytes passed over", segment.path, scanner.damaged_bytes()));
        }
        let scanner = Arc::new(scanner);
        for frame in frames {
            let wanted = !frame.is_skip
                && frame.rows > 0
                && frame.id.key.stream.as_str() == stream
                && after.get(&frame.id.key).is_none_or(|sequence| frame.id.sequence.0 > *sequence);
            if !wanted {
                continue;
            }
            match scanner.schema(frame.schema) {
                Some(schema) => found.push((scanner.clone(), frame, schema)),
                None => damage.report(format!("{}: {} has no schema", segment.path, frame.id)),
            }
        }
    }
    Ok(found)
}

fn overlaps(frame: &ScannedFrame, need: &TableNeed) -> bool {
    // Zero and zero is how a frame says that it knows no times.
    (frame.ts_min_us == 0 && frame.ts_max_us == 0)
        || (need.ts_min_us.is_none_or(|min| frame.ts_max_us >= min)
            && need.ts_max_us.is_none_or(|max| frame.ts_min_us <= max))
}

fn unreadable(path: &Utf8Path, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("query.unreadable", ExitCode::Failed, format!("cannot read `{path}`")).caused_by(error)
}

/// Opens an IPC stream file at its beginning.
pub(crate) fn open_ipc(path: &Utf8Path) -> Result<StreamReader<BufReader<File>>, Problem> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    StreamReader::try_new(BufReader::with_capacity(256 << 10, file), None)
        .map_err(|error| unreadable(path, &error))
}

/// What the schemas call the DuckDB types of their columns, united. A column that one of them leaves open is left out.
fn named_types<'a>(schemas: impl Iterator<Item = &'a Schema>) -> HashMap<String, String> {
    let mut named: HashMap<String, Option<String>> = HashMap::new();
    for (name, field) in schemas.flat_map(distinct_names) {
        let here = field.metadata().get(types::TYPE_KEY);
        named
            .entry(name.to_lowercase())
            .and_modify(|known| {
                *known = known.as_ref().zip(here).map(|(known, here)| types::unite(known, here));
            })
            .or_insert_with(|| here.cloned());
    }
    named.into_iter().filter_map(|(name, named)| Some((name, named?))).collect()
}

/// The union of schemas by name. Names differ by more than case, because SQL does not see case.
#[derive(Debug, Default)]
struct Columns {
    list: Vec<Column>,
    by_name: HashMap<String, usize>,
}

impl Columns {
    /// System columns first: the cheapest column stands where DuckDB looks for one to count.
    fn with_system() -> Self {
        let mut columns = Self::default();
        for (system, name, data_type) in System::ALL {
            columns.by_name.insert(name.to_owned(), columns.list.len());
            columns.list.push(Column { name: name.to_owned(), data_type, system: Some(system) });
        }
        columns
    }

    fn add(&mut self, schema: &SchemaRef) {
        for (name, field) in distinct_names(schema) {
            let data_type = match field.data_type() {
                DataType::Null => DataType::Null,
                kind if self.is_of_frames() => types::stored(kind),
                kind => types::scanned(kind),
            };
            match self.by_name.get(&name.to_lowercase()) {
                Some(at) if self.list[*at].system.is_some() => {}
                Some(at) => {
                    let column = &mut self.list[*at];
                    column.data_type = aap_columns::unite(&column.data_type, &data_type);
                }
                None => {
                    self.by_name.insert(name.to_lowercase(), self.list.len());
                    self.list.push(Column { name, data_type, system: None });
                }
            }
        }
    }

    fn is_of_frames(&self) -> bool {
        self.list.first().is_some_and(|first| first.system.is_some())
    }

    /// Columns in which only NULL was met are text.
    fn finish(mut self) -> Vec<Column> {
        for column in self.list.iter_mut().filter(|column| column.data_type == DataType::Null) {
            column.data_type = DataType::Utf8;
        }
        self.list
    }

    fn positions(&self, schema: &Schema) -> Vec<Option<usize>> {
        let mut positions = vec![None; self.list.len()];
        for (index, (name, _)) in distinct_names(schema).into_iter().enumerate() {
            if let Some(at) = self.by_name.get(&name.to_lowercase())
                && self.list[*at].system.is_none()
            {
                positions[*at] = Some(index);
            }
        }
        positions
    }
}

/// The fields with names that differ by more than case: a second `Level` after `level` becomes `Level_1`.
fn distinct_names(schema: &Schema) -> Vec<(String, &Field)> {
    let mut taken: HashMap<String, u32> = HashMap::new();
    let mut named = vec![];
    for field in schema.fields() {
        let mut name = field.name().replace('\0', "");
        let times = taken.entry(name.to_lowercase()).or_default();
        *times += 1;
        if *times > 1 {
            name = format!("{name}_{}", *times - 1);
        }
        named.push((name, field.as_ref()));
    }
    named
}

/// Makes `batch` of `projection` (columns of the source) from a decoded batch.
pub(crate) fn cast_batch(
    batch: &RecordBatch,
    wanted: &[(usize, &DataType)],
) -> Result<Vec<arrow_array::ArrayRef>, String> {
    wanted
        .iter()
        .map(|(index, data_type)| {
            let array = batch.column(*index);
            let same = match array.data_type() {
                // Vectors take dictionaries as they are.
                DataType::Dictionary(_, values) => {
                    **values == DataType::Utf8 && **data_type == DataType::Utf8
                }
                other => other == *data_type,
            };
            if same {
                return Ok(array.clone());
            }
            // An answer may round what has no exact form in the type of its column; only the lake must not.
            aap_columns::convert(array, data_type)
                .or_else(|_inexact| arrow_cast::cast(array, data_type))
                .map_err(|error| error.to_string())
        })
        .collect()
}
