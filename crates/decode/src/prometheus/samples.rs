//! The columns of samples.

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

use crate::BATCH_BYTES_MAX;
use crate::builders::{Doubles, Finished, Texts, Times, Truths, Words};
use crate::otlp::ROWS_MAX;
use crate::put::put_string;

/// What a row costs beside its text.
const ROW_BYTES: usize = 64;

/// Samples that become rows of batches.
#[derive(Debug, Default)]
pub struct Samples {
    ts: Times,
    metric: Words,
    value: Doubles,
    unit: Words,
    attributes: Texts,
    kind: Words,
    job: Words,
    instance: Words,
    is_stale: Truths,
    histogram: Texts,
    exemplars: Texts,
    rows: usize,
    bytes: usize,
}

/// One sample.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sample<'a> {
    pub(super) ts_us: i64,
    pub(super) metric: Option<&'a str>,
    pub(super) value: Option<f64>,
    pub(super) unit: Option<&'a str>,
    pub(super) attributes: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) job: Option<&'a str>,
    pub(super) instance: Option<&'a str>,
    /// The series ends here: there is no value.
    pub(super) is_stale: bool,
    pub(super) histogram: Option<&'a str>,
    pub(super) exemplars: Option<&'a str>,
}

impl Sample<'_> {
    /// The bytes of its texts.
    pub(super) fn text(&self) -> usize {
        [self.attributes, self.histogram, self.exemplars, self.metric]
            .into_iter()
            .flatten()
            .map(str::len)
            .sum()
    }
}

impl Samples {
    pub(super) fn push(&mut self, sample: &Sample<'_>) {
        self.ts.push(sample.ts_us);
        self.metric.push(sample.metric);
        self.value.push(sample.value);
        self.unit.push(sample.unit);
        self.attributes.push(sample.attributes);
        self.kind.push(sample.kind);
        self.job.push(sample.job);
        self.instance.push(sample.instance);
        self.is_stale.push(sample.is_stale.then_some(true));
        self.histogram.push(sample.histogram);
        self.exemplars.push(sample.exemplars);
        self.rows += 1;
        self.bytes += sample.text() + ROW_BYTES;
    }

    /// Adds a gauge that the reader itself knows, such as `up`, with the labels of its target.
    pub fn push_own(&mut self, metric: &str, value: f64, labels: &[(String, String)], ts_us: i64) {
        let mut json = Vec::new();
        for (name, value) in labels {
            json.push(if json.is_empty() { b'{' } else { b',' });
            put_string(&mut json, name);
            json.push(b':');
            put_string(&mut json, value);
        }
        if !json.is_empty() {
            json.push(b'}');
        }
        let named =
            |wanted: &str| labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        self.push(&Sample {
            ts_us,
            metric: Some(metric),
            value: Some(value),
            attributes: std::str::from_utf8(&json).ok().filter(|json| !json.is_empty()),
            kind: Some("gauge"),
            job: named("job"),
            instance: named("instance"),
            ..Sample::default()
        });
    }

    /// Whether the rows are to be taken out before there are more.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROWS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Takes the rows out; `None` if there are none.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.rows == 0 {
            return Ok(None);
        }
        (self.rows, self.bytes) = (0, 0);
        let mut batch = Finished::default();
        batch.add("ts", &mut self.ts);
        batch.add("metric", &mut self.metric);
        batch.add("value", &mut self.value);
        batch.add("unit", &mut self.unit);
        batch.add("attributes", &mut self.attributes);
        batch.add("type", &mut self.kind);
        batch.add("job", &mut self.job);
        batch.add("instance", &mut self.instance);
        batch.add("is_stale", &mut self.is_stale);
        batch.add("histogram", &mut self.histogram);
        batch.add("exemplars", &mut self.exemplars);
        batch.batch().map(Some)
    }
}
