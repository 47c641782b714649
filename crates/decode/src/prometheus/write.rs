//! Requests of remote write 1.0, decompressed: series of labels, each with samples, native histograms and exemplars.
//!
//! Metadata of metrics comes in requests of its own and is passed over: it names types and helps, and has no time.

use arrow_array::RecordBatch;

use super::histogram::put_histogram;
use super::samples::{Sample, Samples};
use super::{LABELS_BYTES_MAX, PrometheusError, Taken};
use crate::otlp::TEXT_BYTES_MAX;
use crate::put::{List, put_display, put_double, put_string};
use crate::wire::{Fields, WireError};

/// The value that ends a series: one of the many that are no number.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Why a series cannot be kept.
enum Reject {
    Wire(WireError),
    Why(&'static str),
}

impl From<WireError> for Reject {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// The labels of a series, and what else is the same beside all of its samples.
#[derive(Debug, Default)]
struct Series {
    metric: String,
    attributes: Vec<u8>,
    job: String,
    instance: String,
}

/// Decodes a whole request. Gives each full batch, and the bytes it was made of, to `emit`.
pub fn decode_write<E: From<PrometheusError>>(
    request: &[u8],
    observed_us: i64,
    emit: &mut dyn FnMut(RecordBatch, u64) -> Result<(), E>,
) -> Result<Taken, E> {
    let mut reader = Reader {
        samples: Samples::default(),
        series: Series::default(),
        taken: Taken::default(),
        text_left: TEXT_BYTES_MAX,
        input: 0,
        observed_us,
        emit,
    };
    for field in Fields::of(request) {
        if let (1, series) = field.map_err(PrometheusError::from)? {
            reader.take(series.bytes())?;
        }
    }
    reader.finish()?;
    Ok(reader.taken)
}

struct Reader<'e, E> {
    samples: Samples,
    series: Series,
    taken: Taken,
    text_left: usize,
    input: u64,
    observed_us: i64,
    emit: &'e mut dyn FnMut(RecordBatch, u64) -> Result<(), E>,
}

impl<E: From<PrometheusError>> Reader<'_, E> {
    fn take(&mut self, message: &[u8]) -> Result<(), E> {
        let read = self.series.read(message).and_then(|()| self.rows(message));
        match read {
            Ok(()) => {}
            Err(Reject::Wire(error)) => return Err(PrometheusError::Wire(error).into()),
            Err(Reject::Why(why)) => {
                let rows =
                    Fields::of(message).flatten().filter(|(number, _)| matches!(number, 2 | 4)).count();
                if self.taken.rejected == 0 {
                    self.taken.reason = why.to_owned();
                }
                self.taken.rejected += rows.max(1) as u64;
            }
        }
        self.input += message.len() as u64;
        if self.samples.is_full() {
            self.finish()?;
        }
        Ok(())
    }

    /// Adds a row a sample; exemplars stand beside the last one.
    fn rows(&mut self, message: &[u8]) -> Result<(), Reject> {
        let Self { series, samples, taken, .. } = self;
        let rows = Fields::of(message).flatten().filter(|(number, _)| matches!(number, 2 | 4)).count();
        let cost = series.attributes.len().saturating_mul(rows.max(1));
        if cost > self.text_left {
            return Err(Reject::Why("the request becomes more text than a request may"));
        }
        self.text_left -= cost;
        let (mut list, exemplar_us) = exemplars(message)?;
        let exemplars = list.close();
        let base = Sample {
            metric: Some(series.metric.as_str()).filter(|name| !name.is_empty()),
            attributes: std::str::from_utf8(&series.attributes).ok().filter(|json| !json.is_empty()),
            job: Some(series.job.as_str()).filter(|job| !job.is_empty()),
            instance: Some(series.instance.as_str()).filter(|instance| !instance.is_empty()),
            ..Sample::default()
        };
        let (mut left, mut histogram) = (rows, Vec::new());
        for field in Fields::of(message) {
            let (number, value) = field?;
            let mut sample = match number {
                2 => plain(value.bytes(), base)?,
                4 => {
                    histogram.clear();
                    let (sum, time_ms) = put_histogram(&mut histogram, value.bytes())?;
                    let (ts_us, is_stale) = (time_ms.saturating_mul(1000), sum.to_bits() == STALE);
                    let json = std::str::from_utf8(&histogram).ok().filter(|_| !is_stale);
                    Sample { ts_us, is_stale, histogram: json, kind: Some("histogram"), ..base }
                }
                _ => continue,
            };
            left -= 1;
            sample.exemplars = exemplars.filter(|_| left == 0);
            samples.push(&sample);
            taken.rows += 1;
        }
        if rows == 0 && exemplars.is_some() {
            samples.push(&Sample { ts_us: exemplar_us.unwrap_or(self.observed_us), exemplars, ..base });
            taken.rows += 1;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), E> {
        let input = std::mem::take(&mut self.input);
        match self.samples.finish().map_err(PrometheusError::from)? {
            Some(batch) => (self.emit)(batch, input),
            None => Ok(()),
        }
    }
}

fn plain<'a>(message: &[u8], base: Sample<'a>) -> Result<Sample<'a>, WireError> {
    let (mut value, mut time_ms) = (0.0f64, 0i64);
    for field in Fields::of(message) {
        match field? {
            (1, number) => value = number.double(),
            (2, number) => time_ms = number.signed(),
            _ => {}
        }
    }
    let is_stale = value.to_bits() == STALE;
    Ok(Sample { ts_us: time_ms.saturating_mul(1000), value: (!is_stale).then_some(value), is_stale, ..base })
}

/// The exemplars of a series as a JSON array, and the time of the first.
fn exemplars(message: &[u8]) -> Result<(List, Option<i64>), Reject> {
    let (mut list, mut first_us) = (List::default(), None);
    let (mut labels, mut number) = (Vec::new(), 0.0);
    for field in Fields::of(message) {
        let (3, exemplar) = field? else { continue };
        labels.clear();
        let mut time_ms = 0;
        for field in Fields::of(exemplar.bytes()) {
            match field? {
                (1, label) => put_label(&mut labels, label.bytes())?,
                (2, value) => number = value.double(),
                (3, value) => time_ms = value.signed(),
                _ => {}
            }
        }
        first_us = first_us.or(Some(time_ms.saturating_mul(1000)));
        let out = list.next();
        out.extend_from_slice(b"{\"value\":");
        put_double(out, number);
        out.extend_from_slice(b",\"timestamp_ms\":");
        put_display(out, time_ms);
        if !labels.is_empty() {
            out.extend_from_slice(b",\"labels\":");
            out.extend_from_slice(&labels);
            out.push(b'}');
        }
        out.push(b'}');
    }
    Ok((list, first_us))
}

/// Adds a label to an object that is opened by its first.
fn put_label(out: &mut Vec<u8>, message: &[u8]) -> Result<(), Reject> {
    let (name, value) = label(message)?;
    out.push(if out.is_empty() { b'{' } else { b',' });
    put_string(out, name);
    out.push(b':');
    put_string(out, value);
    Ok(())
}

fn label(message: &[u8]) -> Result<(&str, &str), Reject> {
    let (mut name, mut value) = (&[][..], &[][..]);
    for field in Fields::of(message) {
        match field? {
            (1, text) => name = text.bytes(),
            (2, text) => value = text.bytes(),
            _ => {}
        }
    }
    let text = |bytes| simdutf8::basic::from_utf8(bytes).map_err(|_| Reject::Why("a label is not UTF-8"));
    Ok((text(name)?, text(value)?))
}

impl Series {
    fn read(&mut self, message: &[u8]) -> Result<(), Reject> {
        self.attributes.clear();
        [&mut self.metric, &mut self.job, &mut self.instance].into_iter().for_each(String::clear);
        let mut bytes = 0;
        for field in Fields::of(message) {
            let (1, value) = field? else { continue };
            bytes += value.bytes().len();
            if bytes > LABELS_BYTES_MAX {
                return Err(Reject::Why("the labels of a series have more than 64 KiB"));
            }
            let (name, text) = label(value.bytes())?;
            match name {
                "__name__" => {
                    self.metric.push_str(text);
                    continue;
                }
                "job" => self.job.push_str(text),
                "instance" => self.instance.push_str(text),
                _ => {}
            }
            put_label(&mut self.attributes, value.bytes())?;
        }
        if !self.attributes.is_empty() {
            self.attributes.push(b'}');
        }
        Ok(())
    }
}
