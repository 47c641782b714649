//! Records of a topic as batches of streams.

use std::collections::HashMap;
use std::sync::Arc;

use aap_buffer::{EncodedBatch, Encoder, FrameSchema};
use aap_decode::{BadRow, Context, Decoder, DecoderConfig, Format, dead_letters};
use aap_kafka::{Chunk, KafkaSourceSpec, RecordFormat};
use aap_types::{ExitCode, Problem, StreamName};
use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema};

/// The time that the decoder gives to a record which states none: no record states it.
const UNSTATED: i64 = i64::MIN;

/// Makes batches; knows the columns that each topic has had.
#[derive(Debug, Default)]
pub(super) struct Rows {
    name: String,
    spec: Option<KafkaSourceSpec>,
    decoders: HashMap<String, Decoder>,
}

/// A batch and its stream.
pub(crate) type Made = (StreamName, EncodedBatch);

impl Rows {
    pub(super) fn new(name: String, spec: KafkaSourceSpec) -> Self {
        Self { name, spec: Some(spec), decoders: HashMap::new() }
    }

    /// The batches of a chunk. Takes as long as decoding and compressing: call it on the blocking pool.
    pub(super) fn batches(mut self, chunk: &Chunk, now_us: i64) -> (Self, Result<Vec<Made>, Problem>) {
        let made = self.make(chunk, now_us);
        (self, made)
    }

    fn make(&mut self, chunk: &Chunk, now_us: i64) -> Result<Vec<Made>, Problem> {
        let Some(spec) = &self.spec else { return Ok(vec![]) };
        let stream = spec.stream_of(&chunk.topic).map_err(|why| failed(&std::io::Error::other(why)))?;
        let (format, metadata) = (spec.format, spec.metadata);
        let mut batches = vec![];
        let mut bad = vec![];
        match format {
            RecordFormat::Text => batches.push(text(chunk, now_us)?),
            RecordFormat::Json => self.json(chunk, now_us, &mut batches, &mut bad)?,
        }
        let mut made = vec![];
        for (batch, lines) in batches {
            let batch = if metadata { with_metadata(&batch, chunk, &lines)? } else { batch };
            let bytes = lines.iter().map(|line| chunk.value(*line as usize).len() as u64).sum();
            made.push((stream.clone(), encode(&batch, bytes)?));
        }
        if !bad.is_empty() {
            let bytes = bad.iter().map(|bad| bad.text.len() as u64).sum();
            let letters =
                dead_letters(&bad, stream.as_str(), &self.name, now_us).map_err(|error| failed(&error))?;
            made.push((stream.dead_letters(), encode(&letters, bytes)?));
        }
        Ok(made)
    }

    fn json(
        &mut self,
        chunk: &Chunk,
        now_us: i64,
        batches: &mut Vec<(RecordBatch, Vec<u32>)>,
        bad: &mut Vec<BadRow>,
    ) -> Result<(), Problem> {
        let decoder = match self.decoders.entry(chunk.topic.clone()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let config = DecoderConfig::of(Format::Ndjson);
                new.insert(Decoder::new(config).map_err(|error| failed(&error))?)
            }
        };
        let context = Context { observed_us: UNSTATED, ..Context::default() };
        let (mut at, mut first) = (0, 0_u32);
        while at < chunk.text.len() {
            let text = &chunk.text[at..];
            let decoded = decoder.decode(text, &context).map_err(|error| failed(&error))?;
            let lines = decoded.lines(text);
            let lines =
                lines.ok_or_else(|| failed(&std::io::Error::other("rows and records do not agree")))?;
            let lines: Vec<u32> = lines.into_iter().map(|line| first + line).collect();
            let read = usize::try_from(decoded.raw_bytes).unwrap_or(usize::MAX).min(text.len());
            if read == 0 {
                break;
            }
            first += memchr::memchr_iter(b'\n', &text[..read]).count() as u32;
            at += read;
            if !lines.is_empty() {
                batches.push((with_times(&decoded.batch, chunk, &lines, now_us)?, lines));
            }
            bad.extend(decoded.bad);
        }
        Ok(())
    }
}

fn text(chunk: &Chunk, now_us: i64) -> Result<(RecordBatch, Vec<u32>), Problem> {
    let lines: Vec<u32> = (0..chunk.len() as u32).collect();
    let times = lines.iter().map(|line| time(chunk, *line, now_us));
    let bodies = lines.iter().map(|line| String::from_utf8_lossy(chunk.value(*line as usize)));
    let columns: [(&str, ArrayRef); 2] = [
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))),
        ("body", Arc::new(StringArray::from_iter_values(bodies))),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|error| failed(&error))?;
    Ok((batch, lines))
}

/// The time of a record that states none itself.
fn time(chunk: &Chunk, line: u32, now_us: i64) -> i64 {
    match chunk.times_us[line as usize] {
        0 => now_us,
        known => known,
    }
}

/// Gives each row that states no time that of its record.
fn with_times(
    batch: &RecordBatch,
    chunk: &Chunk,
    lines: &[u32],
    now_us: i64,
) -> Result<RecordBatch, Problem> {
    let stated = batch.column(0).as_primitive::<TimestampMicrosecondType>();
    let times = stated.values().iter().zip(lines).map(|(stated, line)| match *stated {
        UNSTATED => time(chunk, *line, now_us),
        stated => stated,
    });
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(times);
    RecordBatch::try_new(batch.schema(), columns).map_err(|error| failed(&error))
}

/// With where each record stood, unless a field of its own has that name.
fn with_metadata(batch: &RecordBatch, chunk: &Chunk, lines: &[u32]) -> Result<RecordBatch, Problem> {
    let rows = || lines.iter().map(|line| *line as usize);
    let mut keys = StringBuilder::new();
    rows().for_each(|row| keys.append_option(chunk.keys[row].as_deref()));
    let columns: [(&str, ArrayRef); 4] = [
        ("kafka_topic", Arc::new(StringArray::new_repeated(&chunk.topic, lines.len()))),
        ("kafka_partition", Arc::new(Int32Array::from_iter_values(rows().map(|row| chunk.partitions[row])))),
        ("kafka_offset", Arc::new(Int64Array::from_iter_values(rows().map(|row| chunk.offsets[row])))),
        ("kafka_key", Arc::new(keys.finish())),
    ];
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut arrays = batch.columns().to_vec();
    for (name, array) in columns {
        if !fields.iter().any(|field| field.name().eq_ignore_ascii_case(name)) {
            fields.push(Field::new(name, array.data_type().clone(), true));
            arrays.push(array);
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|error| failed(&error))
}

/// A batch as the buffer keeps it.
pub(super) fn encode(batch: &RecordBatch, raw_bytes: u64) -> Result<EncodedBatch, Problem> {
    let schema = FrameSchema::of(batch.schema());
    Encoder::new().encode(batch, &schema, raw_bytes).map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("source.failed", ExitCode::Failed, "the records of the topic cannot be made rows")
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn chunk(values: &[&str]) -> Chunk {
        let mut chunk = Chunk { topic: "orders".to_owned(), ..Chunk::default() };
        for (at, value) in values.iter().enumerate() {
            chunk.text.extend_from_slice(value.as_bytes());
            chunk.ends.push(chunk.text.len());
            chunk.text.push(b'\n');
            chunk.times_us.push(1_000 * at as i64);
            chunk.partitions.push(3);
            chunk.offsets.push(70 + at as i64);
            chunk.keys.push((at % 2 == 0).then(|| format!("k{at}").into()));
        }
        chunk.next = BTreeMap::from([(3, 70 + values.len() as i64)]);
        chunk
    }

    fn spec(more: &str) -> KafkaSourceSpec {
        serde_norway::from_str(&format!("brokers: ['b:1']\ntopics: [orders]\n{more}")).unwrap()
    }

    #[test]
    fn records_become_rows_with_their_own_time_and_place_and_what_is_no_object_a_dead_letter() {
        let values =
            ["{\"a\":1}", "", "nonsense", "{\"a\":2,\"ts\":\"2026-11-26T10:00:00Z\"}", "[1]", "{\"a\":3}"];
        let mut rows = Rows::new("orders".to_owned(), spec(""));
        let (mut batches, mut bad) = (vec![], vec![]);
        let chunk = chunk(&values);
        rows.json(&chunk, 9, &mut batches, &mut bad).unwrap();
        let (batch, lines) = &batches[0];
        assert_eq!((batches.len(), lines.as_slice(), bad.len()), (1, [0, 3, 5].as_slice(), 2));
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(
            times.values().to_vec(),
            [9, 1_795_687_200_000_000, 5_000],
            "a record without a time has the present one"
        );
        let whole = with_metadata(batch, &chunk, lines).unwrap();
        let offsets = whole.column_by_name("kafka_offset").unwrap();
        assert_eq!(offsets.as_primitive::<arrow_array::types::Int64Type>().values().to_vec(), [70, 73, 75]);
        let (_, made) = rows.batches(&chunk, 9);
        let made: Vec<(String, u32)> =
            made.unwrap().into_iter().map(|(stream, batch)| (stream.to_string(), batch.rows)).collect();
        assert_eq!(made, [("orders".to_owned(), 3), ("orders.dead".to_owned(), 2)]);
    }

    #[test]
    fn texts_stay_whole_whatever_is_in_them() {
        let rows = Rows::new("orders".to_owned(), spec("format: text\nmetadata: false"));
        let chunk = chunk(&["one\ntwo", "", "three"]);
        let (batch, lines) = text(&chunk, 9).unwrap();
        assert_eq!(batch.column(1).as_string::<i32>().value(0), "one\ntwo");
        assert_eq!(lines.len(), 3);
        let (_, made) = rows.batches(&chunk, 9);
        assert_eq!(made.unwrap()[0].1.rows, 3);
    }
}
