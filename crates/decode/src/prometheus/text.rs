//! The text format 0.0.4 and OpenMetrics, as targets answer a scrape. As Prometheus does, one bad line refuses the whole: half
//! of an answer would look like a target whose series ended.

use arrow_array::RecordBatch;

use super::PrometheusError;
use super::samples::{Sample, Samples};
use crate::put::{put_double, put_string};

/// What a target answered.
#[derive(Debug, Clone, Copy)]
pub struct Exposition<'a> {
    /// The text, decompressed.
    pub text: &'a [u8],
    /// Whether it is OpenMetrics, whose times are in seconds.
    pub is_open_metrics: bool,
    /// Labels of the target, which stand beside each sample; a label of the same name gets `exported_` before it.
    pub labels: &'a [(String, String)],
    /// When it was asked: the time of samples that state none.
    pub scraped_us: i64,
}

/// What may follow the name of a family in the names of its samples.
const SUFFIXES: [&str; 9] =
    ["", "_total", "_bucket", "_count", "_sum", "_created", "_info", "_gcount", "_gsum"];

/// Reads all samples; gives full batches to `emit` and leaves the rest in `samples`. Returns how many there are.
pub fn decode_text<E: From<PrometheusError>>(
    exposition: &Exposition<'_>,
    samples: &mut Samples,
    emit: &mut dyn FnMut(RecordBatch) -> Result<(), E>,
) -> Result<u64, E> {
    let wrong = |line: u64, what| E::from(PrometheusError::Text { line, what });
    let text = simdutf8::basic::from_utf8(exposition.text).map_err(|_| wrong(1, "the text is not UTF-8"))?;
    let mut reader = Reader::of(exposition);
    let mut rows = 0;
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.strip_suffix('\r').unwrap_or(line).trim_matches([' ', '\t']);
        if let Some(comment) = line.strip_prefix('#') {
            if comment.trim() == "EOF" && exposition.is_open_metrics {
                break;
            }
            reader.comment(comment);
        } else if !line.is_empty() {
            reader.sample(line, samples).map_err(|what| wrong(number, what))?;
            rows += 1;
            if samples.is_full()
                && let Some(batch) = samples.finish().map_err(PrometheusError::from)?
            {
                emit(batch)?;
            }
        }
    }
    Ok(rows)
}

struct Reader<'a> {
    exposition: &'a Exposition<'a>,
    /// The family whose samples come now.
    family: &'a str,
    kind: Option<&'a str>,
    unit: Option<&'a str>,
    /// The labels of the target as members of a JSON object.
    target: Vec<u8>,
    attributes: Vec<u8>,
    exemplar: Vec<u8>,
    value: String,
    name: String,
}

/// What is left of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn takes(&mut self, sign: char) -> bool {
        match self.0.strip_prefix(sign) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// What stands before the first of `ends`, or all.
    fn until(&mut self, ends: &[char]) -> &'a str {
        let (taken, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A text behind its opening quote, without escapes.
    fn quoted(&mut self, out: &mut String) -> Result<(), &'static str> {
        out.clear();
        loop {
            out.push_str(self.until(&['"', '\\']));
            if self.takes('"') {
                return Ok(());
            }
            let mut rest = self.0.chars();
            match (rest.next(), rest.next()) {
                (Some('\\'), Some('n')) => out.push('\n'),
                (Some('\\'), Some(other @ ('\\' | '"'))) => out.push(other),
                (Some('\\'), Some(other)) => {
                    out.push('\\');
                    out.push(other);
                }
                _ => return Err("a quote is not closed"),
            }
            self.0 = rest.as_str();
        }
    }

    fn number(&mut self) -> Result<f64, &'static str> {
        self.skip_spaces();
        self.until(&[' ', '\t', '#']).parse().map_err(|_| "a value that is no number")
    }
}

/// Whether a metric or label may have this name without quotes.
fn is_name(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    name.bytes().next().is_some_and(|first| !first.is_ascii_digit()) && name.bytes().all(is_of_name)
}

impl<'a> Reader<'a> {
    fn of(exposition: &'a Exposition<'a>) -> Self {
        let mut target = Vec::new();
        for (name, value) in exposition.labels {
            if !target.is_empty() {
                target.push(b',');
            }
            put_string(&mut target, name);
            target.push(b':');
            put_string(&mut target, value);
        }
        Self {
            exposition,
            family: "",
            kind: None,
            unit: None,
            target,
            attributes: Vec::new(),
            exemplar: Vec::new(),
            value: String::new(),
            name: String::new(),
        }
    }

    /// `TYPE` and `UNIT` say something of the samples that follow; all else is for people.
    fn comment(&mut self, comment: &'a str) {
        let mut words = comment.split_ascii_whitespace();
        let (Some(keyword), Some(family)) = (words.next(), words.next()) else { return };
        let family = family.trim_matches('"');
        if !matches!(keyword, "TYPE" | "UNIT" | "HELP") {
            return;
        }
        if family != self.family {
            (self.family, self.kind, self.unit) = (family, None, None);
        }
        match keyword {
            "TYPE" => self.kind = words.next().filter(|kind| *kind != "untyped" && *kind != "unknown"),
            "UNIT" => self.unit = words.next(),
            _ => {}
        }
    }

    fn sample(&mut self, line: &str, samples: &mut Samples) -> Result<(), &'static str> {
        let mut rest = Rest(line);
        let (mut job, mut instance) = (None, None);
        for (name, value) in self.exposition.labels {
            match name.as_str() {
                "job" => job = Some(value.as_str()),
                "instance" => instance = Some(value.as_str()),
                _ => {}
            }
        }
        self.name.clear();
        self.name.push_str(rest.until(&['{', ' ', '\t']));
        self.attributes.clear();
        rest.skip_spaces();
        if rest.takes('{') {
            let mut attributes = std::mem::take(&mut self.attributes);
            let read = self.labels(&mut rest, &mut attributes, true);
            self.attributes = attributes;
            read?;
        }
        if self.name.is_empty() {
            return Err("a sample without a name");
        }
        if !self.target.is_empty() {
            self.attributes.push(if self.attributes.is_empty() { b'{' } else { b',' });
            self.attributes.extend_from_slice(&self.target);
        }
        if !self.attributes.is_empty() {
            self.attributes.push(b'}');
        }
        let value = rest.number()?;
        rest.skip_spaces();
        let time = rest.until(&[' ', '\t', '#']);
        let ts_us = if time.is_empty() { self.exposition.scraped_us } else { self.time_us(time)? };
        rest.skip_spaces();
        self.exemplar.clear();
        if self.exposition.is_open_metrics && rest.takes('#') {
            self.exemplar(&mut rest)?;
        }
        if !rest.0.is_empty() {
            return Err("more than a value and a time");
        }
        let belongs = self.name.strip_prefix(self.family).is_some_and(|suffix| SUFFIXES.contains(&suffix));
        let is_of_family = belongs && !self.family.is_empty();
        samples.push(&Sample {
            ts_us,
            metric: Some(&self.name),
            value: Some(value),
            unit: self.unit.filter(|_| is_of_family),
            attributes: std::str::from_utf8(&self.attributes).ok().filter(|json| !json.is_empty()),
            kind: self.kind.filter(|_| is_of_family),
            job,
            instance,
            exemplars: std::str::from_utf8(&self.exemplar).ok().filter(|json| !json.is_empty()),
            ..Sample::default()
        });
        Ok(())
    }

    /// The labels behind the opening brace, as members of an object that is opened by the first. A quoted text alone is the name
    /// of the metric.
    fn labels(&mut self, rest: &mut Rest<'_>, out: &mut Vec<u8>, may_name: bool) -> Result<(), &'static str> {
        loop {
            rest.skip_spaces();
            if rest.takes('}') {
                return Ok(());
            }
            let mut label = String::new();
            let is_quoted = rest.takes('"');
            if is_quoted {
                rest.quoted(&mut label)?;
            } else {
                label.push_str(rest.until(&['=', ' ', '\t', '}', ',', '"']));
                if !is_name(&label) {
                    return Err("a label without a name");
                }
            }
            rest.skip_spaces();
            if rest.takes('=') {
                rest.skip_spaces();
                if !rest.takes('"') {
                    return Err("the value of a label is not quoted");
                }
                rest.quoted(&mut self.value)?;
                out.push(if out.is_empty() { b'{' } else { b',' });
                if may_name && self.exposition.labels.iter().any(|(name, _)| *name == label) {
                    label.insert_str(0, "exported_");
                }
                put_string(out, &label);
                out.push(b':');
                put_string(out, &self.value);
            } else if is_quoted && may_name && self.name.is_empty() {
                self.name = label;
            } else {
                return Err("a label without a value");
            }
            rest.skip_spaces();
            if !rest.takes(',') && !rest.0.starts_with('}') {
                return Err("labels are not separated by commas");
            }
        }
    }

    /// Milliseconds; in OpenMetrics seconds.
    fn time_us(&self, time: &str) -> Result<i64, &'static str> {
        const WRONG: &str = "a time that is none";
        if self.exposition.is_open_metrics {
            let seconds: f64 = time.parse().map_err(|_| WRONG)?;
            return if seconds.is_finite() { Ok((seconds * 1e6).round() as i64) } else { Err(WRONG) };
        }
        time.parse::<i64>().ok().and_then(|ms| ms.checked_mul(1000)).ok_or(WRONG)
    }

    /// The one exemplar behind a sample, as an array of one.
    fn exemplar(&mut self, rest: &mut Rest<'_>) -> Result<(), &'static str> {
        rest.skip_spaces();
        if !rest.takes('{') {
            return Err("an exemplar without labels");
        }
        let mut labels = Vec::new();
        self.labels(rest, &mut labels, false)?;
        let value = rest.number()?;
        rest.skip_spaces();
        let time = rest.until(&[' ', '\t']);
        let out = &mut self.exemplar;
        out.extend_from_slice(b"[{\"value\":");
        put_double(out, value);
        if !time.is_empty() {
            out.extend_from_slice(b",\"timestamp\":");
            put_double(out, time.parse().map_err(|_| "the time of an exemplar is none")?);
        }
        if !labels.is_empty() {
            out.extend_from_slice(b",\"labels\":");
            out.extend_from_slice(&labels);
            out.push(b'}');
        }
        out.extend_from_slice(b"}]");
        rest.skip_spaces();
        Ok(())
    }
}
