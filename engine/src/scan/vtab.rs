//! The table function over a [`Source`].
//!
//! DuckDB calls it from as many threads as there are units (at most its own). A thread takes a half-emitted batch
//! from the pool or the next unit, emits one vector of rows, and puts the batch back: no state belongs to a thread.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aap_types::BatchId;
use arrow_array::ArrayRef;
use arrow_ipc::reader::StreamReader;
use arrow_schema::DataType;
use duckdb::Connection;
use duckdb::core::{DataChunkHandle, LogicalTypeHandle, LogicalTypeId};
use duckdb::vtab::{BindInfo, InitInfo, TableFunctionInfo, VTab};

use super::source::{self, Layout, Source, System, Unit};
use super::vector;

/// Its name. Queries cannot call it; views of ours do.
pub(crate) const FUNCTION: &str = "aap_scan";
/// Rows of a DuckDB vector.
const VECTOR_ROWS: usize = 2048;
/// Bytes of a chunk, about: a line may have a megabyte, and two thousand of them do not fit into a query's memory.
const CHUNK_BYTES: usize = 8 << 20;

/// Makes the sources scannable as `aap_scan(index)`.
pub(crate) fn register(connection: &Connection, sources: Vec<Arc<Source>>) -> duckdb::Result<()> {
    connection.register_table_function_with_extra_info::<Scan, _>(FUNCTION, &Arc::new(sources))
}

struct Scan;

impl VTab for Scan {
    type BindData = Arc<Source>;
    type InitData = Progress;

    fn bind(bind: &BindInfo) -> Result<Self::BindData, Box<dyn Error>> {
        let index = usize::try_from(bind.get_parameter(0).to_int64())?;
        let sources = bind.get_extra_info::<Arc<Vec<Arc<Source>>>>();
        // SAFETY: the pointer is to the value given at registration, which lives as long as the function.
        #[expect(unsafe_code, reason = "the crate hands extra info out as a raw pointer")]
        let source = unsafe { &*sources }.get(index).cloned().ok_or("there is no such source")?;
        for column in &source.columns {
            let logical = duckdb::vtab::to_duckdb_logical_type(&column.data_type)?;
            bind.add_result_column(&column.name, logical);
        }
        bind.set_cardinality(source.rows, source.rows > 0);
        Ok(source)
    }

    fn init(init: &InitInfo) -> Result<Self::InitData, Box<dyn Error>> {
        let source = init.get_bind_data::<Arc<Source>>();
        // SAFETY: the pointer is to what `bind` returned, which outlives the scan.
        #[expect(unsafe_code, reason = "the crate hands bind data out as a raw pointer")]
        let source = unsafe { &*source }.clone();
        // An index beyond the columns is how DuckDB says that it wants rows and no column.
        let projection: Vec<Option<usize>> = init
            .get_column_indices()
            .into_iter()
            .map(|index| usize::try_from(index).ok().filter(|index| *index < source.columns.len()))
            .collect();
        init.set_max_threads(source.units.len().max(1) as u64);
        Ok(Progress { source, projection, next: AtomicUsize::new(0), pool: Mutex::new(vec![]) })
    }

    fn func(info: &TableFunctionInfo<Self>, output: &mut DataChunkHandle) -> Result<(), Box<dyn Error>> {
        let progress = info.get_init_data();
        match progress.take()? {
            Some(mut part) => {
                let rows = part.emit(&progress.projection, &progress.source, output)?;
                output.set_len(rows);
                progress.put_back(part);
            }
            None => output.set_len(0),
        }
        Ok(())
    }

    fn supports_pushdown() -> bool {
        true
    }

    fn parameters() -> Option<Vec<LogicalTypeHandle>> {
        Some(vec![LogicalTypeHandle::from(LogicalTypeId::Bigint)])
    }
}

/// One scan, shared by its threads.
struct Progress {
    source: Arc<Source>,
    /// Columns of the source, in the order of the output.
    projection: Vec<Option<usize>>,
    next: AtomicUsize,
    pool: Mutex<Vec<Part>>,
}

/// A decoded batch on its way out.
struct Part {
    /// Set for frames: what the system columns say.
    id: Option<BatchId>,
    /// For each column of the output, its values. None: a system column, or missing here.
    arrays: Vec<Option<ArrayRef>>,
    rows: usize,
    emitted: usize,
    /// What follows in the same file.
    rest: Option<Rest>,
}

struct Rest {
    reader: StreamReader<BufReader<File>>,
    layout: Arc<Layout>,
}

impl Progress {
    /// The next batch with rows left.
    fn take(&self) -> Result<Option<Part>, Box<dyn Error>> {
        if let Some(part) = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            if part.emitted < part.rows {
                return Ok(Some(part));
            }
            if let Some(rest) = part.rest
                && let Some(part) = self.next_of_file(rest)?
            {
                return Ok(Some(part));
            }
        }
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(unit) = self.source.units.get(index) else { return Ok(None) };
            if let Some(part) = self.open(unit)? {
                return Ok(Some(part));
            }
        }
    }

    fn put_back(&self, part: Part) {
        if part.emitted < part.rows || part.rest.is_some() {
            self.pool.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        }
    }

    fn open(&self, unit: &Unit) -> Result<Option<Part>, Box<dyn Error>> {
        match unit {
            Unit::Frame { scanner, frame, schema } => {
                let wanted = self.wanted(schema);
                let rows = frame.rows as usize;
                let id = Some(frame.id.clone());
                if wanted.is_empty() {
                    let arrays = vec![None; self.projection.len()];
                    return Ok(Some(Part { id, arrays, rows, emitted: 0, rest: None }));
                }
                let Some(frame_schema) = &schema.frame else { return Ok(None) };
                let indexes: Vec<usize> = wanted.iter().map(|(_, index, _)| *index).collect();
                let decoded = scanner
                    .payload(frame)
                    .and_then(|payload| aap_buffer::decode(frame_schema, &payload, Some(&indexes)));
                let batch = match decoded {
                    Ok(batch) => batch,
                    Err(error) => {
                        self.source.damage.report(format!("{}: {error}", frame.id));
                        return Ok(None);
                    }
                };
                let casts: Vec<(usize, &DataType)> =
                    wanted.iter().enumerate().map(|(at, (_, _, data_type))| (at, *data_type)).collect();
                let arrays = self.placed(&wanted, source::cast_batch(&batch, &casts)?);
                Ok(Some(Part { id, arrays, rows: batch.num_rows(), emitted: 0, rest: None }))
            }
            Unit::Ipc { path, schema } => {
                let reader = source::open_ipc(path)?;
                self.next_of_file(Rest { reader, layout: schema.clone() })
            }
        }
    }

    fn next_of_file(&self, mut rest: Rest) -> Result<Option<Part>, Box<dyn Error>> {
        loop {
            let Some(batch) = rest.reader.next() else { return Ok(None) };
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            let wanted = self.wanted(&rest.layout);
            let casts: Vec<(usize, &DataType)> =
                wanted.iter().map(|(_, index, data_type)| (*index, *data_type)).collect();
            let arrays = self.placed(&wanted, source::cast_batch(&batch, &casts)?);
            return Ok(Some(Part { id: None, arrays, rows: batch.num_rows(), emitted: 0, rest: Some(rest) }));
        }
    }

    /// Columns of the output that this layout stores: (place in the output, index in the layout, type).
    fn wanted(&self, layout: &Layout) -> Vec<(usize, usize, &DataType)> {
        let stored = |(place, column): (usize, &Option<usize>)| {
            let column = (*column)?;
            Some((place, layout.positions[column]?, &self.source.columns[column].data_type))
        };
        self.projection.iter().enumerate().filter_map(stored).collect()
    }

    fn placed(&self, wanted: &[(usize, usize, &DataType)], arrays: Vec<ArrayRef>) -> Vec<Option<ArrayRef>> {
        let mut placed = vec![None; self.projection.len()];
        for ((place, _, _), array) in wanted.iter().zip(arrays) {
            placed[*place] = Some(array);
        }
        placed
    }
}

impl Part {
    /// Rows that keep a chunk small where rows are wide.
    fn rows_of_a_chunk(&self) -> usize {
        let bytes: usize = self.arrays.iter().flatten().map(|array| array.get_buffer_memory_size()).sum();
        (CHUNK_BYTES * self.rows.max(1) / bytes.max(1)).max(1)
    }

    /// Fills one chunk.
    fn emit(
        &mut self,
        projection: &[Option<usize>],
        source: &Source,
        output: &mut DataChunkHandle,
    ) -> Result<usize, Box<dyn Error>> {
        let rows = (self.rows - self.emitted).min(VECTOR_ROWS).min(self.rows_of_a_chunk());
        for (place, column) in projection.iter().enumerate() {
            let system = column.and_then(|column| source.columns[column].system);
            match (&self.arrays[place], system, &self.id) {
                (Some(array), _, _) => vector::write(output, place, array.as_ref(), self.emitted, rows)?,
                (None, Some(system), Some(id)) => {
                    write_system(output, place, system, id, self.emitted, rows);
                }
                _ => vector::write_null(output, place),
            }
        }
        self.emitted += rows;
        Ok(rows)
    }
}

fn write_system(
    output: &DataChunkHandle,
    place: usize,
    system: System,
    id: &BatchId,
    first: usize,
    rows: usize,
) {
    match system {
        System::Node => vector::write_constant_text(output, place, id.key.node.as_str()),
        System::Epoch => vector::write_constant_u64(output, place, id.key.epoch.0),
        System::Sequence => vector::write_constant_u64(output, place, id.sequence.0),
        System::Row => vector::write_count(output, place, first as u64, rows),
    }
}
