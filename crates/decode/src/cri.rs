//! Container logs as Kubernetes writes them: `2016-10-06T00:17:09.669794202Z stdout P the first piece`.
//!
//! A long line comes in pieces tagged `P` and ends with one tagged `F`; pieces of the two streams may alternate. The pieces are
//! joined, and the row has the time of the first. Nothing is held back between calls, so that a position never
//! covers what is only in memory: [`boundary`] ends only where no line is open, and what is open at the end of a call becomes a row.
//!
//! Pod, namespace and container come from the path of the file, in `resource` by their OpenTelemetry names and as columns.

use serde_json::{Map, Value};

use crate::config::Format;
use crate::decoded::{BadRows, Context, DecodeError, Decoded, RowError};
use crate::logs::{clean, lines_of, without_line_end};
use crate::record::Records;
use crate::severity::Severity;
use crate::time::TimeReader;

#[derive(Debug)]
pub(crate) struct CriDecoder {
    records: Records,
    open: [Open; 2],
}

/// The pieces of a line that has not ended.
#[derive(Debug, Default)]
struct Open {
    is_open: bool,
    ts: Option<i64>,
    text: String,
}

/// The two streams of a container.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// One physical line.
struct Piece<'a> {
    time: &'a str,
    stream: usize,
    is_last: bool,
    text: &'a str,
}

/// The end of the last line of `chunk` at which no joined line is open.
pub(crate) fn boundary(chunk: &[u8]) -> usize {
    let (mut open, mut at, mut end) = ([false; 2], 0, 0);
    for line in lines_of(chunk).filter(|line| line.ends_with(b"\n")) {
        at += line.len();
        if let Ok(piece) = piece(&clean(line).0) {
            open[piece.stream] = !piece.is_last;
        }
        if open == [false; 2] {
            end = at;
        }
    }
    end
}

impl CriDecoder {
    pub(crate) fn new(time: TimeReader) -> Self {
        Self { records: Records::logs(None, time), open: Default::default() }
    }

    pub(crate) fn decode<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
        context: &Context<'_>,
    ) -> Result<Decoded, DecodeError> {
        self.records.time.observed(context.observed_us);
        let (mut bad, mut replaced, mut offset, mut number) = (BadRows::within(b""), 0, 0, 0);
        for line in records {
            number += 1;
            let text = without_line_end(line);
            let (clean, invalid) = clean(text);
            replaced += invalid;
            if let Err(reason) = self.line(&clean) {
                bad.push_text(number, offset, reason, text);
            }
            offset += line.len();
        }
        for stream in 0..STREAMS.len() {
            if self.open[stream].is_open {
                // The one column was added with the first row of the decoder's life, so this cannot be refused.
                self.emit(stream).ok();
            }
        }
        let origin = context.path.map(Origin::of_path).unwrap_or_default();
        let resource = origin.resource(context.resource);
        let context = Context { resource: resource.as_deref().or(context.resource), ..*context };
        let constants = [
            ("namespace", origin.namespace.as_deref()),
            ("pod", origin.pod.as_deref()),
            ("container", origin.container.as_deref()),
        ];
        self.records.finish(offset, bad.into_rows(), replaced, &context, &constants)
    }

    fn line(&mut self, line: &str) -> Result<(), RowError> {
        if line.is_empty() {
            return Ok(());
        }
        let piece = piece(line)?;
        let us = self.records.time.text(piece.time.as_bytes()).ok_or(error("a time that cannot be read"))?;
        let open = &mut self.open[piece.stream];
        open.ts.get_or_insert(us);
        open.text.push_str(piece.text);
        open.is_open = true;
        if piece.is_last { self.emit(piece.stream) } else { Ok(()) }
    }

    fn emit(&mut self, stream: usize) -> Result<(), RowError> {
        let mut open = std::mem::take(&mut self.open[stream]);
        self.records.stamp(open.ts);
        self.records.severity(Severity::of_line(open.text.as_bytes()));
        self.records.body(open.text.as_bytes());
        self.records.text_field("stream", STREAMS[stream].as_bytes())?;
        self.records.commit();
        open.text.clear();
        self.open[stream] = Open { text: open.text, ..Open::default() };
        Ok(())
    }
}

fn piece(line: &str) -> Result<Piece<'_>, RowError> {
    let mut words = line.splitn(4, ' ');
    let time = words.next().unwrap_or_default();
    let stream = words.next().and_then(|name| STREAMS.iter().position(|known| *known == name));
    let stream = stream.ok_or(error("neither stdout nor stderr after the time"))?;
    // More tags may follow the first, after colons.
    let is_last = match words.next().map(|tags| tags.split(':').next().unwrap_or_default()) {
        Some("F") => true,
        Some("P") => false,
        _ => return Err(error("neither tag F nor P after the stream")),
    };
    Ok(Piece { time, stream, is_last, text: words.next().unwrap_or_default() })
}

/// Whose log a file is.
#[derive(Debug, Default)]
struct Origin {
    namespace: Option<String>,
    pod: Option<String>,
    uid: Option<String>,
    container: Option<String>,
}

impl Origin {
    /// `/var/log/pods/NAMESPACE_POD_UID/CONTAINER/0.log` or `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`.
    fn of_path(path: &str) -> Self {
        Self::of_pod_path(path).or_else(|| Self::of_container_path(path)).unwrap_or_default()
    }

    fn of_pod_path(path: &str) -> Option<Self> {
        let mut parts = path.rsplit('/').skip(1);
        let container = parts.next()?;
        let mut pod = parts.next()?.splitn(3, '_').map(str::to_owned);
        let (namespace, name, uid) = (pod.next()?, pod.next()?, pod.next()?);
        Some(Self {
            namespace: Some(namespace),
            pod: Some(name),
            uid: Some(uid),
            container: Some(container.to_owned()),
        })
    }

    fn of_container_path(path: &str) -> Option<Self> {
        let stem = path.rsplit('/').next()?.strip_suffix(".log")?;
        let mut parts = stem.splitn(3, '_');
        let (pod, namespace) = (parts.next()?, parts.next()?);
        let (container, _id) = parts.next()?.rsplit_once('-')?;
        let owned = |text: &str| Some(text.to_owned());
        Some(Self { namespace: owned(namespace), pod: owned(pod), uid: None, container: owned(container) })
    }

    /// The caller's resource with what the path says.
    fn resource(&self, given: Option<&str>) -> Option<String> {
        self.pod.as_ref()?;
        let mut resource: Map<String, Value> =
            given.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let known = [
            ("k8s.namespace.name", &self.namespace),
            ("k8s.pod.name", &self.pod),
            ("k8s.pod.uid", &self.uid),
            ("k8s.container.name", &self.container),
        ];
        for (name, value) in known {
            if let Some(value) = value {
                resource.insert(name.to_owned(), Value::String(value.clone()));
            }
        }
        Some(Value::Object(resource).to_string())
    }
}

fn error(what: &'static str) -> RowError {
    RowError::Format { format: Format::Cri.words(), what }
}
