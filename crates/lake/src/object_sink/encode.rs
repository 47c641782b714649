//! Slices of one stream as one Parquet file, with the columns that the lake would show.

use aap_sinks::Slice;

use super::footer::Footer;
use crate::rows::{Chunk, Part};
use crate::unite::United;
use crate::{Error, parquet_file};

/// The file. Its rows come slice by slice, each in the order in which it was sealed. Blocking.
///
/// # Errors
/// Arrow or Parquet does not take the rows.
pub(super) fn file(slices: &[Slice], footer: &Footer) -> Result<Vec<u8>, Error> {
    let mut united = United::over(&[]);
    slices.iter().for_each(|slice| united.add(&slice.rows.schema()));
    slices.iter().for_each(|slice| united.try_batch(&slice.rows));
    let mut parts: Vec<Part> = slices.iter().map(|slice| Part::new(None, slice.rows.clone())).collect();
    parts.iter_mut().for_each(|part| part.place(&united));
    let schema = united.schema();
    let mut writer = parquet_file::MemoryWriter::new(schema.clone(), footer.notes())?;
    let mut chunk = Chunk::new();
    for (number, part) in parts.iter().enumerate() {
        for row in 0..part.batch.num_rows() {
            if chunk.pick(&parts, number, row, schema.fields().len()) {
                writer.write(&chunk.gather(&parts, &united, &schema)?)?;
            }
        }
    }
    if !chunk.is_empty() {
        writer.write(&chunk.gather(&parts, &united, &schema)?)?;
    }
    writer.finish()
}
